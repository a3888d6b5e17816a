"""A packet's way over this host, hop by hop: through its ports, bridges, tunnels and routers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address

from kumulus_agent.network import names
from kumulus_agent.network.errors import NetworkError
from kumulus_agent.network.groups import Flow
from kumulus_agent.network.metadata_link import ADDRESS as METADATA
from kumulus_agent.routers.firewall import chain_of, group_of
from kumulus_agent.routers.here import RouterLink
from kumulus_agent.tracing import told
from kumulus_agent.tracing.forwarding import Outlet, addresses_of, next_hop, outlet
from kumulus_agent.tracing.nft import Frame, Passage, Unjudged, pass_hook
from kumulus_agent.tracing.state import Address, Bridges, Hop, NetworkHere, Object, PortHere, Result, RouterView, World
from kumulus_agent.vpn.config import DEVICE as TUNNEL
from kumulus_api.network_trace import HopKind, LegOutcome, LegStart, TraceLeg, TraceVerdict

_CROSSINGS = 8
"""No packet crosses more routers here; a loop ends."""
_PASSED, _DROPPED, _UNKNOWN = TraceVerdict.PASSED, TraceVerdict.DROPPED, TraceVerdict.UNKNOWN
_AGENT = "read the log of the host's agent, and the conditions of Host and Network"


class _Ended(Exception):
    """The way over this host is over."""

    def __init__(self, outcome: LegOutcome, peer: str = "", vni: int = 0) -> None:
        super().__init__(outcome)
        self.outcome, self.peer, self.vni = outcome, peer, vni


class Walk:
    """One leg of a trace.

    Args:
        world: this host.
        namespace: of the trace: of other projects' ports and routers nothing is told.
        leg: where the packet comes in.
    """

    def __init__(self, world: World, namespace: str, leg: TraceLeg) -> None:
        self._world, self._namespace, self._leg = world, namespace, leg
        self._hops: list[Hop] = []
        self._views: dict[str, RouterView | None] = {}
        self._frame = Frame(_flow(leg), leg.packet.source_mac or "", leg.packet.destination_mac or "")
        self._bridges: Bridges
        self._ports: Mapping[str, PortHere] = {}
        self._networks: Mapping[int, NetworkHere] = {}
        self._routers: Mapping[str, RouterLink] = {}

    async def run(self) -> Result:
        """Follow the packet until it is delivered or dropped, or leaves this host."""
        try:
            await self._follow()
        except _Ended as end:
            return self._result(end)
        except (Unjudged, NetworkError, OSError) as error:
            self._hops.append(Hop(HopKind.HOST, "", _UNKNOWN, f"the kernel's state could not be judged: {error}"))
        return self._result(_Ended(LegOutcome.UNKNOWN))

    def _result(self, end: _Ended) -> Result:
        frame = self._frame
        macs = (frame.source_mac, frame.destination_mac)
        return Result(end.outcome, tuple(self._hops), frame.flow, end.peer, end.vni, macs)

    async def _follow(self) -> None:
        self._bridges = await self._world.bridges()
        self._ports, self._networks = self._world.ports(), self._world.networks()
        self._routers = self._world.router_links()
        await {
            LegStart.PORT: self._from_port,
            LegStart.OVERLAY: self._from_overlay,
            LegStart.EXTERNAL: self._from_outside,
        }[self._leg.start]()
        for _ in range(_CROSSINGS):
            await self._cross()
        self._end(HopKind.ROUTER, "", _DROPPED, "the packet goes round in a circle between routers of this host")

    def _pass(self, what: HopKind, name: str, message: str) -> None:
        self._hops.append(Hop(what, name, _PASSED, message))

    def _end(self, what: HopKind, name: str, verdict: TraceVerdict, message: str, remedy: str = "") -> None:
        """Add the last hop, and end.

        Raises:
            _Ended: always.
        """
        self._hops.append(Hop(what, name, verdict, message, remedy))
        ends = {_PASSED: LegOutcome.DELIVERED, _DROPPED: LegOutcome.DROPPED, _UNKNOWN: LegOutcome.UNKNOWN}
        raise _Ended(ends[verdict])

    def _drop(self, hop: Hop) -> None:
        self._hops.append(hop)
        raise _Ended(LegOutcome.DROPPED)

    async def _from_port(self) -> None:
        wanted: Object = (self._namespace, self._leg.port or "")
        here = next((item for item in self._ports.values() if item.key == wanted), None)
        if here is None:
            message = f"port {wanted[1]} is not on this host: its server does not run"
            self._end(HopKind.SOURCE_PORT, wanted[1], _DROPPED, message, "start the server")
            return
        self._plugged(HopKind.SOURCE_PORT, here)
        self._frame = replace(self._frame, incoming=here.port.tap, source_mac=here.port.mac)
        await self._asked_by_guest(here)

    def _plugged(self, what: HopKind, here: PortHere) -> None:
        """See that a port's tap is where its guest's frames pass."""
        tap, name = here.port.tap, "/".join(here.key)
        link = self._bridges.links.get(tap)
        bridge = names.bridge(here.network.vni)
        if link is None:
            self._end(what, name, _DROPPED, f"the tap {tap} is not on this host: the server does not run", _AGENT)
        elif link.master != bridge:
            message = f"the tap {tap} is not on its network's bridge {bridge}"
            self._end(what, name, _DROPPED, message, _AGENT)
        elif not link.up or not link.carrier:
            message = f"the tap {tap} is down" if not link.up else f"nobody has opened the tap {tap}"
            self._end(what, name, _DROPPED, message, "start the server; if it runs, " + _AGENT)
        else:
            self._pass(what, name, f"the tap {tap} is up and on bridge {bridge} of network {_named(here)}")

    async def _asked_by_guest(self, here: PortHere) -> None:
        """Find out the MAC to which a guest sends, by the routes that its network gives it."""
        target, vni = self._frame.flow.destination, here.network.vni
        network = self._networks.get(vni)
        if network is None:
            self._end(HopKind.NETWORK, _named(here), _DROPPED, "the network is not applied on this host yet", _AGENT)
            return
        service = {subnet.service_address for subnet in network.applied.subnets}
        if target in service or target == METADATA:
            self._frame = replace(self._frame, destination_mac=names.service_mac(vni))
            return
        hop = next_hop(network.applied, self._frame.flow)
        if hop is None:
            message = f"network {_named(here)} gives its guests no route to {target}: its subnet has no gateway"
            remedy = "give the subnet a gateway or a route, and have a Router serve it"
            self._end(HopKind.NETWORK, _named(here), _DROPPED, message, remedy)
            return
        mac = await self._answering(vni, hop) or network.known.get(hop, "")
        if not mac and not network.applied.provider:
            message = f"nobody in network {_named(here)} answers for {hop}, the guest's way to {target}"
            remedy = "look whether a running server has the address"
            if hop != target:
                message = f"the guest's gateway {hop} is nobody's in network {_named(here)}"
                remedy = "give the network a Router with that address, and look at the Router's conditions"
            self._end(HopKind.NETWORK, _named(here), _DROPPED, message, remedy)
        self._frame = replace(self._frame, destination_mac=mac)

    async def _from_overlay(self) -> None:
        vni = self._leg.vni or 0
        device = names.vxlan(vni)
        network, link = self._networks.get(vni), self._bridges.links.get(device)
        if network is None or link is None or not link.up:
            message = f"it comes by VXLAN {vni}, which this host does not have: {device} is not there, or is down"
            self._end(HopKind.TUNNEL, device, _DROPPED, message, _AGENT)
            return
        self._pass(HopKind.TUNNEL, device, f"it comes by VXLAN {vni} from the host before")
        await self._named_receiver(vni)
        self._frame = replace(self._frame, incoming=device)

    async def _from_outside(self) -> None:
        vni = self._leg.vni or 0
        network = self._networks.get(vni)
        port = network.applied.outward if network is not None else None
        link = self._bridges.links.get(port or "")
        if port is None or link is None or not link.up or not link.carrier:
            message = f"it comes by network {vni}, whose physical network this host does not reach now"
            self._end(HopKind.EXTERNAL, port or "", _DROPPED, message, "look at the Host's condition and mappings")
            return
        await self._named_receiver(vni)
        if not self._frame.destination_mac:
            message = f"nobody on this host answers for {self._frame.flow.destination}"
            self._end(HopKind.EXTERNAL, port, _DROPPED, message, _AGENT)
        self._pass(HopKind.EXTERNAL, port, f"it comes by {port} from the physical network")
        self._frame = replace(self._frame, incoming=port)

    async def _named_receiver(self, vni: int) -> None:
        """Find out the receiver's MAC here, where the host before could not know it: routers answer with their own."""
        if not any(entry.mac == self._frame.destination_mac and not entry.peer for entry in self._bridges.entries):
            mac = await self._answering(vni, self._frame.flow.destination)
            self._frame = replace(self._frame, destination_mac=mac or self._frame.destination_mac)

    async def _answering(self, vni: int, address: Address) -> str:
        """Give the MAC with which a router or a port of this host answers for an address in a network; "" if none."""
        bridge = names.bridge(vni)
        for link, router in self._routers.items():
            end = self._bridges.links.get(link)
            if end is not None and end.master == bridge:
                view = await self._view(router.namespace)
                if view is not None and address in view.addresses.get(link, ()):
                    return view.macs.get(link, "")
        for tap, known in addresses_of(self._bridges.rules).items():
            end = self._bridges.links.get(tap)
            if end is not None and end.master == bridge and address in known and tap in self._ports:
                return self._ports[tap].port.mac
        return ""

    async def _view(self, namespace: str) -> RouterView | None:
        if namespace not in self._views:
            self._views[namespace] = await self._world.router(namespace)
        return self._views[namespace]

    async def _cross(self) -> None:
        """Let the packet cross a network of this host."""
        link = self._bridges.links.get(self._frame.incoming)
        network = next((n for n in self._networks.values() if link and n.applied.bridge == link.master), None)
        if link is None or network is None:
            message = f"{self._frame.incoming} is on no bridge of a network of this host"
            self._end(HopKind.NETWORK, self._frame.incoming, _DROPPED, message, _AGENT)
            return
        self._frame = replace(self._frame, mark=0, translated=0, outgoing="")
        self._enter(network)
        way = outlet(self._bridges, network, self._frame, self._ports.keys())
        if way is None:
            message = f"no interface of bridge {network.applied.bridge} leads to {self._frame.destination_mac}"
            self._end(HopKind.NETWORK, _network(network), _DROPPED, message, _AGENT)
            return
        self._guarded(way)
        self._frame = replace(self._frame, outgoing=way.link)
        self._leave(network, way)
        await self._arrive(network, way)

    def _enter(self, network: NetworkHere) -> None:
        """Have the rules judge what comes to a bridge."""
        here = self._ports.get(self._frame.incoming)
        first = self._hook(("bridge",), "prerouting")
        if here is not None and (not first.dropped or first.dropped.startswith(("guest", "nd-"))):
            check = told.checked(here.port, first.dropped, self._frame.flow, self._frame.source_mac)
            self._hops.append(check)
        if first.dropped:
            if here is not None and first.dropped.startswith(("guest", "nd-")):
                raise _Ended(LegOutcome.DROPPED)
            self._drop(told.dropped(HopKind.NETWORK, _network(network), first.dropped))
        second = self._hook(self._families(), "prerouting")
        if here is not None and second.dropped in ("", "refused-egress"):
            groups, passed = network.applied.groups, not second.dropped
            self._hops.append(told.judged(here.port, groups, "egress", self._frame.flow, passed=passed))
            if not passed:
                raise _Ended(LegOutcome.DROPPED)
        elif second.dropped:
            self._drop(told.dropped(HopKind.NETWORK, _network(network), second.dropped))

    def _leave(self, network: NetworkHere, way: Outlet) -> None:
        """Have the rules judge what leaves a bridge."""
        here = self._ports.get(way.link)
        first = self._hook(("bridge",), "forward")
        if first.dropped:
            self._drop(told.dropped(HopKind.NETWORK, _network(network), first.dropped))
        self._pass(HopKind.NETWORK, _network(network), way.message)
        second = self._hook(self._families(), "forward")
        if here is not None and second.dropped in ("", "refused-ingress"):
            groups, passed = network.applied.groups, not second.dropped
            self._hops.append(told.judged(here.port, groups, "ingress", self._frame.flow, passed=passed))
            if not passed:
                raise _Ended(LegOutcome.DROPPED)
        elif second.dropped:
            self._drop(told.dropped(HopKind.NETWORK, _network(network), second.dropped))

    def _families(self) -> tuple[str, str]:
        return ("inet", "ip6" if self._frame.flow.source.version == 6 else "ip")

    def _hook(self, families: tuple[str, ...], hook: str) -> Passage:
        passage = pass_hook(self._bridges.rules, families, hook, self._frame)
        self._frame = passage.frame
        return passage

    def _guarded(self, way: Outlet) -> None:
        """Tell nothing of another project's ports."""
        here = self._ports.get(way.link)
        if here is not None and here.key[0] != self._namespace:
            message = "it goes to a port of another project, whose rules are shown to its own members only"
            self._end(HopKind.DESTINATION_PORT, "", _UNKNOWN, message)

    async def _arrive(self, network: NetworkHere, way: Outlet) -> None:
        here = self._ports.get(way.link)
        if here is not None:
            self._deliver(here)
        elif way.link in self._routers:
            await self._route(way.link)
        elif way.peer:
            message = f"VXLAN {network.key.vni} carries it to host address {way.peer}: {way.why}"
            self._pass(HopKind.TUNNEL, way.link, message)
            raise _Ended(LegOutcome.FORWARDED, way.peer, network.key.vni)
        elif way.link == network.applied.service_link:
            self._end(HopKind.DESTINATION_PORT, way.link, _PASSED, "the network's own services on this host answer it")
        else:
            self._pass(HopKind.EXTERNAL, way.link, f"it leaves by {way.link} as {told.packet(self._frame.flow)}")
            raise _Ended(LegOutcome.LEFT, vni=network.key.vni)

    def _deliver(self, here: PortHere) -> None:
        self._plugged(HopKind.DESTINATION_PORT, here)
        target, name = self._frame.flow.destination, "/".join(here.key)
        known = addresses_of(self._bridges.rules).get(here.port.tap, frozenset())
        paired = any(target in network for network in here.port.ranges)
        if target not in known and not paired and here.port.secured:
            message = f"{target} is none of the port's addresses: its guest is not known to have it"
            self._end(HopKind.DESTINATION_PORT, name, _UNKNOWN, message, "look at the guest's own addresses")
        raise _Ended(LegOutcome.DELIVERED)

    async def _route(self, link: str) -> None:
        """Let a router pass the packet on, or answer it."""
        router = self._routers[link]
        own = router.router[0] == self._namespace
        name = "/".join(router.router) if own else "a router of another project"
        if router.external and not own:
            self._end(HopKind.ROUTER, name, _UNKNOWN, "what a router of another project does is not shown")
        view = await self._view(router.namespace)
        if view is None:
            message = f"its namespace {router.namespace} is not on this host"
            self._end(HopKind.ROUTER, name, _DROPPED, message, "the agent makes it again within two minutes; " + _AGENT)
            return
        own_addresses = frozenset(address for found in view.addresses.values() for address in found)
        before = Frame(self._frame.flow, incoming=link, local=own_addresses)
        frame = self._translated(view, "prerouting", before, name)
        way = await self._world.route(router.namespace, frame.flow, link)
        if way is None:
            message = f"the router has no route to {frame.flow.destination}"
            remedy = "give it an interface in that network, a static route, or an external gateway"
            self._end(HopKind.ROUTER, name, _DROPPED, message, remedy)
            return
        if way.local:
            self._frame = frame
            self._end(HopKind.ROUTER, name, _PASSED, f"{frame.flow.destination} is the router's own address")
        frame = self._filtered(view, replace(frame, outgoing=way.link), router, own=own)
        if way.link == TUNNEL:
            message = "it goes by a VPNConnection to another site, where it is not followed"
            self._end(HopKind.ROUTER, name, _UNKNOWN, message)
        hop = way.via or frame.flow.destination
        mac = await self._next_mac(view, way.link, hop)
        outer = self._routers.get(way.link)
        if not mac and not (outer is not None and outer.external):
            message = f"the router knows nobody on this host or another who has {hop}"
            self._end(HopKind.ROUTER, name, _DROPPED, message, "look whether a running server has the address")
        through = f"by {way.via}" if way.via is not None else "directly"
        self._pass(HopKind.ROUTER, name, f"it is routed {through} to {frame.flow.destination}")
        frame = self._translated(view, "postrouting", frame, name)
        self._frame = Frame(frame.flow, view.macs.get(way.link, ""), mac, way.link)

    def _filtered(self, view: RouterView, frame: Frame, router: RouterLink, *, own: bool) -> Frame:
        """Have the firewall of a centralised router judge the packet, with all else that does so there."""
        name = "/".join(router.router) if own else "a router of another project"
        passage = pass_hook(view.rules, self._families(), "forward", frame)
        asked = [found for chain in passage.path if (found := group_of(chain)) is not None]
        if asked and not own:
            message = "what the firewall of a router of another project does is not shown"
            self._end(HopKind.FIREWALL, name, _UNKNOWN, message)
        for direction, group in asked:
            passed = passage.dropped != chain_of(direction, group)
            hop = told.firewall(router.firewall, direction, group, frame.flow, passed=passed)
            self._hops.append(hop)
            if not passed:
                raise _Ended(LegOutcome.DROPPED)
        if passage.dropped:
            self._drop(told.dropped(HopKind.ROUTER, name, passage.dropped))
        return passage.frame

    def _translated(self, view: RouterView, hook: str, frame: Frame, name: str) -> Frame:
        """Have the router's own rules see the packet."""
        passage = pass_hook(view.rules, self._families(), hook, frame)
        if passage.dropped:
            self._drop(told.dropped(HopKind.ROUTER, name, passage.dropped))
        before, after = frame.flow, passage.frame.flow
        if after.destination != before.destination or after.second != before.second:
            message = f"{_point(before)} leads to {_point(after)}"
            self._pass(HopKind.TRANSLATION, name, message)
        if after.source != before.source:
            self._pass(HopKind.TRANSLATION, name, f"{before.source} leaves as {after.source}")
        return passage.frame

    async def _next_mac(self, view: RouterView, link: str, hop: Address) -> str:
        known = view.neighbours.get((link, hop))
        end = self._bridges.links.get(link)
        network = next((n for n in self._networks.values() if end and n.applied.bridge == end.master), None)
        if known or network is None:
            return known or ""
        return await self._answering(network.key.vni, hop) or network.known.get(hop, "")


def _flow(leg: TraceLeg) -> Flow:
    packet = leg.packet
    source, destination = ip_address(packet.source), ip_address(packet.destination)
    return Flow(packet.protocol, source, destination, packet.first, packet.second)


def _named(here: PortHere) -> str:
    return f"{here.network.namespace}/{here.network.name}"


def _network(network: NetworkHere) -> str:
    return f"{network.key.namespace}/{network.key.name}"


def _point(flow: Flow) -> str:
    return f"{flow.destination} port {flow.second}" if flow.protocol in (6, 17) else str(flow.destination)
