"""The pure part: which steps lead from what is there to what should be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from kumulus_agent.network import names
from kumulus_agent.network.rules import BASE, ZONES, Element, FirewallChange, FirewallState
from kumulus_agent.network.state import HostRecord, Link, NetworkDesired, Observed, PortDesired, SubnetDesired
from kumulus_agent.network.steps import DeleteLink, SetLink, Step, set_link
from kumulus_agent.network.uplink_plan import CreateVlan, GiveBack, TakeInterface, given_back, plan_uplink

__all__ = [
    "AddNeighbour",
    "AddPeer",
    "ChangeFirewall",
    "CreateBridge",
    "CreateServiceLink",
    "CreateVlan",
    "CreateVxlan",
    "DeleteLink",
    "FlushZone",
    "GiveBack",
    "HostRecord",
    "NetworkDesired",
    "Observed",
    "PortDesired",
    "RemoveNeighbour",
    "RemovePeer",
    "SetLink",
    "Step",
    "SubnetDesired",
    "TakeInterface",
    "plan",
    "plan_base",
    "plan_removal",
]


@dataclass(frozen=True)
class CreateBridge(Step):
    """Make a bridge without address."""

    mtu: int


@dataclass(frozen=True)
class CreateVxlan(Step):
    """Make a VXLAN device whose socket is in the host's own namespace."""

    vni: int
    mtu: int
    local: str


@dataclass(frozen=True)
class CreateServiceLink(Step):
    """Make the namespace of the network's DHCP server, and the veth to it."""

    vni: int
    mtu: int
    address: str
    gateway: str

    @property
    def note(self) -> str:
        """What is noted on the interface: the settings of its other end."""
        return f"{self.address} via {self.gateway or '-'}"


@dataclass(frozen=True)
class AddPeer(Step):
    """Send unknown and broadcast frames to this tunnel address too."""

    peer: str


@dataclass(frozen=True)
class RemovePeer(Step):
    """No longer send unknown and broadcast frames there."""

    peer: str


@dataclass(frozen=True)
class AddNeighbour(Step):
    """Note that the MAC is behind the tunnel address."""

    mac: str
    peer: str


@dataclass(frozen=True)
class RemoveNeighbour(Step):
    """Forget where the MAC was."""

    mac: str
    peer: str


@dataclass(frozen=True)
class ChangeFirewall(Step):
    """Apply one transaction of rules."""

    change: FirewallChange


@dataclass(frozen=True)
class FlushZone(Step):
    """Forget the connections of a network that is gone, before another gets its number."""

    zone: int


def plan(desired: NetworkDesired, observed: Observed) -> tuple[Step, ...]:
    """Return the steps that make the network as desired; none if it is so already.

    Rules come before the links that they judge. An interface of the bridge that is not desired is deleted; one of the
    host's own is given back to it. A port whose
    tap is not in the namespace yet gets its rules only: `Datapath.plug` brings the tap.
    """
    return (
        *_firewall(desired, observed),
        *_bridge(desired, observed),
        *(plan_uplink(desired, observed) if desired.provider else _vxlan(desired, observed)),
        *_service(desired, observed),
        *_ports(desired, observed),
    )


def plan_base(observed: Observed) -> tuple[Step, ...]:
    """Return the steps that put the fixed part of the rules in place, all elements kept."""
    return _change(
        observed.firewall, replace(observed.firewall, base=BASE), "the fixed rules are absent or of another version"
    )


def plan_removal(vni: int, observed: Observed) -> tuple[Step, ...]:
    """Return the steps after which nothing of network `vni` is left."""
    bridge = names.bridge(vni)
    reason = "its network is no longer on this host"
    taken = observed.taken_by(vni)
    own = {bridge, names.vxlan(vni), names.service_link(vni), names.vlan(vni)} & observed.links.keys()
    links = sorted((own | observed.ports_of(bridge)) - taken.keys(), key=lambda name: (name == bridge, name))
    deletions: tuple[Step, ...] = (
        *(given_back(name, note, reason) for name, note in taken.items()),
        *(DeleteLink(name, reason) for name in links),
    )
    state = observed.firewall
    zone = state.zone_of(names.vxlan(vni))
    if zone is None:
        return deletions
    result = replace(state, elements=state.elements - state.elements_in(zone), zones=state.zones - {zone})
    return (*deletions, *_change(state, result, reason), FlushZone("conntrack", reason, zone))


def _change(before: FirewallState, result: FirewallState, reason: str) -> tuple[Step, ...]:
    return () if before == result else (ChangeFirewall("nftables", reason, FirewallChange(before, result)),)


