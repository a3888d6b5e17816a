"""What routers should be on this host: pure functions of what the operator has assigned, and of what is here.

A router is on each host that has a port in one of its networks, on its gateway's host, and where floating addresses of
it are translated. It has all its networks there: whatever comes from a port here is routed here.

What leaves by the external network, and has no floating address here, is sent on to the gateway's host through the
network of the router's first interface: to the MAC of the gateway, which is that of a further link there. IPv6 leaves
so, too, where the external network has it, and else stays between the router's own networks.

A centralised router (`central`) is on its gateway's host alone, and on the one that takes over.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface, ip_network

from kumulus_agent.network import names
from kumulus_agent.network.gateways import TRANSIT_ADDRESS, TRANSIT_ADDRESS6
from kumulus_agent.network.state import Neighbour as Forward
from kumulus_agent.network.state import RouterPort
from kumulus_agent.networks.plan import Here, NetworkFacts
from kumulus_agent.routers import central
from kumulus_agent.routers.pair import NETWORK, Pair, link_local, mac_of, pair_of
from kumulus_agent.routers.state import (
    NOWHERE,
    PEER_ADDRESS,
    PREFERENCE_DEFAULT,
    PREFERENCE_FLOATING,
    PREFERENCE_LEADING,
    PREFERENCE_NOWHERE,
    PREFERENCE_SHARED_FLOATING,
    PREFERENCE_TUNNELLED,
    PREFERENCE_TUNNELLED_LEADING,
    PREFERENCE_WAITING,
    TABLE_OUT,
    TABLE_TRANSIT,
    Address,
    Join,
    Neighbour,
    PolicyRule,
    Route,
    RouterDesired,
    alone,
    family_of,
)
from kumulus_agent.routers.translation import translation, tunnelled
from kumulus_agent.servers.desired import NetworkKey
from kumulus_api.floating_ip import FloatingIPAssignment
from kumulus_api.router import AssignedGateway, AssignedInterface, RouterAssignment

_MAIN = 254
_ANYWHERE = {4: "0.0.0.0/0", 6: "::/0"}


@dataclass(frozen=True)
class HereRouter:
    """A router that something on this host uses.

    Attributes:
        here: this host.
        assignment: the router as the operator has decided it.
        floating: floating addresses that are translated here, always or when this host leads out.
    """

    here: Here
    assignment: RouterAssignment
    floating: tuple[FloatingIPAssignment, ...] = ()

    @property
    def pair(self) -> Pair | None:
        """This host as one of two, of which one leads out."""
        return pair_of(self.assignment.router_id, self.assignment.gateway, self.here.host)

    @property
    def central(self) -> bool:
        """Whether all packets of its networks pass it on its gateway's host."""
        return self.assignment.centralised

    @property
    def placed(self) -> bool:
        """Whether the router is on this host, and not only reached from it."""
        return not self.central or self.here.host in central.hosts_of(self.assignment)

    @property
    def leads(self) -> bool:
        """Whether the gateway is here, or may come here at any time."""
        gateway = self.assignment.gateway
        return gateway is not None and (gateway.host == self.here.host or self.pair is not None)

    @property
    def out(self) -> bool:
        """Whether something leaves here by the external network."""
        return self.assignment.gateway is not None and (self.leads or bool(self.floating))

    @property
    def first(self) -> AssignedInterface | None:
        """The interface through whose network the gateway's host is reached; the same on all hosts."""
        return min(
            self.assignment.interfaces,
            key=lambda item: (not any(family_of(text) == 4 for text in item.addresses), item.name),
            default=None,
        )

    @property
    def families(self) -> tuple[int, ...]:
        """The families in which the router leads out."""
        gateway = self.assignment.gateway
        return (4, 6) if gateway is not None and any(family_of(text) == 6 for text in gateway.addresses) else (4,)

    def link(self, interface: AssignedInterface | str) -> str:
        """Name the link of an interface, "external" or "transit"."""
        what = interface if isinstance(interface, str) else f"interface/{interface.name}"
        return names.router_link(self.assignment.router_id, what)

    @property
    def external_mac(self) -> str:
        """The router's MAC in the external network: one of this host's, unless the gateway is here for good."""
        gateway = self.assignment.gateway
        if gateway is not None and self.leads and gateway.takeover is None:
            return gateway.mac
        return mac_of(self.assignment.router_id, self.here.host)

    @property
    def moving(self) -> tuple[FloatingIPAssignment, ...]:
        """Floating addresses that are where the router leads out."""
        return tuple(item for item in self.floating if self.pair is not None and item.standby is not None)

    @property
    def staying(self) -> tuple[FloatingIPAssignment, ...]:
        """Floating addresses that are here whoever leads out."""
        return tuple(item for item in self.floating if item not in self.moving)

    def networks(self) -> frozenset[NetworkKey]:
        """Give the networks that the router needs here."""
        assignment = self.assignment
        joined: list[AssignedInterface | AssignedGateway] = list(assignment.interfaces)
        if assignment.gateway is not None and self.out:
            joined.append(assignment.gateway)
        return frozenset(NetworkKey(item.network_namespace, item.network, item.vni) for item in joined)

    def ports(self) -> Iterator[tuple[int, RouterPort]]:
        """Yield the links at networks' bridges, with the network's number."""
        if not self.placed:
            return
        for interface in self.assignment.interfaces:
            yield interface.vni, self._port(interface)
        gateway = self.assignment.gateway
        if gateway is not None and self.out:
            yield gateway.vni, RouterPort(self.link("external"), self.external_mac, distributed=False)
        if gateway is not None and self.leads and self.first is not None and not self.central:
            yield self.first.vni, RouterPort(self.link("transit"), gateway.mac, distributed=False)
        if self.pair is not None:
            yield NETWORK, self.pair.port()

    def _port(self, interface: AssignedInterface) -> RouterPort:
        if not self.central:
            return RouterPort(self.link(interface), interface.mac)
        mac = central.interface_mac(self.assignment.router_id, interface, self.here.host)
        return RouterPort(self.link(interface), mac, distributed=False, central=True)

    def transit(self) -> Iterator[tuple[int, Forward]]:
        """Yield where the gateway's MAC is, with the number of the network through which it is reached."""
        gateway = self.assignment.gateway
        if self.central:
            yield from central.reached(self.assignment, self.here.host)
            return
        if gateway is not None and not self.leads and self.first is not None:
            yield self.first.vni, (gateway.mac, gateway.tunnel_address)

    def taken(self) -> Iterator[tuple[int, Forward]]:
        """Yield where the gateway's MAC is if it was taken over, as `transit` does; hosts hear of it by themselves."""
        gateway = self.assignment.gateway
        takeover = gateway.takeover if gateway is not None else None
        if not self.central and gateway is not None and takeover is not None and takeover.standby is not None:
            yield from ((vni, (mac, takeover.standby.tunnel_address)) for vni, (mac, _) in self.transit())


