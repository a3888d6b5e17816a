"""Looking at one instance: its domain, its taps, its files, and what the API says of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.compute.state import InstanceState, PowerState
from kumulus_agent.network.datapath import Datapath
from kumulus_agent.networks.carried import CarriedNetworks
from kumulus_agent.servers.desired import Desired, Key, read_desired
from kumulus_agent.servers.instance_files import instance_files
from kumulus_agent.servers.instances import Instances
from kumulus_agent.servers.plan import Claim, Observed, Power
from kumulus_agent.settings import AgentSettings
from kumulus_api import Host, Server
from kumulus_api.server import ReadyReason
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.conditions import get_condition
from kumulus_runtime.store import Store

_POWER = {
    PowerState.RUNNING: Power.RUNNING,
    PowerState.PAUSED: Power.PAUSED,
    PowerState.SUSPENDED: Power.PAUSED,
    PowerState.STOPPING: Power.STOPPING,
    PowerState.OFF: Power.OFF,
    PowerState.CRASHED: Power.CRASHED,
}

# A libvirtd that comes back and cannot reach a guest's monitor, as a rule because QEMU is dead, ends the guest.
_CRASHED = frozenset({"Crashed", "Failed", "HypervisorDaemon"})

_TOLD = frozenset({ReadyReason.RUNNING, ReadyReason.PAUSED, ReadyReason.STOPPED_BY_GUEST})


@dataclass(frozen=True, slots=True)
class Sighting:
    """An instance as it is, as libvirt tells it, and what the API wants of it."""

    instance_id: str
    state: InstanceState | None
    observed: Observed
    claim: Claim
    desired: Desired | None


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

    async def look(self, key: Key, instance_id: str, stored: Desired | None) -> Sighting:
        """Look at one instance.

        Args:
            key: the Server that it was started for, or shall be.
            instance_id: the instance.
            stored: what the watch has shown of the Server, if it is assigned.
        """
        state = await self.hypervisor.get_instance(instance_id)
        remains = await asyncio.to_thread(instance_files(self.settings.instances_dir, instance_id).exist)
        claim, desired = await self._claim(key, instance_id, stored, here=state is not None or remains)
        power = Power.ABSENT if state is None else power_of(state)
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
            told_generation=self._told_generation(key),
        )
        return Sighting(instance_id, state, observed, claim, desired)

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
        host = ((body["spec"].get("assignment") or {}).get("host")) or ""
        if live is None or live.instance_id != instance_id or host != self.settings.node_name:
            return Claim.ELSEWHERE, None
        return (Claim.DELETING if live.deleting else Claim.OURS), live

    async def _plugged(self, desired: Desired | None, power: Power) -> frozenset[str]:
        # A new instance has no taps, and reading the whole datapath costs more than any other look.
        if desired is None or not desired.ports or power is Power.ABSENT:
            return frozenset()
        links = (await self.datapath.observe()).links
        return frozenset(port.tap for port in desired.ports if port.tap in links and links[port.tap].master is not None)

    def _told_generation(self, key: Key) -> int:
        status = (self.store.get(Server, key[1], key[0]) or {}).get("status") or {}
        ready = get_condition(status.get("conditions") or [], "Ready") or {}
        return int(status.get("observedGeneration", 0)) if ready.get("reason") in _TOLD else 0

    def _revoked(self, instance_id: str, epoch: int) -> bool:
        host = self.store.get(Host, self.settings.node_name)
        entries = ((host or {}).get("spec") or {}).get("revoked") or []
        return any(entry["instanceID"] == instance_id and entry["epoch"] >= epoch for entry in entries)


def power_of(state: InstanceState) -> Power:
    """Say what an instance does; one that went off though nobody asked it to, by itself or by libvirtd, has crashed."""
    if state.state is PowerState.OFF and state.reason in _CRASHED:
        return Power.CRASHED
    return _POWER[state.state]
