"""Keeps this machine's Host: made if absent, its status written when it says something new."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import structlog

from kumulus_agent import metrics
from kumulus_agent.compute.abilities import Abilities
from kumulus_agent.compute.errors import HypervisorError
from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.compute.state import PowerState
from kumulus_agent.host.processors import Processors, processors
from kumulus_agent.hosts.disk_probe import probe
from kumulus_agent.hosts.plan import (
    Facts,
    Machine,
    SelfTest,
    acknowledged,
    differs,
    host_status,
    own_status,
    remembered_self_test,
)
from kumulus_agent.hosts.shares import ShareLook, share_folders
from kumulus_agent.hosts.storage import pressing, read_folders, told_usage
from kumulus_agent.network.errors import NetworkError
from kumulus_agent.networks.reach import mappings_of
from kumulus_agent.passthrough.source import HostDeviceSource
from kumulus_agent.servers.instances import Instances
from kumulus_agent.servers.report import MANAGER
from kumulus_agent.settings import AgentSettings
from kumulus_agent.storage import ballast
from kumulus_agent.storage.room import Room
from kumulus_api import Host, VolumeClass
from kumulus_api.host import ConsoleEndpoint, HostConditionType, UnclaimedInstance
from kumulus_api.image_store import KeptImage
from kumulus_api.passthrough import FoundDevices
from kumulus_api.provider import PhysicalNetwork
from kumulus_api.storage_usage import StorageUsage
from kumulus_runtime.api_client import AlreadyExists, KubeClient
from kumulus_runtime.conditions import get_condition
from kumulus_runtime.store import Store

_log = structlog.stdlib.get_logger(__name__)


async def _nothing_to_remove() -> object:
    return ()


LOOK_AGAIN = 60.0
"""Seconds between two looks at what no event tells of."""


@dataclass
class HostController:
    """The agent's own Host.

    Attributes:
        self_test: its result; None until it has run.
        missing_packages: looks for what is not installed.
        requeue: asks for the Servers of instances to be looked at, by instance id.
        physical: looks which physical networks are reached; None before that can be told.
        taken_over: gives the routers that lead out here instead of on the host that they are assigned to.
        images: gives the images that it keeps; None before that is known.
        console: where the guests' consoles are served; None where they cannot be.
        adopted: all that runs here has been looked at; until then what a former agent reported as unclaimed stands.
        enlarge: makes the kernel's tables as large as they should be, and gives those where it may not; None before it
            can be done. Others set them, too: kube-proxy does when it starts.
        make_room: removes images that nothing needs; gives which.
    """

    settings: AgentSettings
    client: KubeClient
    store: Store
    hypervisor: Hypervisor
    instances: Instances
    machine: Machine
    missing_packages: Callable[[], Awaitable[tuple[str, ...]]]
    requeue: Callable[[str], None]
    physical: Callable[[], Awaitable[tuple[PhysicalNetwork, ...] | None]]
    host_devices: HostDeviceSource
    taken_over: Callable[[], tuple[str, ...]] = tuple
    images: Callable[[], tuple[KeptImage, ...] | None] = lambda: None
    self_test: SelfTest | None = None
    console: ConsoleEndpoint | None = None
    adopted: bool = False
    enlarge: Callable[[], tuple[str, ...]] | None = None
    make_room: Callable[[], Awaitable[object]] = _nothing_to_remove
    _abilities: Abilities = field(default_factory=Abilities)
    _shares: ShareLook = field(default_factory=ShareLook)
    _asked: tuple[str, float] = ("", 0.0)
    """How guests ran when libvirt was last asked for its abilities, and when that was (monotonic seconds)."""

    @property
    def processors(self) -> Processors:
        """Give the CPUs, as the Host divides them now."""
        spec = (self.store.get(Host, self.settings.node_name) or {}).get("spec") or {}
        return processors(self.machine.online, spec.get("dedicatedCPUs"))

    @property
    def mappings(self) -> dict[str, str] | None:
        """Give the interface of each physical network, as the Host says now; None before it has been read."""
        body = self.store.get(Host, self.settings.node_name)
        return mappings_of(body.get("spec") or {}, self.settings.mappings) if body is not None else None

    async def reconcile(self, name: str) -> float | None:
        """Look at the host and tell."""
        body = self.store.get(Host, name) or await self._ensure()
        facts = await self._facts(body)
        old = own_status(body.get("status") or {})
        status = host_status(body["metadata"]["generation"], old, facts)
        if differs(status, old):
            metadata = {"name": name, "uid": body["metadata"]["uid"]}
            written = await self.client.apply_status(Host, {"metadata": metadata, "status": status}, manager=MANAGER)
            metrics.STATUS_WRITES.labels(kind="Host").inc()
            self.store.apply("MODIFIED", written)
        return LOOK_AGAIN

    async def _ensure(self) -> dict[str, Any]:
        """Give the Host as the API server has it; make it if there is none."""
        name = self.settings.node_name
        body = await self.client.get(Host, name)
        if body is None:
            try:
                body = await self.client.create(Host, {"metadata": {"name": name}, "spec": {}})
                _log.info("made the Host", host=name)
            except AlreadyExists:
                body = await self.client.get(Host, name)
        self.store.apply("MODIFIED", body or {})
        return body or {}

    async def _facts(self, body: dict[str, Any]) -> Facts:
        old = body.get("status") or {}
        self_test = self.self_test or remembered_self_test(old, self.machine.boot_id)
        libvirt = qemu = ""
        epochs: dict[str, int] | None = None
        # What libvirt does not tell now is as it was.
        told = old.get("devices")
        devices = FoundDevices.model_validate(told) if told is not None else None
        try:
            versions = await self.hypervisor.versions()
            libvirt, qemu = (".".join(map(str, number)) for number in (versions.libvirt, versions.qemu))
            states = (await self.hypervisor.observe()).instances
            await self._ask_abilities(self_test.virtualization if self_test is not None else "")
            devices = await self.host_devices.told()
            epochs = {instance_id: state.epoch for instance_id, state in states.items()}
            for power in PowerState:
                count = sum(state.state is power for state in states.values())
                metrics.INSTANCES.labels(power_state=power.value).set(count)
        except HypervisorError as error:
            _log.warning("hypervisor not reached", error=str(error))
        metrics.HYPERVISOR_UP.set(1 if libvirt else 0)
        revoked = (body.get("spec") or {}).get("revoked") or []
        remains = await asyncio.to_thread(self._directories) if revoked else frozenset()
        # Without a look at libvirt nothing is shown to be gone.
        gone = acknowledged(revoked, epochs, remains) if epochs is not None else ()
        shown = {(entry.instance_id, entry.epoch) for entry in gone}
        for entry in revoked:
            if (entry["instanceID"], entry["epoch"]) not in shown:
                self.requeue(entry["instanceID"])
        storage, pressed = await self._storage(old)
        folders = share_folders(self.store.list(VolumeClass))
        return Facts(
            machine=self.machine,
            storage=storage,
            pressed=pressed,
            shares=await self._shares.told(folders, old.get("shares") or []),
            tunnel_address=self.settings.underlay_address,
            libvirt=libvirt,
            qemu=qemu,
            missing_packages=await self.missing_packages(),
            self_test=self_test,
            disk_trouble=await probe(self.settings.state_dir),
            unclaimed=self._unclaimed(old),
            gone=gone,
            console=self.console,
            abilities=self._abilities,
            dedicated=len(self.processors.dedicated),
            physical=await self._physical(old),
            devices=devices,
            taken_over=self.taken_over(),
            images=self._images(old),
            small_tables=await asyncio.to_thread(self.enlarge) if self.enlarge is not None else None,
        )

    async def _storage(self, old: dict[str, Any]) -> tuple[tuple[StorageUsage, ...], tuple[Room, ...]]:
        """Look at the folders, and have images removed that nothing needs if there is little room."""
        await asyncio.to_thread(ballast.load, self.settings.state_dir)
        found = await asyncio.to_thread(read_folders, self.settings.state_dir)
        condition = get_condition(list(old.get("conditions") or []), HostConditionType.DISK_PRESSURE) or {}
        before = condition.get("status") == "True"
        pressed = pressing(found, before=before)
        if pressed and await self.make_room():
            found = await asyncio.to_thread(read_folders, self.settings.state_dir)
            pressed = pressing(found, before=before)
        for folder in found:
            for what, amount in folder.amounts.items():
                metrics.STORAGE.labels(folder=folder.name.value, what=what).set(amount)
        own = (self.store.get(Host, self.settings.node_name) or {}).get("spec") or {}
        ratio = (own.get("overcommit") or {}).get("disk") or f"{self.settings.disk_overcommit:g}"
        return told_usage(found, old.get("storage") or [], ratio), pressed

    async def _physical(self, old: dict[str, Any]) -> tuple[PhysicalNetwork, ...]:
        """Give what is reached; what a former look has told stands while there is nothing to look with."""
        try:
            found = await self.physical()
        except NetworkError as error:
            _log.warning("the host's interfaces could not be read", error=str(error))
            found = None
        if found is None:
            return tuple(PhysicalNetwork.model_validate(item) for item in old.get("physicalNetworks") or [])
        return found

    async def _ask_abilities(self, virt: str) -> None:
        """Ask libvirt what it can give guests; seldom, as it changes only when somebody installs something."""
        now = time.monotonic()
        if virt and (self._asked[0] != virt or now - self._asked[1] > LOOK_AGAIN / 2):
            self._abilities = await self.hypervisor.abilities(virt)
            self._asked = (virt, now)

    def _images(self, old: dict[str, Any]) -> tuple[KeptImage, ...]:
        found = self.images()
        return found if found is not None else tuple(map(KeptImage.model_validate, old.get("images") or []))

    def _unclaimed(self, old: dict[str, Any]) -> tuple[UnclaimedInstance, ...]:
        found = dict(self.instances.unclaimed)
        if not self.adopted:
            for item in old.get("unclaimedInstances") or []:
                reported = UnclaimedInstance.model_validate(item)
                found.setdefault(reported.instance_id, reported)
        return tuple(found.values())

    def _directories(self) -> frozenset[str]:
        directory = self.settings.instances_dir
        return frozenset(entry.name for entry in directory.iterdir()) if directory.exists() else frozenset()