def routers_here(
    assignments: Iterable[RouterAssignment],
    floating: Iterable[FloatingIPAssignment],
    with_ports: Collection[int],
    here: Here,
) -> dict[str, HereRouter]:
    """Say which routers this host needs, by their ids.

    Args:
        assignments: of all routers.
        floating: the floating addresses of this host.
        with_ports: numbers of the networks that have a port here.
        here: this host.
    """
    known = {assignment.router_id: assignment for assignment in assignments}
    bound: dict[str, list[FloatingIPAssignment]] = {}
    for item in floating:
        router = known.get(item.router_id or "")
        if (
            router is not None
            and router.gateway is not None
            and router.gateway.vni == item.vni
            and _here(item, router, here)
        ):
            bound.setdefault(router.router_id, []).append(item)
    needed = {
        router_id
        for router_id, item in known.items()
        if router_id in bound
        or (item.gateway is not None and item.gateway.host == here.host)
        or pair_of(router_id, item.gateway, here.host) is not None
        or any(interface.vni in with_ports for interface in item.interfaces)
    }
    needed = _with_next_hops(needed, known)
    return {
        router_id: HereRouter(
            here, known[router_id], tuple(sorted(bound.get(router_id, ()), key=lambda item: item.address))
        )
        for router_id in sorted(needed)
    }


def _here(floating: FloatingIPAssignment, router: RouterAssignment, here: Here) -> bool:
    """Whether a floating address is translated here, at least when this host leads its router out."""
    paired = pair_of(router.router_id, router.gateway, here.host) is not None
    if router.centralised and here.host not in central.hosts_of(router):
        return False
    return floating.host == here.host or (floating.standby == here.host and paired)


