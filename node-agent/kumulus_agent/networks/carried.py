"""The networks with a port on this host: watched while there is one, gone with the last."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace

import structlog

from kumulus_agent import metrics
from kumulus_agent.network.datapath import Datapath
from kumulus_agent.network.errors import NetworkError
from kumulus_agent.network.groups import GroupKey, GroupRule, SecurityGroup
from kumulus_agent.network.state import NetworkDesired, PortDesired, Uplink
from kumulus_agent.networks.groups import WatchedGroups
from kumulus_agent.networks.held import HeldPort, PortsOfTaps, port_desired
from kumulus_agent.networks.known import Carried
from kumulus_agent.networks.members import groups_desired
from kumulus_agent.networks.pauses import restart_pause
from kumulus_agent.networks.plan import (
    Here,
    NetworkFacts,
    network_desired,
    network_facts,
    shared_here,
    tunnels,
)
from kumulus_agent.networks.port_settings import PortKey, PortsHere
from kumulus_agent.networks.ports_of_instances import PortsOfInstances
from kumulus_agent.networks.reach import overlay_obstacle, uplink_of
from kumulus_agent.networks.routed import NoRouters, Routed
from kumulus_agent.servers.desired import DesiredPort, NetworkKey
from kumulus_api import Network, NetworkEndpoints
from kumulus_api.provider import PhysicalNetwork
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.workqueue import WorkQueue

_log = structlog.stdlib.get_logger(__name__)
Look = Callable[[], Awaitable[tuple[PhysicalNetwork, ...] | None]]
_SYNC_SECONDS = 10.0
_PATIENCE_SECONDS = 2.0
"""What is known of a network waits no longer for one of its ports' groups."""
_COMPARE_SECONDS = 60.0
_STEADY_SECONDS = 60.0
"""A DHCP server that has run so long begins anew with the shortest pause."""


class NetworkUnknown(Exception):
    """The API has no such Network, or does not answer."""


