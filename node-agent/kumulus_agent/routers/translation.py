"""What a router does to the addresses of packets on this host: a pure function of what the operator has assigned.

IPv4 goes out under the router's address. IPv6 of networks that the outside routes here goes out as it is, other IPv6
under the router's address if that is asked for, or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_interface, ip_network
from typing import TYPE_CHECKING

from kumulus_agent.routers.state import Floating, Forwarding, Translation, family_of

if TYPE_CHECKING:
    from kumulus_agent.routers.desired import HereRouter


def translation(router: HereRouter, family: int) -> Translation:
    """Say what the router does to addresses of a family here."""
    gateway = router.assignment.gateway
    if gateway is None or not router.out or family not in router.families:
        return Translation(family=family)
    own = next((str(ip_interface(text).ip) for text in gateway.addresses if family_of(text) == family), "")
    translated = gateway.snat if family == 4 else gateway.snat_ipv6
    source = own if translated else ""
    texts = (text for interface in router.assignment.interfaces for text in interface.addresses)
    subnets = sorted({ip_network(text, strict=False) for text in texts if family_of(text) == family})
    return Translation(
        external=router.link("external"),
        internal=tuple(map(str, subnets)),
        source=source if router.leads else "",
        hairpin=source if family == 4 else own,
        shared=router.pair is not None,
        floating=frozenset(
            Floating(item.address, item.fixed_address)
            for item in router.floating
            if item.fixed_address and family_of(item.fixed_address) == family
        ),
        forwardings=frozenset(
            Forwarding(f.protocol.lower(), item.address, f.external_port, f.address, f.internal_port)
            for item in router.floating
            for f in item.forwardings
            if family_of(f.address) == family
        ),
        tunnelled=tunnelled(router, family),
        family=family,
        routed=tuple(gateway.routed) if family == 6 else (),
        closed=family == 6 and not translated,
        silent=router.link("transit") if family == 6 and router.leads and router.first is not None else "",
    )


def tunnelled(router: HereRouter, family: int) -> tuple[str, ...]:
    """Give the networks of a family behind tunnels, less those that the router is in itself; none overlaps another."""
    found = [ip_network(text) for text in router.assignment.tunnelled if family_of(text) == family]
    for text in (text for interface in router.assignment.interfaces for text in interface.addresses):
        own = ip_interface(text).network
        found = [rest for network in found for rest in _without(network, own)]
    apart: Iterable[IPv4Network | IPv6Network] = (
        collapse_addresses(item for item in found if isinstance(item, IPv4Network))
        if family == 4
        else collapse_addresses(item for item in found if isinstance(item, IPv6Network))
    )
    return tuple(map(str, apart))


def _without(network: IPv4Network | IPv6Network, own: IPv4Network | IPv6Network) -> Iterable[IPv4Network | IPv6Network]:
    if not network.overlaps(own):
        return (network,)
    if isinstance(network, IPv4Network) and isinstance(own, IPv4Network):
        return network.address_exclude(own) if own.subnet_of(network) else ()
    if isinstance(network, IPv6Network) and isinstance(own, IPv6Network):
        return network.address_exclude(own) if own.subnet_of(network) else ()
    return (network,)
