"""The peered networks of this host, kept equal to what the API says of them."""

from __future__ import annotations

import asyncio
import random

import structlog

from kumulus_agent.network import namespace
from kumulus_agent.network.errors import NetworkError
from kumulus_agent.networks.carried import CarriedNetworks, NetworkUnknown
from kumulus_agent.peering import place
from kumulus_agent.peering.desired import PeeredHere, peered_here, services_link
from kumulus_agent.peering.links import PeeringLinks
from kumulus_agent.peering.state import PODS, SERVICES, LinkDesired
from kumulus_api import Network
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.workqueue import Retry, WorkQueue

_log = structlog.stdlib.get_logger(__name__)
_COMPARE_SECONDS = 60.0
_RETRY_SECONDS = 5.0
_ALL = "all"
"""The only key: rules and numbers are those of all links together."""


class PeeringsHere:
    """Joins peered networks to the cluster on this host.

    Args:
        client: to reach the API server.
        datapath: where the bridges are.
        networks: those of this host.
        links: to the host's own namespace.
        host: this one's name.
    """

    def __init__(
        self, client: KubeClient, datapath: place.Bridges, networks: CarriedNetworks, links: PeeringLinks, host: str
    ) -> None:
        self._client = client
        self._datapath = datapath
        self._networks = networks
        self._links = links
        self._host = host
        self._known: dict[tuple[str, str], PeeredHere] = {}
        self._held: dict[str, PeeredHere] = {}
        """By what their ports are held by."""
        self._gone: dict[str, PeeredHere] = {}
        self.known = asyncio.Event()
        self.queue: WorkQueue[str] = WorkQueue("peerings")
        # Applying less than the API knows would cut off the pods that reach servers.
        networks.awaited.append(self.known)
        networks.told = self._applied

    async def follow(self) -> None:
        """Watch the networks that pods reach; never returns."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._keep_comparing())

    async def reconcile(self, _key: str) -> None:
        """Have all peered networks joined as they should be, and no others.

        Raises:
            Retry: something cannot be had now; what can be is.
        """
        await self.known.wait()
        failed: list[str] = []
        wanted = [
            *[item for peered in list(self._held.values()) if (item := await self._join(peered, failed)) is not None],
            *self._to_services(),
        ]
        if not wanted and not self._gone and self._links.empty:
            return  # most hosts have no peered network, and need not look at any
        pods = {cidr for peered in self._held.values() for cidr in peered.assignment.pods}
        try:
            for step in await self._links.ensure(wanted, pods, self._undecided):
                _log.info("peering changed", step=type(step).__name__, target=step.target, reason=step.reason)
            await self._release()
        except (NetworkError, OSError) as error:
            failed.append(str(error))
        if failed:
            _log.warning("networks not peered as they should be", error=failed[0], failed=len(failed))
            raise Retry(_RETRY_SECONDS, failed[0])

    async def sweep(self) -> None:
        """Remove what is left of networks that are no longer peered."""
        if not self.known.is_set():
            return
        kept = {self._links.pods_namespace(peered.network.vni) for peered in self._held.values()}
        kept |= {self._links.pods_namespace(peered.network.vni) for peered in self._gone.values()}
        prefix = self._links.pods_prefix
        for file in await asyncio.to_thread(lambda: sorted(namespace.DIRECTORY.glob(f"{prefix}??????"))):
            if len(file.name) == len(prefix) + 6 and file.name not in kept:
                await namespace.absent(file.name)
        self.queue.add(_ALL)

    def _applied(self, vni: int) -> None:
        """Look at a network that was just applied, if it is peered or something here is."""
        applied = self._networks.applied.get(vni)
        if not self._links.empty or (applied is not None and applied[1].services):
            self.queue.add(_ALL)

    async def _join(self, peered: PeeredHere, failed: list[str]) -> LinkDesired | None:
        """Have a network here, and what its pods' port is; give the link to it, if there is anything to lead to."""
        where, vni = self._links.pods_namespace(peered.network.vni), peered.network.vni
        facts = None
        try:
            await self._networks.ensure([peered.network], running=True)
            facts = self._networks.facts(vni)
            if facts is not None and await place.ensure(self._datapath, peered.place(where, facts.mtu)):
                _log.info("the cluster's pods joined a network", vni=vni, network=peered.network.name)
        except (NetworkError, NetworkUnknown, OSError) as error:
            failed.append(str(error))
        except ExceptionGroup as group:
            failed.append(str(group.exceptions[0]))
        if not namespace.exists(where) or facts is None:
            return None
        return peered.link(where, facts.mtu)

    def _to_services(self) -> list[LinkDesired]:
        found = []
        for vni, (_, applied) in self._networks.applied.items():
            where = self._links.services_namespace(vni)
            item = services_link(applied, where) if namespace.exists(where) else None
            if item is not None:
                found.append(item)
        return found

    def _undecided(self, name: str) -> bool:
        """Whether a link is of a network of which it is not known yet if it should have one."""
        vni = int(name[2:], 16)
        if name.startswith(SERVICES):  # those of networks that are here no more have gone with their namespaces
            return vni not in self._networks.applied
        return name.startswith(PODS) and any(peered.network.vni == vni for peered in self._held.values())

    async def _release(self) -> None:
        """Let go of the networks that pods reach no more; their links are gone already."""
        for port_id, peered in list(self._gone.items()):
            await namespace.absent(self._links.pods_namespace(peered.network.vni))
            await self._networks.release(port_id)
            self._gone.pop(port_id, None)

    async def _follow(self) -> None:
        async for event, body in self._client.watch(Network, field_selector="spec.assignment.fromPods=true"):
            if event == "SYNCED":
                self._settle()
                self.known.set()
                continue
            key = (body["metadata"].get("namespace") or "", body["metadata"]["name"])
            here = peered_here(body, self._host) if event != "DELETED" else None
            if here is not None:
                self._known[key] = here
            else:
                self._known.pop(key, None)
            if self.known.is_set():
                self._settle()

    def _settle(self) -> None:
        """Hold the ports of what is here, and have what differs looked at."""
        former, self._held = self._held, {item.port_id: item for item in self._known.values()}
        if former == self._held and self.known.is_set():
            return
        for port_id, peered in self._held.items():
            self._gone.pop(port_id, None)
            if former.get(port_id) != peered:
                self._networks.hold(port_id, peered.hostname, [peered.port()], {peered.own_group: peered.rules()})
        self._gone |= {port_id: peered for port_id, peered in former.items() if port_id not in self._held}
        self.queue.add(_ALL)

    async def _keep_comparing(self) -> None:
        """Now and then look whether others have changed something, not on all hosts at once."""
        while True:
            await asyncio.sleep(_COMPARE_SECONDS * random.uniform(0.75, 1.25))  # noqa: S311 - spread, no secret
            self.queue.add(_ALL)
