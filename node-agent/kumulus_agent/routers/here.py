"""The routers that this host needs, kept equal to what the API says of them."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog

from kumulus_agent.failover.keepalived import Keepalived
from kumulus_agent.network.datapath import Datapath
from kumulus_agent.network.state import Neighbour, RouterPort
from kumulus_agent.networks.carried import CarriedNetworks
from kumulus_agent.networks.plan import Here, NetworkFacts
from kumulus_agent.routers import central
from kumulus_agent.routers.desired import HereRouter, router_desired, routers_here
from kumulus_agent.routers.firewall import Firewall
from kumulus_agent.routers.members import GatewayMembers
from kumulus_agent.routers.pair import NETWORK, Pair
from kumulus_agent.routers.paths import RouterPaths
from kumulus_agent.routers.state import Address, RouterDesired
from kumulus_agent.servers.desired import NetworkKey
from kumulus_agent.services.host_service import HostServices
from kumulus_api.floating_ip import FloatingIP, FloatingIPAssignment
from kumulus_api.router import Router, RouterAssignment
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.workqueue import Retry, WorkQueue

_log = structlog.stdlib.get_logger(__name__)
_COMPARE_SECONDS = 120.0
_RETRY_SECONDS = 5.0
_CHANGING_SECONDS = 2.0
_Object = tuple[str, str]


@dataclass(frozen=True, slots=True)
class RouterLink:
    """A link to a router.

    Attributes:
        router: the Router's namespace and name.
        namespace: its network namespace.
        external: whether the link leads out.
        firewall: what is to judge what passes the router.
    """

    router: _Object
    namespace: str
    external: bool
    firewall: Firewall


class Undecided(Exception):
    """Whether this host leads a router out is not known yet."""


class RoutersHere:
    """Keeps the routers of this host, and has their networks carried.

    A router is here while something here uses it; a watch that is interrupted takes nothing away.

    Args:
        client: to reach the API server.
        paths: the actuator.
        networks: those of this host, which ask what routers need of them.
        here: this host.
        members: this host's part in gateways that two hosts share.
    """

    def __init__(
        self, client: KubeClient, paths: RouterPaths, networks: CarriedNetworks, here: Here, members: GatewayMembers
    ) -> None:
        self._here = here
        self._members = members
        self._client = client
        self._paths = paths
        self._networks = networks
        self._routers: dict[_Object, RouterAssignment] = {}
        self._floating: dict[_Object, FloatingIPAssignment] = {}
        self._spare: dict[_Object, FloatingIPAssignment] = {}
        """Floating addresses that come here when this host takes over."""
        self._synced = [asyncio.Event() for _ in range(3)]
        self._needed: dict[str, HereRouter] = {}
        self._with_ports: frozenset[int] = frozenset()
        self._applied: dict[str, RouterDesired] = {}
        self._joined: dict[str, frozenset[int]] = {}
        """By router, networks that were carried for it."""
        self._made: set[str] = set()
        """Routers that this agent has made, or found to be as they should."""
        self.known = asyncio.Event()
        self.queue: WorkQueue[str] = WorkQueue("routers")
        self.others_known = asyncio.Event()
        self.others_known.set()
        self.others: Callable[[], Collection[Pair]] = list
        """Pairs that are no routers', and have links to the hosts' network, too; known once the event is set."""
        self.taken_over_changed: Callable[[], None] = lambda: None
        """Called when `taken_over` may be another."""
        self.router_changed: Callable[[str], None] = lambda _router_id: None
        """Called with a router that was made, changed or removed here, or for which `leads_out` is another."""
        members.changed = self._role_changed
        networks.routed = self

    @property
    def taken_over(self) -> tuple[str, ...]:
        """Routers that lead out here though they are assigned to another host."""
        return self._members.leading(self._pairs())

    def leads_out(self, router_id: str) -> Path | None:
        """Give the file of a router's namespace if this host leads it out now.

        Raises:
            Undecided: that is not known yet; `router_changed` is called when it is.
        """
        router = self._needed.get(router_id)
        if not self.known.is_set() or (router is not None and router_id not in self._made):
            raise Undecided
        if router is None or not router.leads:
            return None
        leads = self._members.leads(router_id) if router.pair is not None else True
        if leads is None:
            raise Undecided
        return self._paths.netns(router_id) if leads else None

    def _pairs(self) -> list[Pair]:
        return [router.pair for router in self._needed.values() if router.pair is not None]

    async def connect_hosts(self) -> None:
        """Have the network by which this host hears others, with all links that it is to have.

        Raises:
            NetworkError: the kernel refused.
        """
        await self.known.wait()
        await self.others_known.wait()
        await self._members.connect([*self._pairs(), *self.others()])

    def _role_changed(self, router_id: str) -> None:
        self._applied.pop(router_id, None)
        self.queue.add(router_id)
        self.taken_over_changed()
        self.router_changed(router_id)

    def ports(self, vni: int) -> tuple[RouterPort, ...]:
        """Give the links of routers to the network."""
        return tuple(port for router in self._needed.values() for number, port in router.ports() if number == vni)

    def transits(self, vni: int) -> frozenset[Neighbour]:
        """Give where gateways are that are reached through the network."""
        return frozenset(
            forward for router in self._needed.values() for number, forward in router.transit() if number == vni
        )

    def taken(self, vni: int) -> frozenset[Neighbour]:
        """Give where they may be instead."""
        return frozenset(
            forward for router in self._needed.values() for number, forward in router.taken() if number == vni
        )

    def audience(self, vni: int) -> frozenset[int]:
        """Give the other networks whose hosts hear through the network where gateways are that may be here."""
        found = (
            {item.vni for item in router.assignment.interfaces}
            for router in self._needed.values()
            if not router.central and router.pair is not None and router.first is not None and router.first.vni == vni
        )
        return frozenset(number for numbers in found for number in numbers - {vni})

    def centres(self, vni: int) -> frozenset[str]:
        """Give where centralised routers of the network are that others have: who asks for them asks there, too."""
        found = (forward for router in self._needed.values() if router.central for forward in router.transit())
        return frozenset(tunnel for number, (_, tunnel) in found if number == vni)

    def answering(self, vni: int) -> dict[str, str]:
        """Give the addresses in the network of routers that are centralised, with their MACs."""
        return central.answering((router.assignment for router in self._needed.values()), vni)

    def moving(self, vni: int) -> frozenset[str]:
        """Give those of them that one of two hosts has."""
        return central.moving((router.assignment for router in self._needed.values()), vni)

    def uses(self, vni: int) -> bool:
        """Tell whether a router here needs the network; as long as that is not known, one may."""
        if vni == NETWORK:
            return not (self.known.is_set() and self.others_known.is_set()) or bool([*self._pairs(), *self.others()])
        return not self.known.is_set() or any(vni in _numbers(router.networks()) for router in self._needed.values())

    def joined(self, vni: int) -> frozenset[int]:
        """Give the other networks that routers here join to the network."""
        interfaces = ({item.vni for item in router.assignment.interfaces} for router in self._needed.values())
        return frozenset(number for found in interfaces if vni in found for number in found - {vni})

    def links(self) -> dict[str, RouterLink]:
        """Give the links of the routers here, by name."""
        named = {assignment.router_id: key for key, assignment in self._routers.items()}
        return {
            port.name: RouterLink(
                named[router_id],
                self._paths.namespace(router_id),
                port.name == router.link("external"),
                central.firewall_of(router.assignment),
            )
            for router_id, router in self._needed.items()
            if router_id in named
            for _, port in router.ports()
        }

    def ports_changed(self) -> None:
        """Take note that other networks than before have ports here."""
        if self._networks.with_ports != self._with_ports:
            self._look()

    def _look(self) -> None:
        """Find out which routers this host needs, and have what differs looked at."""
        if not self.known.is_set():
            return
        former, self._with_ports = self._needed, self._networks.with_ports
        floating = [*self._floating.values(), *self._spare.values()]
        self._needed = routers_here(self._routers.values(), floating, self._with_ports, self._here)
        for router_id in former.keys() | self._needed.keys():
            before, now = former.get(router_id), self._needed.get(router_id)
            if before != now:
                for vni in _changed_networks(before, now):
                    self._networks.queue.add(vni)
                self.queue.add(router_id)
        self.taken_over_changed()

    def network_changed(self, vni: int) -> None:
        """Have the routers of a network looked at, whose ports are others now."""
        for router_id, router in self._needed.items():
            if vni in _numbers(router.networks()):
                self.queue.add(router_id)

    async def follow(self) -> None:
        """Watch routers, and the floating addresses of this host; never returns."""
        own, spare = (f"spec.assignment.{field}={self._here.host}" for field in ("host", "standby"))
        routers, floating, spares = self._synced
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow(Router, "", self._routers, RouterAssignment, routers))
                group.create_task(self._follow(FloatingIP, own, self._floating, FloatingIPAssignment, floating))
                group.create_task(self._follow(FloatingIP, spare, self._spare, FloatingIPAssignment, spares))
                group.create_task(self._keep_comparing())
                group.create_task(self._paths.keep_advertising())
        finally:
            self._members.close()

    async def reconcile(self, router_id: str) -> None:
        """Make one router as it should be, or remove it.

        Raises:
            NetworkError: the kernel refused.
            Retry: a network cannot be had; the rest of the router is there.
        """
        router = self._needed.get(router_id)
        if router is None:
            await self._remove(router_id)
            return
        wanted = router.networks()
        joined = self._joined.get(router_id, frozenset()) | _numbers(wanted)
        self._joined[router_id] = joined
        failures = await self._carry(wanted, router_id)
        facts = {key.vni: known for key in wanted if (known := self._facts(key.vni)) is not None}
        within = _within(router, facts)
        if not router.placed:
            await self._absent(router_id)
        elif not within.placed:
            # Its way out cannot be had now: what is there stays, and judges as it did.
            _log.warning("a centralised router is left as it is", router=router_id)
        elif (desired := router_desired(within, facts)) != self._applied.get(router_id):
            former = self._applied.pop(router_id, None)
            await self.connect_hosts()
            if desired.failover is None:
                await self._members.leave(router_id)
            steps = await self._paths.ensure(desired, former)
            await self._members.join(desired, steps)
            told = _advertised(within, desired, leads=self._members.leads(router_id) is True)
            self._paths.advertise(told, again=former is None and bool(steps))
            self._applied[router_id] = desired
            self._made.add(router_id)
            self.router_changed(router_id)
            # Neighbours are as many as ports: one line tells of all.
            if steps:
                _log.info("router changed", router=router_id, steps=dict(Counter(type(s).__name__ for s in steps)))
        for vni in joined - _numbers(wanted):
            await self._networks.leave(vni)
        self._joined[router_id] = _numbers(wanted)
        if failures:
            raise Retry(_RETRY_SECONDS, failures[0])

    async def sweep(self) -> None:
        """Remove what is left of routers that nothing on this host uses."""
        if not self.known.is_set():
            return
        await self._members.sweep(self._needed.keys())
        for name in await self._paths.sweep(self._needed.keys()):
            _log.info("removed a router that nothing here uses", namespace=name)

    def _facts(self, vni: int) -> NetworkFacts | None:
        """Give what routers have to know of a network, whose neighbours are other routers, too."""
        found = self._networks.facts(vni)
        others = self.answering(vni)
        if found is None or not others:
            return found
        return replace(found, neighbours=found.neighbours | others.items())

    async def _absent(self, router_id: str) -> None:
        """Have no router here, though networks need it."""
        self._applied.pop(router_id, None)
        self._made.discard(router_id)
        await self._members.leave(router_id)
        if await self._paths.remove(router_id):
            _log.info("removed a router that nothing here uses", router=router_id)

    async def _remove(self, router_id: str) -> None:
        await self._absent(router_id)
        for vni in self._joined.get(router_id, frozenset()):
            await self._networks.leave(vni)
        self._joined.pop(router_id, None)
        await self.connect_hosts()
        self.router_changed(router_id)

    async def _carry(self, wanted: Iterable[NetworkKey], router_id: str) -> list[str]:
        """Have the networks here; return why some cannot be."""
        keys = sorted(wanted, key=lambda key: key.vni)
        outcomes = await asyncio.gather(
            *(self._networks.ensure([key], running=True) for key in keys), return_exceptions=True
        )
        failures = []
        for outcome in outcomes:
            if isinstance(outcome, BaseExceptionGroup):
                failures += [str(reason) for reason in outcome.exceptions]
            elif outcome is not None:
                raise outcome
        for failure in failures:
            _log.warning("a network of a router cannot be had", router=router_id, error=failure)
        return failures

    async def _follow(
        self,
        kind: type[Router | FloatingIP],
        selector: str,
        found: dict[_Object, Any],
        model: type[RouterAssignment | FloatingIPAssignment],
        synced: asyncio.Event,
    ) -> None:
        async for event, body in self._client.watch(kind, field_selector=selector):
            if event == "SYNCED":
                synced.set()
                if all(each.is_set() for each in self._synced):
                    self.known.set()
            else:
                key = (body["metadata"].get("namespace") or "", body["metadata"]["name"])
                assignment = (body.get("spec") or {}).get("assignment")
                if event == "DELETED" and getattr(found.get(key), "standby", None) is not None:
                    # Where host and standby change places each leaves one watch and enters the other.
                    asyncio.get_running_loop().call_later(_CHANGING_SECONDS, self._forget, found, key, found[key])
                elif event == "DELETED" or assignment is None:
                    found.pop(key, None)
                else:
                    found[key] = model.model_validate(assignment)
            self._look()

    def _forget(self, found: dict[_Object, Any], key: _Object, known: object) -> None:
        if found.get(key) is known:
            del found[key]
            self._look()

    async def _keep_comparing(self) -> None:
        """Now and then look whether others have changed something, not on all hosts at once."""
        while True:
            await asyncio.sleep(_COMPARE_SECONDS * random.uniform(0.75, 1.25))  # noqa: S311 - spread, no secret
            self._applied.clear()
            self._members.compare()
            for router_id in self._needed:
                self.queue.add(router_id)


def routers_of(
    client: KubeClient, datapath: Datapath, networks: CarriedNetworks, here: Here, run_dir: Path
) -> RoutersHere:
    """Give the routers of this host; `run_dir` is the same path on the host."""
    paths = RouterPaths(datapath)
    keepalived = Keepalived(HostServices(run_dir / "vrrp-services"), run_dir / "vrrp")
    return RoutersHere(client, paths, networks, here, GatewayMembers(keepalived, paths, here))


def _advertised(router: HereRouter, desired: RouterDesired, *, leads: bool) -> RouterDesired:
    """Give what guests are told of: addresses that come and go only while this host has them."""
    if router.pair is None or not router.central:
        return desired
    shared = (item for item in desired.virtual if isinstance(item, Address) and item.link != router.pair.link)
    return replace(desired, addresses=frozenset(shared) if leads else frozenset())


def _numbers(keys: Iterable[NetworkKey]) -> frozenset[int]:
    return frozenset(key.vni for key in keys)


def _changed_networks(before: HereRouter | None, now: HereRouter | None) -> frozenset[int]:
    """Give the networks that a router's change concerns: all that it joins if these are others."""
    former, joined = (_numbers(router.networks()) if router is not None else frozenset() for router in (before, now))
    return frozenset(vni for vni, _ in _joining(before) ^ _joining(now)) | (former ^ joined and former | joined)


def _joining(router: HereRouter | None) -> frozenset[tuple[int, Any]]:
    """What a router asks of networks."""
    return frozenset([*router.ports(), *router.transit(), *router.taken()]) if router is not None else frozenset()


def _within(router: HereRouter, facts: dict[int, NetworkFacts]) -> HereRouter:
    """Leave out what lies in networks that cannot be had now."""
    assignment = router.assignment
    gateway = assignment.gateway
    there = assignment.model_copy(
        update={
            "interfaces": [interface for interface in assignment.interfaces if interface.vni in facts],
            "gateway": gateway if gateway is None or not router.out or gateway.vni in facts else None,
        }
    )
    return HereRouter(router.here, there, router.floating)
