"""Looking at one instance: its domain, its taps, its files, and what the API says of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from kumulus_agent.actions.open import OpenActions
from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.compute.state import InstanceState, PowerState
from kumulus_agent.guest.passwords import Passwords
from kumulus_agent.images.copies import DiskCopies
from kumulus_agent.network.datapath import Datapath
from kumulus_agent.networks.carried import CarriedNetworks
from kumulus_agent.networks.held import HeldPort
from kumulus_agent.passthrough.source import HostDeviceSource
from kumulus_agent.servers.desired import Desired, Key, read_desired
from kumulus_agent.servers.instance_files import instance_files
from kumulus_agent.servers.instances import Instances
from kumulus_agent.servers.journal import Entry, read_entry
from kumulus_agent.servers.terms import Act, Claim, Observed, Power
from kumulus_agent.settings import AgentSettings
from kumulus_agent.storage.room import can_go_on
from kumulus_api import Host, Server
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.store import Store

_POWER = {
    PowerState.RUNNING: Power.RUNNING,
    PowerState.PAUSED: Power.PAUSED,
    PowerState.SUSPENDED: Power.PAUSED,
    PowerState.STOPPING: Power.STOPPING,
    PowerState.OFF: Power.OFF,
    PowerState.CRASHED: Power.CRASHED,
    PowerState.SAVED: Power.SUSPENDED,
}

# A libvirtd that comes back and cannot reach a guest's monitor, as a rule because QEMU is dead, ends the guest.
_CRASHED = frozenset({"Crashed", "Failed", "HypervisorDaemon"})

_BY_REQUEST = frozenset({"User"})


@dataclass(frozen=True, slots=True)
class Sighting:
    """An instance as it is, as libvirt tells it, what the API wants of it, and the act that is under way."""

    instance_id: str
    state: InstanceState | None
    observed: Observed
    claim: Claim
    desired: Desired | None
    act: Act | None = None


@dataclass(frozen=True)
class Observer:
    """Where sightings come from."""

    settings: AgentSettings
    client: KubeClient
    store: Store
    hypervisor: Hypervisor
    datapath: Datapath
    networks: CarriedNetworks
    instances: Instances
    actions: OpenActions
    copies: DiskCopies
    passwords: Passwords
    host_devices: HostDeviceSource

    async def look(self, key: Key, instance_id: str, stored: Desired | None) -> Sighting:
        """Look at one instance.

        Args:
            key: the Server that it was started for, or shall be.
            instance_id: the instance.
            stored: what the watch has shown of the Server, if it is assigned.
        """
        state = await self.hypervisor.get_instance(instance_id)
        files = instance_files(self.settings.instances_dir, instance_id)
        remains = await asyncio.to_thread(files.exist)
        act = await self.actions.of(key, instance_id)
        # An act goes with the Server as it was when the act was opened: a watch may have yet to show that.
        known = stored if act is None else None
        here = act is not None or state is not None or remains
        claim, desired = await self._claim(key, instance_id, known, here=here)
        entry = await read_entry(files, act.uid) if act is not None else Entry()
        power = Power.ABSENT if state is None else power_of(state)
        full = state.full if state is not None else ()
        held = self.networks.held(instance_id)
        passed = state.devices.passed if state is not None and state.devices is not None else ()
        observed = Observed(
            power=power,
            epoch=state.epoch if state else 0,
            off_by_guest=bool(state and state.shutdown_by_guest and power is Power.OFF),
            shutdown_recorded=bool(state and state.guest_shutdown),
            plugged=await self._plugged(desired, power),
            carried=self.networks.ready,
            remains=remains,
            uptime=self.instances.uptime(instance_id),
            stopping_for=self.instances.stopping_for(instance_id),
            revoked=self._revoked(instance_id, state.epoch if state else 0),
            power_changes=state.power_changes if state else None,
            halted=state is not None and state.reason in _BY_REQUEST,
            full=full,
            room=bool(full) and await asyncio.to_thread(can_go_on, full),
            started_for=state.action if state else "",
            rescue=state.rescue if state else "",
            pressed_for=entry.pressed_for,
            rebuilt=entry.rebuilt,
            size=(state.vcpus, state.memory) if state else None,
            devices=state.devices if state else None,
            limits=state.size if state else None,
            slots=state.slots if state else None,
            hardware=state.hardware if state else None,
            held=frozenset(held),
            regrouped=_regrouped(desired, held),
            copy=self.copies.of(act.uid) if act is not None else None,
            agent=bool(state and state.agent),
            attempt=self.passwords.of(act.uid) if act is not None else None,
            asked_devices=self.host_devices.asked(dict(desired.custom), passed) if desired is not None else {},
        )
        return Sighting(instance_id, state, observed, claim, desired, act)

    async def _claim(
        self, key: Key, instance_id: str, stored: Desired | None, *, here: bool
    ) -> tuple[Claim, Desired | None]:
        if stored is not None and stored.instance_id == instance_id and not stored.deleting:
            return Claim.OURS, stored
        if not here and stored is None:
            return Claim.ABSENT, None
        # Whatever ends in destruction, or in the report of an orphan, is read from the API server itself.
        namespace, name = key
        body = await self.client.get(Server, name, namespace)
        if body is None:
            return Claim.ABSENT, None
        live = read_desired(body)
        if live is not None and (live.instance_id, live.target) == (instance_id, self.settings.node_name):
            return Claim.INCOMING, None
        host = ((body["spec"].get("assignment") or {}).get("host")) or ""
        if live is None or live.instance_id != instance_id or host != self.settings.node_name:
            return Claim.ELSEWHERE, None
        return (Claim.DELETING if live.deleting else Claim.OURS), live

    async def _plugged(self, desired: Desired | None, power: Power) -> frozenset[str]:
        # A new instance has no taps.
        if desired is None or power is Power.ABSENT:
            return frozenset()
        return frozenset([port.tap for port in desired.all_ports if await self.datapath.plugged(port.tap)])

    def _revoked(self, instance_id: str, epoch: int) -> bool:
        host = self.store.get(Host, self.settings.node_name)
        entries = ((host or {}).get("spec") or {}).get("revoked") or []
        return any(entry["instanceID"] == instance_id and entry["epoch"] >= epoch for entry in entries)


def _regrouped(desired: Desired | None, held: Mapping[str, HeldPort]) -> frozenset[str]:
    ports = desired.ports if desired is not None else ()
    return frozenset(port.tap for port in ports if port.tap in held and held[port.tap].groups != frozenset(port.groups))


def power_of(state: InstanceState) -> Power:
    """Say what an instance does; one that went off though nobody asked it to, by itself or by libvirtd, has crashed."""
    if state.state is PowerState.OFF and state.reason in _CRASHED:
        return Power.CRASHED
    return _POWER[state.state]
