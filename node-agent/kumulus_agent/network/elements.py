"""What the rules have to know about a network on this host: elements of their sets, and its ports' chains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv6Network, collapse_addresses

from kumulus_agent.network.gateways import SOURCES
from kumulus_agent.network.groups import DIRECTIONS, Chain, Direction, GroupKey, chain, members_set, remotes, stateless
from kumulus_agent.network.names import host_mac
from kumulus_agent.network.rules import ANSWERED, PORT_SHIFT, STATELESS, UNASKED, ZONES, Element
from kumulus_agent.network.spoofing import ADVERTISERS, NEIGHBOURS, OWN_NEIGHBOURS, neighbour_chain, paired_chain
from kumulus_agent.network.state import NetworkDesired, PortDesired


def elements(desired: NetworkDesired, zone: int, numbers: Mapping[str, int]) -> Iterator[Element]:
    """Yield the elements.

    Args:
        desired: the network.
        zone: its number on this host.
        numbers: of its ports, by tap.
    """
    yield Element(ZONES, (desired.vxlan,), zone)
    if not desired.provider:
        yield from _of_overlay(desired)
    if desired.uplink_port:
        yield from _of_uplink(desired.uplink_port, desired, zone)
    if desired.service_link:
        yield Element(ZONES, (desired.service_link,), zone)
        yield Element("services", (desired.service_link,))
        yield Element(ADVERTISERS, (desired.service_link,))
    yield from _of_routers(desired, zone)
    chains = _judges(desired, zone)
    for port in desired.ports:
        mark = numbers[port.tap] << PORT_SHIFT
        yield from _of_port(port, chains, zone, mark)
        if port.groups is not None and stateless(port.groups, desired.groups):
            yield Element(STATELESS, (mark,))
            yield Element(ANSWERED, (port.tap,))
    for named, tap, guard in _discovery(desired, zone):
        yield Element(named, (tap,), guard.name)
    for key in _remotes(desired):
        for address in desired.groups[key].members if key in desired.groups else ():
            yield Element(members_set(zone, key, address.version), (str(address),))


def judging(desired: NetworkDesired, zone: int) -> tuple[frozenset[Chain], frozenset[str]]:
    """Give the chains that judge the network's ports here, and the names of the sets of members that they ask."""
    return frozenset(_judges(desired, zone).values()), frozenset(
        members_set(zone, key, family) for key in _remotes(desired) for family in (4, 6)
    )


def _judges(desired: NetworkDesired, zone: int) -> dict[tuple[frozenset[GroupKey], Direction], Chain]:
    """Give the chains by groups and direction: many ports have the same groups."""
    ports = {port.groups for port in desired.ports if port.groups is not None}
    return {
        (keys, direction): chain(keys, desired.groups, direction, zone) for keys in ports for direction in DIRECTIONS
    }


def guarding(desired: NetworkDesired, zone: int) -> frozenset[Chain]:
    """Give the chains that look into neighbour discovery of the network's ports here, as far as they have IPv6.

    One for all that have no more than their own; one for each that has pairs; and one for what those that may use more
    send to the network's servers.
    """
    return frozenset(chain for _, _, chain in _discovery(desired, zone))


def _discovery(desired: NetworkDesired, zone: int) -> Iterator[tuple[str, str, Chain]]:
    """Give maps, interfaces, and their chains."""
    speakers = [port for port in desired.ports if port.sources6]
    for named, lenient in ((NEIGHBOURS, False), (OWN_NEIGHBOURS, True)):
        told = [(port.tap, port.mac, port.sources6) for port in speakers if port.lenient is lenient]
        if told:
            guard = Chain(*neighbour_chain(told, zone, own=lenient))
            yield from ((named, tap, guard) for tap, _, _ in told)
    yield from ((NEIGHBOURS, port.tap, _paired(port, zone)) for port in speakers if port.pairs)


