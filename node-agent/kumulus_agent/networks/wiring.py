"""A host's networks put together: what is carried here, and the routers, load balancers and gateways on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from kumulus_agent.load_balancers.certificates import CertificateSource
from kumulus_agent.load_balancers.haproxy import HAProxies
from kumulus_agent.load_balancers.here import LoadBalancersHere
from kumulus_agent.load_balancers.members import balancer_members
from kumulus_agent.load_balancers.place import Places
from kumulus_agent.network.datapath import Datapath
from kumulus_agent.networks.carried import CarriedNetworks
from kumulus_agent.networks.physical import PhysicalNetworks
from kumulus_agent.networks.plan import Here
from kumulus_agent.networks.port_settings import PortsHere
from kumulus_agent.peering.here import PeeringsHere
from kumulus_agent.peering.links import PeeringLinks
from kumulus_agent.routers.here import routers_of
from kumulus_agent.servers.boot_data import boot_data_source
from kumulus_agent.services.host_service import HostServices
from kumulus_agent.settings import AgentSettings
from kumulus_agent.tracing.controller import Traces
from kumulus_agent.tracing.world import LiveWorld
from kumulus_agent.vpn.wiring import vpns_of
from kumulus_api import Host
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.store import Store
from kumulus_runtime.workqueue import WorkQueue

AT_ONCE = 8
"""Of one project's networks that all have a group whose rules change; the datapath changes them together."""


class NetworksHere:
    """Everything of networks on one host.

    Args:
        settings: of the process.
        client: to reach the API server.
        store: what this host sees of the API.
        datapath: of the host.
        mappings: gives the interfaces of physical networks, by name.
        host_changed: has the own Host told anew.

    Attributes:
        physical: the physical networks that are cabled to this host.
        carried: the networks that are here.
    """

    def __init__(
        self,
        settings: AgentSettings,
        client: KubeClient,
        store: Store,
        datapath: Datapath,
        *,
        mappings: Callable[[], Any],
        host_changed: Callable[[], None],
    ) -> None:
        self._node, self._store, self._host_changed = settings.node_name, store, host_changed
        here = Here(settings.node_name, settings.underlay_address, settings.guest_mtu)
        boot_data = boot_data_source(settings)
        self.physical = PhysicalNetworks(datapath, mappings, self._physical_changed)
        self.carried = CarriedNetworks(client, datapath, here, self.physical.look, PortsHere(client, store))
        self._routers = routers_of(client, datapath, self.carried, here, settings.run_dir)
        world = LiveWorld(datapath.namespace, self.carried, self._routers)
        self._traces = Traces(client, settings.node_name, world)
        self._balancers = LoadBalancersHere(
            client,
            Places(datapath),
            HAProxies(HostServices(settings.run_dir / "services"), settings.run_dir / "lb"),
            self.carried,
            balancer_members(settings.run_dir, self._routers, settings.node_name),
            certificates=CertificateSource(client, boot_data).fetch,
        )
        self._vpns = vpns_of(client, self._routers, boot_data, settings.node_name, settings.run_dir)
        self._peerings = PeeringsHere(client, datapath, self.carried, PeeringLinks(), settings.node_name)
        self._routers.others, self._routers.others_known = lambda: self._balancers.pairs, self._balancers.known
        self._routers.taken_over_changed = self._balancers.taken_over_changed = self._taken_over_changed

    @property
    def queues(self) -> tuple[WorkQueue[Any], ...]:
        """All that is to be looked at."""
        parts = (self.carried, self._routers, self._traces, self._balancers, self._vpns, self._peerings)
        return tuple(part.queue for part in parts)

    def taken_over(self) -> tuple[str, ...]:
        """Name the gateways and load balancers that this host has taken over from another."""
        return self._routers.taken_over + self._balancers.taken_over

    def work(self, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Begin to work; give the tasks that are given a moment to end."""
        followed = (self.physical, self._routers, self._traces, self._balancers, self._vpns, self._peerings)
        for part in followed:
            group.create_task(part.follow())
        group.create_task(self.carried.keep_comparing())
        group.create_task(self._traces.queue.run(self._traces.reconcile, 1))
        return [
            group.create_task(self.carried.queue.run(self.carried.reconcile, AT_ONCE)),
            group.create_task(self._routers.queue.run(self._routers.reconcile, 2)),
            group.create_task(self._balancers.queue.run(self._balancers.reconcile, 4)),
            group.create_task(self._vpns.queue.run(self._vpns.reconcile, 2)),
            group.create_task(self._peerings.queue.run(self._peerings.reconcile, 1)),
        ]

    async def sweep(self) -> None:
        """Remove what is left of routers, load balancers and networks that nothing on this host uses."""
        for part in (self._routers, self._balancers, self._vpns, self._peerings, self.carried):
            await part.sweep()

    async def close(self) -> None:
        """End what asks and listens; networks go on."""
        for part in (self.carried, self._balancers, self._vpns):
            await part.close()

    def _taken_over_changed(self) -> None:
        told = (self._store.get(Host, self._node) or {}).get("status") or {}
        if list(self.taken_over()) != (told.get("takenOver") or []):
            self._host_changed()

    def _physical_changed(self) -> None:
        self._host_changed()
        self.carried.changed_physical()
