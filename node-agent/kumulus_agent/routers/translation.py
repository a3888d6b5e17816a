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
        tunnelled=_apart(router.assignment.tunnelled, family),
        family=family,
        routed=tuple(gateway.routed) if family == 6 else (),
        closed=family == 6 and not translated,
        silent=router.link("transit") if family == 6 and router.leads and router.first is not None else "",
    )


def _apart(networks: Iterable[str], family: int) -> tuple[str, ...]:
    """Give networks of a family so that none overlaps another."""
    found = [ip_network(text) for text in networks if family_of(text) == family]
    apart: Iterable[IPv4Network | IPv6Network] = (
        collapse_addresses(item for item in found if isinstance(item, IPv4Network))
        if family == 4
        else collapse_addresses(item for item in found if isinstance(item, IPv6Network))
    )
    return tuple(map(str, apart))
