"""A packet's way over this host, hop by hop: through its ports, bridges, tunnels and routers."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from kumulus_agent.network import names
from kumulus_agent.network.errors import NetworkError
from kumulus_agent.network.groups import Direction
from kumulus_agent.network.metadata_link import ADDRESS as METADATA
from kumulus_agent.servers.desired import NetworkKey
from kumulus_agent.tracing import answers, told
from kumulus_agent.tracing.connections import NEW
from kumulus_agent.tracing.forwarding import Outlet, addresses_of, next_hop, outlet
from kumulus_agent.tracing.nft import Passage, Unjudged
from kumulus_agent.tracing.routing import Routing
from kumulus_agent.tracing.state import Address, Hop, NetworkHere, Object, PortHere, Result
from kumulus_agent.tracing.way import AGENT, Ended
from kumulus_api.network_trace import HopKind, LegOutcome, LegStart
from kumulus_api.network_trace import TraceVerdict as Verdict

_CROSSINGS = 8
"""No packet crosses more routers here; a loop ends."""


class Walk(Routing):
    """One leg of a trace; see `Way` for what it is made of."""

    async def run(self) -> Result:
        """Follow the packet until it is delivered or dropped, or leaves this host."""
        try:
            await self._follow()
        except Ended as end:
            return self._result(end)
        except (Unjudged, NetworkError, OSError) as error:
            self._hops.append(
                Hop(HopKind.HOST, "", Verdict.UNKNOWN, f"the kernel's state could not be judged: {error}")
            )
        return self._result(Ended(LegOutcome.UNKNOWN))

    async def _follow(self) -> None:
        self._bridges = await self._world.bridges()
        self._ports, self._networks = self._world.ports(), self._world.networks()
        self._routers = self._world.router_links()
        await {
            LegStart.PORT: self._from_port,
            LegStart.OVERLAY: self._from_overlay,
            LegStart.EXTERNAL: self._from_outside,
            LegStart.ROUTER: self._from_router,
            LegStart.SERVICE: self._from_service,
            LegStart.SITE: self._from_site,
            LegStart.SOUGHT: self._from_nowhere,
        }[self._leg.start]()
        for _ in range(_CROSSINGS):
            await self._cross()
        self._end(HopKind.ROUTER, "", Verdict.DROPPED, "the packet goes round in a circle between routers of this host")

    async def _from_port(self) -> None:
        wanted: Object = (self._namespace, self._leg.port or "")
        here = next((item for item in self._ports.values() if item.key == wanted), None)
        if here is None:
            message = f"port {wanted[1]} is not on this host: its server does not run"
            self._end(HopKind.SOURCE_PORT, wanted[1], Verdict.DROPPED, message, "start the server")
        await self._held(HopKind.SOURCE_PORT, here, self._frame.flow.source)
        self._plugged(HopKind.SOURCE_PORT, here)
        self._frame = replace(self._frame, incoming=here.port.tap, source_mac=here.port.mac)
        await self._asked_by_guest(here)

    async def _held(self, what: HopKind, here: PortHere, address: Address) -> None:
        """See that of two hosts that share a port this one has its address now."""
        held = await self._world.holds(here, address)
        if held is None:
            return
        name = "/".join(here.key)
        if held:
            self._pass(what, name, f"of the hosts that share it this one has {address} now, by VRRP")
            return
        remedy = "look at the conditions of the LoadBalancer"
        if what is HopKind.SOURCE_PORT:
            self._waiting(what, name, f"{address} is not on this host now, which waits to take it over", remedy)
        message = f"frames for {address} lead to this host, which waits to take it over and has it not"
        self._end(what, name, Verdict.DROPPED, message, f"ask again: who has it says so every 2 seconds; {remedy}")

    def _plugged(self, what: HopKind, here: PortHere) -> None:
        """See that a port's tap is where its guest's frames pass."""
        tap, name = here.port.tap, "/".join(here.key)
        link = self._bridges.links.get(tap)
        bridge = names.bridge(here.network.vni)
        if link is None:
            self._end(what, name, Verdict.DROPPED, f"the tap {tap} is not on this host: the server does not run", AGENT)
        elif link.master != bridge:
            message = f"the tap {tap} is not on its network's bridge {bridge}"
            self._end(what, name, Verdict.DROPPED, message, AGENT)
        elif not link.up or not link.carrier:
            message = f"the tap {tap} is down" if not link.up else f"nobody has opened the tap {tap}"
            self._end(what, name, Verdict.DROPPED, message, "start the server; if it runs, " + AGENT)
        else:
            self._pass(what, name, f"the tap {tap} is up and on bridge {bridge} of network {_network(here.network)}")

    async def _asked_by_guest(self, here: PortHere) -> None:
        """Find out the MAC to which a guest sends, by the routes that its network gives it."""
        target, vni = self._frame.flow.destination, here.network.vni
        network = self._networks.get(vni)
        if network is None:
            message = "the network is not applied on this host yet"
            self._end(HopKind.NETWORK, _network(here.network), Verdict.DROPPED, message, AGENT)
        hop = next_hop(network.applied, self._frame.flow)
        if hop is None:
            message = (
                f"network {_network(here.network)} gives its guests no route to {target}: its subnet has no gateway"
            )
            remedy = "give the subnet a gateway or a route, and have a Router serve it"
            self._end(HopKind.NETWORK, _network(here.network), Verdict.DROPPED, message, remedy)
        if hop == METADATA or hop in _services(network):
            self._frame = replace(self._frame, destination_mac=names.service_mac(vni))
            return
        mac = self._frame.destination_mac or await self._answering(vni, hop)
        # Of an address that two hosts share, guests hear from the one that has taken it over, and the API later.
        if not mac and (hop not in network.moving or network.applied.provider):
            mac = network.known.get(hop, "") or await self._holding(vni, hop)
        if not mac and not network.applied.provider:
            message = f"nobody in network {_network(here.network)} answers for {hop}, the guest's way to {target}"
            remedy = "look whether a running server has the address"
            if hop != target:
                message = f"the guest's gateway {hop} is nobody's in network {_network(here.network)}"
                remedy = "give the network a Router with that address, and look at the Router's conditions"
            self._hops.append(Hop(HopKind.NETWORK, _network(here.network), Verdict.DROPPED, message, remedy))
            raise Ended(LegOutcome.SOUGHT, vni=vni, sought=str(hop))
        self._frame = replace(self._frame, destination_mac=mac)

    async def _from_nowhere(self) -> None:
        """Look whether a port here has an address that is sought."""
        vni, address = self._leg.vni or 0, self._sent_to()
        network = self._networks.get(vni)
        name = _network(network.key) if network is not None else str(vni)
        mac = await self._answering(vni, address)
        if mac:
            self._pass(HopKind.NETWORK, name, f"this host has {address}, which it shares with another, by {mac}")
        mac = mac or await self._holding(vni, address)
        if not mac:
            message = f"nobody here who may have {address} answers for it"
            self._waiting(HopKind.NETWORK, name, message, "look whether a running server or router has the address")
        self._frame = replace(self._frame, destination_mac=mac)
        raise Ended(LegOutcome.FOUND, vni=vni)

    async def _from_overlay(self) -> None:
        vni = self._leg.vni or 0
        device = names.vxlan(vni)
        network, link = self._networks.get(vni), self._bridges.links.get(device)
        if network is None or link is None or not link.up:
            message = f"it comes by VXLAN {vni}, which this host does not have: {device} is not there, or is down"
            self._end(HopKind.TUNNEL, device, Verdict.DROPPED, message, AGENT)
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
            remedy = "look at the Host's condition and mappings"
            self._end(HopKind.EXTERNAL, port or "", Verdict.DROPPED, message, remedy)
        await self._named_receiver(vni)
        if not self._frame.destination_mac:
            message = f"nobody on this host answers for {self._sent_to()} now"
            self._waiting(HopKind.EXTERNAL, port, message, AGENT)
        self._pass(HopKind.EXTERNAL, port, f"it comes by {port} from the physical network")
        self._frame = replace(self._frame, incoming=port)

    async def _named_receiver(self, vni: int) -> None:
        """Find out the receiver's MAC here, where the host before could not know it: routers answer with their own."""
        if not any(entry.mac == self._frame.destination_mac and not entry.peer for entry in self._bridges.entries):
            mac = await self._answering(vni, self._sent_to())
            self._frame = replace(self._frame, destination_mac=mac or self._frame.destination_mac)

    def _sent_to(self) -> Address:
        """Give the address whose MAC the packet is sent to."""
        return ip_address(self._leg.via) if self._leg.via else self._frame.flow.destination

    async def _from_service(self) -> None:
        """Have a network's own servers answer one of its guests."""
        vni = self._leg.vni or 0
        network = self._networks.get(vni)
        link = network.applied.service_link if network is not None else None
        if link is None or link not in self._bridges.links:
            message = "the network's own services are not on this host any more"
            self._end(HopKind.NETWORK, str(vni), Verdict.DROPPED, message, AGENT)
        mac = await self._answering(vni, self._frame.flow.destination)
        self._pass(HopKind.SOURCE_PORT, link, "the network's own services answer")
        self._frame = replace(self._frame, incoming=link, source_mac=names.service_mac(vni), destination_mac=mac)

    async def _cross(self) -> None:
        """Let the packet cross a network of this host."""
        network = self._network_of(self._frame.incoming)
        if network is None:
            message = f"{self._frame.incoming} is on no bridge of a network of this host"
            self._end(HopKind.NETWORK, self._frame.incoming, Verdict.DROPPED, message, AGENT)
        self._frame = replace(
            self._frame,
            mark=0,
            translated=0,
            outgoing="",
            zone=0,
            state=NEW,
            connection=None,
            known=self._known_at(self._bridges.namespace),
        )
        came, mac = self._frame.flow, self._frame.source_mac
        self._enter(network)
        heard = {item.mac for item in self._frame.known if item.zone == self._frame.zone}
        way = outlet(self._bridges, network, self._frame, self._ports.keys(), heard)
        if way is None:
            message = f"no interface of bridge {network.applied.bridge} leads to {self._frame.destination_mac}"
            self._end(HopKind.NETWORK, _network(network.key), Verdict.DROPPED, message, AGENT)
        self._guarded(way)
        self._frame = replace(self._frame, outgoing=way.link)
        self._leave(network, way)
        self._note(self._bridges.namespace, came, self._frame, mac)
        await self._arrive(network, way)

    def _enter(self, network: NetworkHere) -> None:
        """Have the rules judge what comes to a bridge."""
        here = self._ports.get(self._frame.incoming)
        first = self._hook(self._bridges.rules, ("bridge",), "prerouting")
        if here is not None and (not first.dropped or first.dropped.startswith(("guest", "nd-"))):
            check = told.checked(here.port, first.dropped, self._frame.flow, self._frame.source_mac)
            self._hops.append(check)
        if first.dropped:
            if here is not None and first.dropped.startswith(("guest", "nd-")):
                raise Ended(LegOutcome.DROPPED)
            self._drop(told.dropped(HopKind.NETWORK, _network(network.key), first.dropped))
        self._judged(network, here, "egress", self._hook(self._bridges.rules, self._families(), "prerouting"))

    def _leave(self, network: NetworkHere, way: Outlet) -> None:
        """Have the rules judge what leaves a bridge."""
        first = self._hook(self._bridges.rules, ("bridge",), "forward")
        if first.dropped:
            self._drop(told.dropped(HopKind.NETWORK, _network(network.key), first.dropped))
        self._pass(HopKind.NETWORK, _network(network.key), way.message)
        here = self._ports.get(way.link)
        self._judged(network, here, "ingress", self._hook(self._bridges.rules, self._families(), "forward"))

    def _judged(self, network: NetworkHere, here: PortHere | None, direction: Direction, passage: Passage) -> None:
        """Tell what the groups of a port do, and whatever else drops there."""
        if here is not None and passage.dropped in ("", f"refused-{direction}"):
            groups, flow = network.applied.groups, self._frame.flow
            if self._leg.answer and direction == "ingress" and passage.dropped and flow != self._wanted:
                hop = answers.strange(HopKind.INGRESS_RULES, "/".join(here.key), flow, self._wanted)
            elif self._leg.answer:
                hop = answers.judged(here.port, groups, direction, passage)
            else:
                hop = told.judged(here.port, groups, direction, flow, passed=not passage.dropped)
            self._hops.append(hop)
            if passage.dropped:
                raise Ended(LegOutcome.DROPPED)
        elif passage.dropped:
            self._drop(told.dropped(HopKind.NETWORK, _network(network.key), passage.dropped))

    def _guarded(self, way: Outlet) -> None:
        """Tell nothing of another project's ports."""
        here = self._ports.get(way.link)
        if here is not None and here.key[0] != self._namespace:
            message = "it goes to a port of another project, whose rules are shown to its own members only"
            self._end(HopKind.DESTINATION_PORT, "", Verdict.UNKNOWN, message)

    async def _arrive(self, network: NetworkHere, way: Outlet) -> None:
        here, vni = self._ports.get(way.link), network.key.vni
        if here is not None:
            await self._deliver(here)
        elif way.link in self._routers:
            await self._route(way.link)
        elif way.peer:
            message = f"VXLAN {vni} carries it to host address {way.peer}: {way.why}"
            self._pass(HopKind.TUNNEL, way.link, message)
            raise Ended(LegOutcome.FORWARDED, peer=way.peer, vni=vni)
        elif way.link == network.applied.service_link:
            self._served(network, way)
        else:
            self._pass(HopKind.EXTERNAL, way.link, f"it leaves by {way.link} as {told.packet(self._frame.flow)}")
            raise Ended(LegOutcome.LEFT, vni=vni)

    def _served(self, network: NetworkHere, way: Outlet) -> None:
        """End at the network's own services on this host, or where these lead to the cluster's."""
        hop = next_hop(network.applied, self._frame.flow)
        if hop != self._frame.flow.destination and hop in _services(network):
            # By its peering the network tells guests of a route there.
            message = "it goes by the network's peering to the cluster's Services, where it is not followed"
            self._pass(HopKind.EXTERNAL, way.link, message)
            raise Ended(LegOutcome.TUNNELLED)
        self._pass(HopKind.DESTINATION_PORT, way.link, "the network's own services on this host answer it")
        raise Ended(LegOutcome.DELIVERED, vni=network.key.vni, answered_by=LegStart.SERVICE)

    async def _deliver(self, here: PortHere) -> None:
        flow, name = self._frame.flow, "/".join(here.key)
        await self._held(HopKind.DESTINATION_PORT, here, flow.destination)
        self._plugged(HopKind.DESTINATION_PORT, here)
        if self._leg.answer and flow != self._wanted:
            self._drop(answers.strange(HopKind.DESTINATION_PORT, name, flow, self._wanted))
        known = addresses_of(self._bridges.rules).get(here.port.tap, frozenset())
        paired = any(flow.destination in network for network in here.port.ranges)
        if flow.destination not in known and not paired and here.port.secured:
            message = f"{flow.destination} is none of the port's addresses: its guest is not known to have it"
            self._end(HopKind.DESTINATION_PORT, name, Verdict.UNKNOWN, message, "look at the guest's own addresses")
        raise Ended(LegOutcome.DELIVERED, answered_by=LegStart.PORT, port=here.key[1])


def _services(network: NetworkHere) -> frozenset[Address]:
    """Give the addresses of a network's own services."""
    return frozenset(subnet.service_address for subnet in network.applied.subnets)


def _network(network: NetworkKey) -> str:
    return f"{network.namespace}/{network.name}" if network.namespace else network.name
