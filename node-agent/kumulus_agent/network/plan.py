"""The pure part: which steps lead from what is there to what should be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import blake2s

from kumulus_agent.network import names
from kumulus_agent.network.bandwidth import orphans, shaping
from kumulus_agent.network.elements import elements, guarding, judging
from kumulus_agent.network.rules import BASE, NETWORK_MASK, FirewallChange, FirewallState
from kumulus_agent.network.state import HostRecord, Link, NetworkDesired, Observed, PortDesired, SubnetDesired
from kumulus_agent.network.steps import DeleteLink, SetLink, Step, set_link
from kumulus_agent.network.uplink_plan import CreateVlan, GiveBack, TakeInterface, given_back, plan_uplink

__all__ = [
    "AddForward",
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
    "JudgeConnections",
    "NetworkDesired",
    "Observed",
    "PortDesired",
    "RemoveForward",
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


_NOTE = 200
"""Bytes of a note; the kernel keeps 255."""


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
    """Make the namespace of the network's DHCP server, and the veth to it; addresses have their prefix."""

    vni: int
    mtu: int
    addresses: tuple[str, ...]
    gateways: tuple[str, ...]

    @property
    def note(self) -> str:
        """What is noted on the interface: the settings of its other end; or their digest: the kernel keeps little."""
        text = f"{' '.join(self.addresses)} via {' '.join(self.gateways) or '-'}, metadata"
        return text if len(text) <= _NOTE else blake2s(text.encode(), digest_size=16).hexdigest()


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
class AddForward(Step):
    """Have the bridge know for good that the MAC is behind its port."""

    mac: str


@dataclass(frozen=True)
class RemoveForward(Step):
    """Have the bridge forget it."""

    mac: str


@dataclass(frozen=True)
class ChangeFirewall(Step):
    """Apply one transaction of rules."""

    change: FirewallChange


@dataclass(frozen=True)
class JudgeConnections(Step):
    """Hold the network's connections to its groups as they are now."""

    zone: int
    desired: NetworkDesired


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
    own = {bridge, names.vxlan(vni), names.service_link(vni), names.vlan(vni)}
    own = (own | {names.queue(name) for name in observed.ports_of(bridge)}) & observed.links.keys()
    links = sorted((own | observed.ports_of(bridge)) - taken.keys(), key=lambda name: (name == bridge, name))
    deletions: tuple[Step, ...] = (
        *(given_back(name, note, reason) for name, note in taken.items()),
        *(DeleteLink(name, reason) for name in links),
    )
    state = observed.firewall
    zone = state.zone_of(names.vxlan(vni))
    if zone is None:
        return deletions
    result = replace(state.without(zone), zones=state.zones - {zone})
    return (*deletions, *_change(state, result, reason), FlushZone("conntrack", reason, zone))


def _change(before: FirewallState, result: FirewallState, reason: str) -> tuple[Step, ...]:
    return () if before == result else (ChangeFirewall("nftables", reason, FirewallChange(before, result)),)


def _firewall(desired: NetworkDesired, observed: Observed) -> tuple[Step, ...]:
    before = observed.firewall
    state = before
    if state.base != BASE:
        # The rules are made anew: numbers that no interface has are left over from rules that somebody removed.
        state = replace(state, zones=state.zones & {mark & NETWORK_MASK for mark in state.marks().values()})
    zone = state.zone_of(desired.vxlan)
    number = state.free_zone() if zone is None else zone
    wanted = frozenset(elements(desired, number, state.ports(port.tap for port in desired.ports)))
    # An interface has one network: what another network's number still says about it is out of date.
    kept = state.without(zone, {str(element.key[0]) for element in wanted if element.family == "bridge"})
    chains, sets = judging(desired, number)
    result = kept.having(number, wanted, chains | guarding(desired, number), sets)
    steps = _change(before, result, f"rules of {len(desired.ports)} ports of {desired.bridge}")
    judged = any(chain.zone == number and chain.family == "inet" for chain in before.chains)
    if steps and (chains or judged):
        steps = (*steps, JudgeConnections("conntrack", "the rules have changed", number, desired))
    if zone is None and before.base != BASE:
        # Somebody removed the rules: who had which number is lost, the connections in them are not.
        return (FlushZone("conntrack", "its number may have been another network's", number), *steps)
    return steps


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
    fixed = observed.forwards.get(name, frozenset())
    if link is not None and (link.vni, link.local) != (desired.vni, desired.underlay_address):
        yield DeleteLink(name, f"found VNI {link.vni} from {link.local}")
        link = None
    if link is None:
        yield CreateVxlan(name, "absent", desired.vni, desired.mtu, desired.underlay_address)
        link = Link(name, "vxlan", desired.mtu, up=False)
        flood, neighbours, fixed = frozenset(), frozenset(), frozenset()
    yield from set_link(link, desired.mtu, desired.bridge)
    peers = desired.peers - {desired.underlay_address}
    local = {port.mac for port in desired.ports if not port.shared}
    noted = desired.neighbours | desired.transits
    wanted = {(mac, peer) for mac, peer in noted if mac not in local and peer != desired.underlay_address}
    heard = neighbours & desired.taken
    wanted = {(mac, peer) for mac, peer in wanted if mac not in {moved for moved, _ in heard}} | heard
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
    # Nothing comes from a gateway's MAC by which a bridge could learn where it is.
    gateways = {mac for mac, _ in desired.transits}
    for mac in sorted(fixed - gateways):
        yield RemoveForward(name, "no longer there", mac)
    for mac in sorted(gateways - fixed):
        yield AddForward(name, "a router's gateway is there", mac)


def _service(desired: NetworkDesired, observed: Observed) -> Iterator[Step]:
    name = names.service_link(desired.vni)
    link = observed.links.get(name)
    if desired.service_link is None:
        if link is not None:
            yield DeleteLink(name, "no port here needs DHCP")
        return
    gateways = {subnet.cidr.version: str(subnet.gateway) for subnet in reversed(desired.served) if subnet.gateway}
    creation = CreateServiceLink(
        name,
        "absent",
        desired.vni,
        desired.mtu,
        tuple(f"{subnet.service_address}/{subnet.cidr.prefixlen}" for subnet in desired.served),
        tuple(gateway for _, gateway in sorted(gateways.items())),
    )
    if link is None or link.alias != creation.note:
        yield creation if link is None else replace(creation, reason=f"found {link.alias or 'half made'}")
        link = Link(name, "veth", desired.mtu, up=False)
    yield from set_link(link, desired.mtu, desired.bridge)


def _ports(desired: NetworkDesired, observed: Observed) -> Iterator[Step]:
    own = {desired.vxlan, names.service_link(desired.vni), names.vlan(desired.vni), *observed.taken_by(desired.vni)}
    own |= {port.name for port in desired.routers}
    wanted = {port.tap for port in desired.ports}
    for name in sorted(observed.ports_of(desired.bridge) - own - wanted):
        yield DeleteLink(name, "no such port of the network is on this host")
    yield from orphans(observed)
    for port in sorted(desired.ports, key=lambda port: port.tap):
        if port.tap in observed.links:
            yield from set_link(observed.links[port.tap], desired.mtu, desired.bridge)
            yield from shaping(port, observed)