def _paired(port: PortDesired, zone: int) -> Chain:
    ranges = (addresses for addresses in port.ranges if isinstance(addresses, IPv6Network))
    addresses = collapse_addresses([*map(IPv6Network, port.sources6), *ranges])
    return Chain(*paired_chain(port.macs, addresses, zone))


def _of_overlay(desired: NetworkDesired) -> Iterator[Element]:
    yield Element("overlays", (desired.vxlan,))
    # Of a family that is not served a guest may be the network's DHCP server, or its router.
    served = {subnet.cidr.version for subnet in desired.served}
    for family in served:
        yield Element(UNASKED[family], (desired.vxlan,))
    if 6 not in served:
        yield Element(ADVERTISERS, (desired.vxlan,))


def _of_uplink(name: str, desired: NetworkDesired, zone: int) -> Iterator[Element]:
    yield Element(ZONES, (name,), zone)
    yield Element("uplinks", (name,))
    if desired.served:
        yield Element("overlays", (name,))
    # Of a family that is not served the physical network's own DHCP server is asked.
    for family in {subnet.cidr.version for subnet in desired.served}:
        yield Element(UNASKED[family], (name,))
    own = [subnet for subnet in desired.subnets if subnet.cidr.version == 6]
    if own:
        yield Element("uplinks6", (name,))
    if any(subnet.gateway or not subnet.served for subnet in own):
        yield Element(ADVERTISERS, (name,))


def _of_port(
    port: PortDesired, chains: Mapping[tuple[frozenset[GroupKey], Direction], Chain], zone: int, mark: int
) -> Iterator[Element]:
    yield Element(ZONES, (port.tap,), mark | zone)
    yield Element("guests", (port.tap,))
    yield from _of_checks(port)
    if port.groups is not None:
        for direction in DIRECTIONS:
            yield Element(direction, (mark,), chains[port.groups, direction].name)


def _of_checks(port: PortDesired) -> Iterator[Element]:
    """Give what the guest may use: as itself, and besides."""
    for address in port.addresses:
        if isinstance(address, IPv4Address):
            yield Element("addresses", (port.tap, str(address)))
    for address in port.sources6:
        yield Element("addresses6", (port.tap, str(address)))
    for mac in port.macs:
        yield Element("macs", (port.tap, mac))
    for addresses in port.ranges:
        yield Element("pairs" if addresses.version == 4 else "pairs6", (port.tap, str(addresses)))
    if not port.secured:
        yield Element("unchecked", (port.tap,))
        yield Element(ADVERTISERS, (port.tap,))
    if port.lenient:
        yield Element("lenient", (port.tap,))
        yield Element("own", (port.tap, port.mac))


def _of_routers(desired: NetworkDesired, zone: int) -> Iterator[Element]:
    for port in desired.routers:
        yield Element(ZONES, (port.name,), zone)
    leading = {mac for mac, _ in desired.transits} | {port.mac for port in desired.routers if not port.distributed}
    for guest in desired.ports:
        if guest.lenient:
            yield from (Element("transitmacs", (guest.tap, mac)) for mac in leading)
    if desired.centred:
        yield Element(ADVERTISERS, (desired.vxlan,))
    for port in desired.routers:
        if port.central:
            yield Element("central", (port.name,))
            yield Element(ADVERTISERS, (port.name,))
    distributed = [port for port in desired.routers if port.distributed]
    for port in distributed:
        yield Element("gateways", (port.name,))
        yield Element(ADVERTISERS, (port.name,))
    if distributed and desired.outward:
        yield Element("outward", (desired.outward,))
        yield Element(SOURCES, (desired.outward,), host_mac(desired.underlay_address))
        yield from (Element("gatewaymacs", (desired.outward, port.mac)) for port in distributed)
        here = (guest.mac for guest in desired.ports if not guest.shared)
        yield from (Element("localmacs", (desired.outward, mac)) for mac in here)


def _remotes(desired: NetworkDesired) -> frozenset[GroupKey]:
    keys = {key for port in desired.ports for key in port.groups or ()}
    return remotes(keys, desired.groups)