def _with_next_hops(needed: set[str], known: Mapping[str, RouterAssignment]) -> set[str]:
    """Add the routers that static routes of these lead to: each is on every host, and asked on this one."""
    at = {
        (interface.vni, ip_interface(address).ip): router_id
        for router_id, item in known.items()
        for interface in item.interfaces
        for address in interface.addresses
    }
    found, looked = set(needed), set[str]()
    while found - looked:
        router = known[(found - looked).pop()]
        looked.add(router.router_id)
        hops = [ip_address(route.next_hop) for route in router.routes]
        asked = (at.get((interface.vni, hop)) for interface in router.interfaces for hop in hops)
        found |= {router_id for router_id in asked if router_id is not None}
    return found


def router_desired(router: HereRouter, networks: Mapping[int, NetworkFacts]) -> RouterDesired:
    """Say what the router should be here.

    Args:
        router: the router.
        networks: by number, all that `router.networks` names.
    """
    assignment, pair = router.assignment, router.pair
    networks = {NETWORK: NetworkFacts(router.here.mtu), **networks}
    joins = frozenset(Join(port.name, names.bridge(vni), port.mac, networks[vni].mtu) for vni, port in router.ports())
    return RouterDesired(
        router_id=assignment.router_id,
        joins=joins,
        addresses=frozenset(_own(router)),
        external=frozenset(Address(router.link("external"), alone(address)) for address in _outside(router)),
        neighbours=frozenset(_neighbours(router, networks)),
        routes=frozenset({(route.table, route.destination): route for route in _routes(router)}.values()),
        policy=frozenset(_policy(router)),
        translation=translation(router, 4),
        translation6=translation(router, 6),
        speaking6=frozenset(_speaking6(router)),
        failover=pair.member(_virtual(router), _leading(router)) if pair is not None else None,
        firewall=central.firewall_of(assignment),
    )


def _own(router: HereRouter) -> Iterator[Address]:
    if router.central and router.pair is not None:
        return
    for interface in router.assignment.interfaces:
        for address in map(ip_interface, interface.addresses):
            yield Address(router.link(interface), str(address))


def _outside(router: HereRouter) -> set[str]:
    """Give the addresses that are this host's in the external network, whatever others do."""
    own = _gateway(router) if router.leads and router.pair is None else set()
    return own | (_led(router, router.staying) if router.out else set())


def _led(router: HereRouter, floating: Iterable[FloatingIPAssignment]) -> set[str]:
    """Give the floating addresses of families in which the router leads out."""
    return {item.address for item in floating if family_of(item.address) in router.families}


def _gateway(router: HereRouter) -> set[str]:
    """Give the router's own addresses in the external network."""
    gateway = router.assignment.gateway
    return {str(ip_interface(text).ip) for text in gateway.addresses} if gateway is not None else set()


def _shared(router: HereRouter) -> set[str]:
    """Give the addresses of which one of two hosts has all."""
    if router.pair is None:
        return set()
    return _gateway(router) | _led(router, router.moving)


def _virtual(router: HereRouter) -> Iterator[Address]:
    yield from (Address(router.link("external"), alone(address)) for address in _shared(router))
    if router.central:
        yield from (a for i in router.assignment.interfaces for a in central.shared_addresses(router.link(i), i))
    elif router.first is not None:
        # It is announced, too: so other hosts hear where the gateway is.
        yield Address(router.link("transit"), f"{TRANSIT_ADDRESS}/32")


def _leading(router: HereRouter) -> Iterator[PolicyRule]:
    """Yield the rules by which one of two hosts leads out."""
    yield from (PolicyRule(PREFERENCE_LEADING, TABLE_OUT, family=family) for family in router.families)
    for network in tunnelled(router, 4):
        yield PolicyRule(PREFERENCE_TUNNELLED_LEADING, TABLE_OUT, destination=network)
    for source in {item.fixed_address for item in router.moving if item.fixed_address} | _shared(router):
        if family_of(source) in router.families:
            yield PolicyRule(PREFERENCE_SHARED_FLOATING, TABLE_OUT, source, family_of(source))


def _speaking6(router: HereRouter) -> Iterator[str]:
    """Yield the links on which there is IPv6: not where nobody needs it, as whoever reaches it there is routed."""
    for interface in router.assignment.interfaces:
        if any(family_of(text) == 6 for text in interface.addresses):
            yield router.link(interface)
    if router.pair is not None:
        yield router.pair.link
    if 6 in router.families and router.out:
        yield router.link("external")
    if 6 in router.families and router.first is not None:
        yield router.link("transit" if router.leads else router.first)


