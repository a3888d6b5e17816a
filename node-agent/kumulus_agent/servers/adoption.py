"""Taking over what runs here: at the start, after libvirtd was away, and now and then."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

import structlog

from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.host.selftest import SELF_TEST_ID
from kumulus_agent.networks.carried import CarriedNetworks
from kumulus_agent.servers.desired import Key, read_desired
from kumulus_agent.servers.instance_files import instance_files
from kumulus_agent.servers.instances import Instances
from kumulus_agent.settings import AgentSettings
from kumulus_api import Port, Server
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.store import Store
from kumulus_runtime.workqueue import WorkQueue

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True)
class Adoption:
    """Brings the agent's memory in line with the host and the API; it changes no guest."""

    settings: AgentSettings
    client: KubeClient
    store: Store
    hypervisor: Hypervisor
    networks: CarriedNetworks
    instances: Instances
    queue: WorkQueue[Key]

    async def adopt(self) -> None:
        """Look at all domains first, then at all Servers of this host, and queue them all.

        The ports of every domain are held before any network is applied: a network is made to have exactly the ports
        that are held, and no guest may lose its own meanwhile.

        Raises:
            HypervisorError: libvirtd does not answer.
            ApiError: the API server does not.
        """
        domains = (await self.hypervisor.observe()).instances
        await self.refresh()
        await self._read_ports()
        for instance_id, state in domains.items():
            if instance_id == SELF_TEST_ID:
                continue
            self.instances.keys[instance_id] = (state.namespace, state.name)
            await self._hold(instance_id, state.name)
        for instance_id in await asyncio.to_thread(self._directories):
            # Without a domain: half-made starts, and instances whose domain libvirt has lost.
            record = await instance_files(self.settings.instances_dir, instance_id).read_record()
            if record is not None:
                self.instances.keys.setdefault(instance_id, record[0])
        _log.info("adopted", instances=len(self.instances.keys))
        self.enqueue_all()

    async def _read_ports(self) -> None:
        """Read the Ports of this host at once: the watch comes later than the networks, which need them all."""
        bodies, _ = await self.client.list(Port, field_selector=f"spec.assignment.host={self.settings.node_name}")
        for body in bodies:
            self.store.apply("MODIFIED", body)

    async def refresh(self) -> None:
        """Read the Servers of this host and make the store show exactly these."""
        selector = f"spec.assignment.host={self.settings.node_name}"
        bodies, _ = await self.client.list(Server, field_selector=selector)
        seen = set()
        for body in bodies:
            self.store.apply("MODIFIED", body)
            seen.add((body["metadata"]["namespace"], body["metadata"]["name"]))
        for body in self.store.list(Server):
            key = (body["metadata"]["namespace"], body["metadata"]["name"])
            if key not in seen and await self.client.get(Server, key[1], key[0]) is None:
                self.store.apply("DELETED", body)
                self.queue.add(key)

    def enqueue_all(self) -> None:
        """Have every Server of this host, and every domain here, looked at."""
        for body in self.store.list(Server):
            self.queue.add((body["metadata"]["namespace"], body["metadata"]["name"]))
        for key in set(self.instances.keys.values()):
            self.queue.add(key)

    async def _hold(self, instance_id: str, name: str) -> None:
        key = self.instances.keys[instance_id]
        body = self.store.get(Server, key[1], key[0])
        desired = read_desired(body) if body is not None else None
        if desired is not None and desired.instance_id == instance_id:
            ports = desired.all_ports
        else:
            record = await instance_files(self.settings.instances_dir, instance_id).read_record()
            ports = record[1] if record else ()
        self.networks.hold(instance_id, name, ports)

    def _directories(self) -> list[str]:
        names = []
        for entry in sorted(self.settings.instances_dir.iterdir()):
            with suppress(ValueError):
                names.append(str(UUID(entry.name)))
        return names