def _firewall(desired: NetworkDesired, observed: Observed) -> tuple[Step, ...]:
    state = observed.firewall
    if state.base != BASE:
        # The rules are made anew: numbers that no interface has are left over from rules that somebody removed.
        state = replace(state, zones=state.zones & {e.value for e in state.elements if e.set == ZONES})
    zone = state.zone_of(desired.vxlan)
    kept = state.elements
    if zone is not None:
        kept -= state.elements_in(zone)
    number = state.free_zone() if zone is None else zone
    wanted = frozenset(elements(desired, number))
    # An interface has one network: what another network's number still says about it is out of date.
    named = {element.interface for element in wanted}
    kept = frozenset(element for element in kept if element.interface not in named)
    result = FirewallState(BASE, kept | wanted, state.zones | {number})
    steps = _change(observed.firewall, result, f"rules of {len(desired.ports)} ports of {desired.bridge}")
    if zone is None and state.base != BASE:
        # Somebody removed the rules: who had which number is lost, the connections in them are not.
        return (FlushZone("conntrack", "its number may have been another network's", number), *steps)
    return steps


def elements(desired: NetworkDesired, zone: int) -> Iterator[Element]:
    """Yield what the rules have to know about the network's interfaces; `zone` is its number on this host."""
    yield Element(ZONES, (desired.vxlan,), zone)
    if not desired.provider:
        yield Element("overlays", (desired.vxlan,))
    if desired.uplink_port:
        yield Element(ZONES, (desired.uplink_port,), zone)
        yield Element("uplinks", (desired.uplink_port,))
        if desired.subnet is not None:  # else the physical network's own DHCP server is asked
            yield Element("overlays", (desired.uplink_port,))
    if desired.service_link:
        yield Element(ZONES, (desired.service_link,), zone)
        yield Element("services", (desired.service_link,))
    for port in desired.ports:
        yield Element(ZONES, (port.tap,), zone)
        yield Element("guests", (port.tap,))
        yield Element("macs", (port.tap, port.mac))
        for address in port.addresses:
            yield Element("addresses", (port.tap, str(address)))


def _bridge(desired: NetworkDesired, observed: Observed) -> Iterator[Step]:
    link = observed.links.get(desired.bridge)
    if link is None:
        yield CreateBridge(desired.bridge, "absent", desired.mtu)
        link = Link(desired.bridge, "bridge", desired.mtu, up=False)
    yield from set_link(link, desired.mtu, None)


def _vxlan(desired: NetworkDesired, observed: Observed) -> Iterator[Step]:
    name = desired.vxlan
    link = observed.links.get(name)
    flood, neighbours = observed.flood.get(name, frozenset()), observed.neighbours.get(name, frozenset())
    if link is not None and (link.vni, link.local) != (desired.vni, desired.underlay_address):
        yield DeleteLink(name, f"found VNI {link.vni} from {link.local}")
        link = None
    if link is None:
        yield CreateVxlan(name, "absent", desired.vni, desired.mtu, desired.underlay_address)
        link = Link(name, "vxlan", desired.mtu, up=False)
        flood, neighbours = frozenset(), frozenset()
    yield from set_link(link, desired.mtu, desired.bridge)
    peers = desired.peers - {desired.underlay_address}
    local = {port.mac for port in desired.ports}
    wanted = {(mac, peer) for mac, peer in desired.neighbours if mac not in local and peer != desired.underlay_address}
    for peer in sorted(flood - peers):
        yield RemovePeer(name, "carries the network no longer", peer)
    for peer in sorted(peers - flood):
        yield AddPeer(name, "carries the network", peer)
    kept = {mac for mac, _ in wanted}
    for mac, peer in sorted(neighbours - wanted):
        if mac not in kept:  # one that has moved is overwritten
            yield RemoveNeighbour(name, "no longer there", mac, peer)
    for mac, peer in sorted(wanted - neighbours):
        yield AddNeighbour(name, "the port is there", mac, peer)


def _service(desired: NetworkDesired, observed: Observed) -> Iterator[Step]:
    name = names.service_link(desired.vni)
    link = observed.links.get(name)
    if desired.service_link is None or desired.subnet is None:
        if link is not None:
            yield DeleteLink(name, "no port here needs DHCP")
        return
    subnet = desired.subnet
    creation = CreateServiceLink(
        name,
        "absent",
        desired.vni,
        desired.mtu,
        f"{subnet.service_address}/{subnet.cidr.prefixlen}",
        str(subnet.gateway or ""),
    )
    if link is None or link.alias != creation.note:
        yield creation if link is None else replace(creation, reason=f"found {link.alias or 'half made'}")
        link = Link(name, "veth", desired.mtu, up=False)
    yield from set_link(link, desired.mtu, desired.bridge)


def _ports(desired: NetworkDesired, observed: Observed) -> Iterator[Step]:
    own = {desired.vxlan, names.service_link(desired.vni), names.vlan(desired.vni), *observed.taken_by(desired.vni)}
    wanted = {port.tap for port in desired.ports}
    for name in sorted(observed.ports_of(desired.bridge) - own - wanted):
        yield DeleteLink(name, "no such port of the network is on this host")
    for name in sorted(wanted & observed.links.keys()):
        yield from set_link(observed.links[name], desired.mtu, desired.bridge)