def _neighbours(router: HereRouter, networks: Mapping[int, NetworkFacts]) -> Iterator[Neighbour]:
    for interface in router.assignment.interfaces:
        own = [ip_interface(address) for address in interface.addresses]
        for text, mac in networks[interface.vni].neighbours:
            address = ip_address(text)
            if any(address in at.network and address != at.ip for at in own):
                yield Neighbour(router.link(interface), str(address), mac)
    gateway = router.assignment.gateway
    if gateway is not None and not router.leads and router.first is not None:
        yield Neighbour(router.link(router.first), TRANSIT_ADDRESS, gateway.mac)
        if 6 in router.families:
            yield Neighbour(router.link(router.first), TRANSIT_ADDRESS6, gateway.mac)
    if router.pair is not None:
        yield from router.pair.neighbours()


def _routes(router: HereRouter) -> Iterator[Route]:
    """Yield routes; a later one takes the place of an earlier one with its destination."""
    gateway, external = router.assignment.gateway, router.link("external")
    if router.central and router.pair is not None:
        yield from (r for i in router.assignment.interfaces for r in central.shared_routes(_MAIN, router.link(i), i))
    if gateway is not None and router.out:
        for address in map(ip_interface, gateway.addresses):
            yield Route(TABLE_OUT, str(address.network), external)
        yield from (Route(TABLE_OUT, _ANYWHERE[family_of(hop)], external, hop) for hop in gateway.next_hops)
    for family in router.families:
        yield from _by_transit(router, _ANYWHERE[family])
    for route in router.assignment.routes:
        hop, destination = ip_address(route.next_hop), ip_network(route.destination, strict=False)
        if hop.version == destination.version:
            yield from _static(router, str(destination), hop)


def _by_transit(router: HereRouter, destination: str) -> Iterator[Route]:
    six = family_of(destination) == 6
    if router.pair is not None:
        peer = link_local(router.pair.forward()[0]) if six else PEER_ADDRESS
        yield Route(TABLE_TRANSIT, destination, router.pair.link, peer)
    elif router.assignment.gateway is not None and not router.leads and router.first is not None:
        gateway = TRANSIT_ADDRESS6 if six else TRANSIT_ADDRESS
        yield Route(TABLE_TRANSIT, destination, router.link(router.first), gateway)


def _static(router: HereRouter, destination: str, hop: IPv4Address | IPv6Address) -> Iterator[Route]:
    through, gateway = _through(router, hop), router.assignment.gateway
    if through is not None:
        yield Route(_MAIN, destination, through, str(hop))
    elif gateway is not None and any(hop in ip_interface(text).network for text in gateway.addresses):
        if router.out:
            yield Route(TABLE_OUT, destination, router.link("external"), str(hop))
        yield from _by_transit(router, destination)


def _through(router: HereRouter, hop: IPv4Address | IPv6Address) -> str | None:
    for interface in router.assignment.interfaces:
        if any(hop in address.network and hop != address.ip for address in map(ip_interface, interface.addresses)):
            return router.link(interface)
    return None


def _policy(router: HereRouter) -> Iterator[PolicyRule]:
    if router.out:
        leaving = {item.fixed_address for item in router.staying if item.fixed_address} | _outside(router)
        for source in leaving:
            if family_of(source) in router.families:
                yield PolicyRule(PREFERENCE_FLOATING, TABLE_OUT, source, family_of(source))
    for network in tunnelled(router, 4):
        if router.pair is not None or not router.leads:
            yield PolicyRule(PREFERENCE_TUNNELLED, TABLE_TRANSIT, destination=network)
        else:
            yield PolicyRule(PREFERENCE_TUNNELLED_LEADING, TABLE_OUT, destination=network)
        yield PolicyRule(PREFERENCE_NOWHERE, NOWHERE, destination=network)
    for family in router.families:
        if router.pair is not None:
            yield PolicyRule(PREFERENCE_WAITING, TABLE_TRANSIT, family=family)
        elif router.leads:
            yield PolicyRule(PREFERENCE_DEFAULT, TABLE_OUT, family=family)
        elif router.assignment.gateway is not None and router.first is not None:
            yield PolicyRule(PREFERENCE_DEFAULT, TABLE_TRANSIT, family=family)