class CarriedNetworks:
    """Keeps the datapath equal to what the API says of the networks that guests here use.

    A port counts from `hold` on until `release`; that an object has left a watch takes no port away.

    Args:
        client: to reach the API server.
        datapath: the actuator.
        here: this host.
        physical: looks which physical networks are reached; None before that can be told.
        settings: of the ports here; without them they have none.
    """

    def __init__(
        self, client: KubeClient, datapath: Datapath, here: Here, physical: Look, settings: PortsHere | None = None
    ) -> None:
        self._held = PortsOfTaps(settings)
        self._physical = physical
        self._client = client
        self._datapath = datapath
        self._here = here
        self._ports = PortsOfInstances()
        self._carried: dict[int, Carried] = {}
        self._groups = WatchedGroups(client, self._changed_group)
        self.routed: Routed = NoRouters()
        self.told: Callable[[int], None] = lambda _vni: None
        """Called with the number of a network that has just been applied."""
        self.awaited: list[asyncio.Event] = []
        """Set when others who have ports here have told of those that they had: no network is applied before."""
        self.queue: WorkQueue[int] = WorkQueue("networks")
        datapath.on_server_exit(self._lost_server)

    @property
    def with_ports(self) -> frozenset[int]:
        """VNIs of the networks that guests here have a port in."""
        return self._ports.vnis

    def facts(self, vni: int) -> NetworkFacts | None:
        """Give what routers have to know of a network; None if it has not been applied."""
        carried = self._carried.get(vni)
        applied = carried.applied if carried is not None else None
        return network_facts(applied.mtu, carried.slices.values(), self._ports.on(vni)) if carried and applied else None

    @property
    def applied(self) -> dict[int, tuple[NetworkKey, NetworkDesired]]:
        """The networks that are here, by number, as they were applied last."""
        return {vni: (item.key, item.applied) for vni, item in self._carried.items() if item.applied is not None}

    @property
    def ports_of_taps(self) -> Mapping[str, PortKey]:
        """By tap, namespace and name of its Port, and its MAC."""
        return self._held.keys

    async def leave(self, vni: int) -> None:
        """Let go of a network if neither a port here nor a router uses it; a NetworkError asks to be called again."""
        carried = self._carried.get(vni)
        if carried is not None:
            async with carried.lock:
                if not self._used(vni):
                    await self._drop(carried)

    @property
    def ready(self) -> frozenset[int]:
        """VNIs of the networks that have been applied."""
        return frozenset(vni for vni, carried in self._carried.items() if carried.applied is not None)

    def hold(
        self,
        instance_id: str,
        hostname: str,
        ports: Iterable[DesiredPort],
        rules: Mapping[GroupKey, frozenset[GroupRule]] | None = None,
    ) -> None:
        """Count the ports of an instance as being here; nothing is changed yet.

        Args:
            instance_id: which.
            hostname: the name that DNS answers for.
            ports: all that it has.
            rules: of groups of these ports that no object stands for.
        """
        ports = tuple(ports)
        self._held.hold(self._ports.of(instance_id), ports)
        held = {port.tap: (port.network, port_desired(instance_id, hostname, port)) for port in ports}
        self._ports.put(instance_id, held)
        self._groups.give(rules or {})
        self._follow_groups()
        self.routed.ports_changed()

    def held(self, instance_id: str) -> dict[str, HeldPort]:
        """Give the ports that are held for an instance, by tap."""
        found = self._ports.of(instance_id)
        return {
            tap: HeldPort(key.name, port.mac, self._held.name(tap), port.groups) for tap, (key, port) in found.items()
        }

    async def ensure(self, networks: Iterable[NetworkKey], *, running: bool = False) -> None:
        """Have the networks here, with every port that is held.

        Args:
            networks: which.
            running: it is for a guest that runs: it stays where its physical network is no longer reached.

        Raises:
            NetworkUnreached: this host does not reach a provider network.
            NetworkUnknown: the API does not know one of them, or does not answer in time.
            NetworkError: the datapath failed.
        """
        async with asyncio.TaskGroup() as group:
            for key in networks:
                group.create_task(self._ensure(key, running=running))

    async def release(self, instance_id: str) -> None:
        """Let go of an instance's ports, and of the networks that no other instance here uses.

        Raises:
            NetworkError: the datapath failed; call again.
        """
        await self.retain(instance_id, frozenset())

    async def retain(self, instance_id: str, taps: Collection[str]) -> None:
        """Let go of an instance's ports but these, and of the networks that nothing here uses then.

        Raises:
            NetworkError: the datapath failed; call again.
        """
        held = self._ports.of(instance_id)
        vnis = {key.vni for tap, (key, _) in held.items() if tap not in taps}
        if not vnis:
            return
        self._ports.put(instance_id, {tap: port for tap, port in held.items() if tap in taps})
        self._held.forget(held.keys() - set(taps))
        self._follow_groups()
        self.routed.ports_changed()
        for vni in sorted(vnis):
            carried = self._carried.get(vni)
            if carried is None:
                continue
            async with carried.lock:
                if self._used(vni):
                    self.queue.add(vni)
                    continue
                await self._drop(carried)

    def port_changed(self, namespace: str, name: str) -> None:
        """Have the networks looked at in which a Port says something else now."""
        taps = self._held.changed(namespace, name)
        for vni in self._ports.networks_of(taps):
            self.queue.add(vni)

    async def sweep(self) -> None:
        """Remove what is left of networks that nothing on this host uses: no port is held and no tap plugged."""
        if not self.routed.known.is_set():
            return
        observed = await self._datapath.observe()
        for vni in sorted(observed.networks() - set(self._carried)):
            plugged = any(name.startswith("kt") for name in observed.ports_of(f"kb{vni:06x}"))
            if not plugged and not self.routed.uses(vni):
                _log.info("removing a network that nothing here uses", vni=vni)
                await self._datapath.remove_network(vni)

    async def compare(self) -> None:
        """Have what others have changed in the datapath put right: bridges, forwarding entries, rules, servers.

        Raises:
            NetworkError: the datapath could not be read.
        """
        applied = [carried.applied for carried in self._carried.values() if carried.applied is not None]
        observed = await self._datapath.observe([item.uplink.interface for item in applied if item.uplink is not None])
        for vni, carried in self._carried.items():
            if carried.applied is not None and self._datapath.differs(carried.applied, observed):
                carried.altered = True
                self.queue.add(vni)

    async def keep_comparing(self) -> None:
        """Compare about once a minute, not on all hosts at once; never returns."""
        while True:
            await asyncio.sleep(_COMPARE_SECONDS * random.uniform(0.75, 1.25))  # noqa: S311 - spread, no secret
            try:
                await self.compare()
            except NetworkError as error:
                _log.warning("the datapath could not be compared", error=str(error))

    async def reconcile(self, vni: int) -> None:
        """Apply what the watches have shown."""
        carried = self._carried.get(vni)
        if carried is None:
            return
        with suppress(TimeoutError):  # a port whose group cannot be read takes and makes no connection
            await self._read_groups(vni, _PATIENCE_SECONDS)
        async with carried.lock:
            if self._carried.get(vni) is carried and carried.applied is not None:
                await self._apply(carried)
        self.routed.network_changed(vni)

    def changed_physical(self) -> None:
        """Look at the provider networks again: their interfaces, or what is mapped, have changed."""
        for vni, carried in self._carried.items():
            if carried.applied is not None and carried.applied.provider:
                carried.altered = True
                self.queue.add(vni)

    def changed_underlay(self, address: str) -> None:
        """Take a new tunnel address of this host."""
        self._here = Here(self._here.host, address, self._here.mtu)
        for vni in self._carried:
            self.queue.add(vni)

    async def close(self) -> None:
        """Stop watching; the networks stay."""
        await self._groups.close()
        for carried in self._carried.values():
            await _end(carried.watches)

    async def _ensure(self, key: NetworkKey, *, running: bool) -> None:
        carried = self._carried.get(key.vni)
        if carried is None:
            carried = self._carried[key.vni] = Carried(key)
            self._watch(carried)
        try:
            # Both first lists are awaited: applying less than the API knows would cut off the guests that run.
            async with asyncio.timeout(_SYNC_SECONDS):
                for event in (*carried.synced, self.routed.known, *self.awaited):
                    await event.wait()
            await self._read_groups(key.vni, _SYNC_SECONDS)
        except TimeoutError as error:
            what = f"network {key.namespace}/{key.name}, or a security group of its ports,"
            raise NetworkUnknown(f"{what} could not be read in time") from error
        if carried.network is None:
            raise NetworkUnknown(f"there is no network {key.name} in namespace {key.namespace}")
        async with carried.lock:
            if self._carried.get(key.vni) is not carried:
                raise NetworkUnknown(f"network {key.namespace}/{key.name} was just given up: trying again")
            await self._apply(carried)
            if carried.unreached is not None and not running:
                raise carried.unreached

    async def _apply(self, carried: Carried) -> None:
        vni = carried.key.vni
        ports = await self._held.settled(self._ports.on(vni))
        network = Network.model_validate(carried.network) if carried.network is not None else None
        uplink = await self._uplink(carried, network)
        found = network_desired(vni, network, carried.slices.values(), ports, self._here, uplink=uplink)
        centres = self.routed.centres(vni) if not found.provider else frozenset()
        desired = replace(
            found,
            peers=found.peers | self._audience(vni) | centres,
            centred=bool(centres),
            groups=await self._members(vni, ports),
            routers=self.routed.ports(vni),
            transits=self.routed.transits(vni),
            taken=found.taken | self.routed.taken(vni),
        )
        if desired == carried.applied and not carried.altered:
            return
        # Whatever is found altered from here on is looked at again; and so it is if this fails.
        carried.altered = False
        try:
            steps = await self._datapath.ensure_network(desired)
        except BaseException:
            carried.altered = True
            raise
        carried.applied = desired
        self.told(vni)
        metrics.NETWORKS.set(len(self._carried))
        for step in steps:
            _log.info("network changed", vni=vni, step=type(step).__name__, target=step.target, reason=step.reason)

    def _audience(self, vni: int) -> frozenset[str]:
        """Give the other hosts that have ports behind routers, and have to hear where these lead out, or to what."""
        numbers = set(self.routed.audience(vni))
        carried = self._carried.get(vni)
        if carried is not None and shared_here(carried.slices.values(), self._here):
            numbers |= self.routed.joined(vni)
        numbers &= self._carried.keys()
        return tunnels((body for number in numbers for body in self._carried[number].slices.values()), self._here)

    async def _members(self, vni: int, ports: list[PortDesired]) -> dict[GroupKey, SecurityGroup]:
        """Give the groups of a network's ports here; of other networks a member is one where a router leads there."""
        joined = self.routed.joined(vni)
        found = (self._carried[number] for number in (vni, *sorted(joined)) if number in self._carried)
        slices = [body for carried in found for body in carried.slices.values()]
        behind = await self._held.settled([port for number in sorted(joined) for port in self._ports.on(number)])
        return groups_desired(slices, ports, self._groups.rules, behind)

    async def _uplink(self, carried: Carried, network: Network | None) -> Uplink | None:
        """Give how a provider network is reached, and note why any network is not."""
        carried.unreached = None
        if network is None:
            return None
        if network.spec.provider is None:
            carried.unreached = overlay_obstacle(network.spec.mtu, self._here.mtu)
            return None
        networks = await self._physical()
        if networks is None:
            # To take it for unreached would cut off the guests that run.
            raise NetworkUnknown("it is not known yet which physical networks are mapped on this host: trying again")
        found = uplink_of(network.spec.provider, networks)
        if isinstance(found, Uplink):
            return found
        carried.unreached = found
        return None

    async def _drop(self, carried: Carried) -> None:
        self._carried.pop(carried.key.vni, None)
        await _end(carried.watches)
        await self._datapath.remove_network(carried.key.vni)
        metrics.NETWORKS.set(len(self._carried))

    def _lost_server(self, vni: int, seconds: float) -> None:
        carried = self._carried.get(vni)
        if carried is None:
            return
        carried.deaths = 1 if seconds >= _STEADY_SECONDS else carried.deaths + 1
        carried.altered = True
        pause = restart_pause(carried.deaths)
        _log.warning("the network's DHCP server has ended", vni=vni, after=round(seconds, 1), restart_in=pause)
        metrics.SERVICE_EXITS.labels(service="dns").inc()
        self.queue.add_after(vni, pause)

    def _used(self, vni: int) -> bool:
        return vni in self.with_ports or self.routed.uses(vni)

    def _follow_groups(self) -> None:
        """Watch the groups that ports here are in: read while all else of a server is made ready."""
        self._groups.follow(self._ports.groups)

    async def _read_groups(self, vni: int, seconds: float) -> None:
        """Wait for the groups of a network's ports.

        Raises:
            TimeoutError: the API does not tell.
        """
        async with asyncio.timeout(seconds):
            await self._groups.read({key for port in self._ports.on(vni) for key in port.groups or ()})

    def _changed_group(self, group: GroupKey) -> None:
        """Have the networks looked at that have a port in a group, whose rules are others now."""
        for vni in self._ports.in_group(group):
            self.queue.add(vni)

    def _watch(self, carried: Carried) -> None:
        key = carried.key
        carried.watches = [
            asyncio.create_task(self._follow_network(carried), name=f"watch-network-{key.vni}"),
            asyncio.create_task(self._follow_endpoints(carried), name=f"watch-endpoints-{key.vni}"),
        ]

    async def _follow_network(self, carried: Carried) -> None:
        key = carried.key
        events = self._client.watch(Network, namespace=key.namespace, field_selector=f"metadata.name={key.name}")
        async for kind, body in events:
            if kind == "SYNCED":
                carried.synced[0].set()
            elif kind != "DELETED":  # guests that run keep what they have
                carried.network = body
            self.queue.add(key.vni)

    async def _follow_endpoints(self, carried: Carried) -> None:
        key = carried.key
        selector = f"spec.network.name={key.name}"
        async for kind, body in self._client.watch(NetworkEndpoints, namespace=key.namespace, field_selector=selector):
            if kind == "SYNCED":
                carried.synced[1].set()
            elif kind == "DELETED":
                carried.slices.pop(body["metadata"]["name"], None)
            else:
                carried.slices[body["metadata"]["name"]] = body
            for vni in (key.vni, *self.routed.joined(key.vni)):
                self.queue.add(vni)


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError):
            await task
