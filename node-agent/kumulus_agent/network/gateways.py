"""Distributed gateways: rules of table `bridge` that keep a router's links on its own host.

A gateway has one MAC on all hosts. If other hosts saw it, their bridges would take it for a guest there, and answers of
several gateways to one question would meet. So it asks and answers on its own host only; what it routes to other hosts
has a MAC of this host on the way; and nobody is shown what a bridge floods for want of knowing where its receiver is.
"""

from __future__ import annotations

from typing import Any, Final

SETS: Final[dict[str, list[str]]] = {
    "gateways": ["ifname"],
    "central": ["ifname"],
    "outward": ["ifname"],
    "gatewaymacs": ["ifname", "ether_addr"],
    "localmacs": ["ifname", "ether_addr"],
    "transitmacs": ["ifname", "ether_addr"],
}
"""Links to routers that every host has, and to those that this host has alone; bridges' ports towards other hosts, and
with these the MACs of gateways and of the guests here; guests' ports that may send by MACs of their choice, but not by
these."""
TRANSIT_ADDRESS: Final = "169.254.0.1"
"""A router's gateway as other hosts see it; never asked for, its MAC is noted, and the hosts hear when it moves."""
TRANSIT_ADDRESS6: Final = "fe80::a9fe:1"
"""The same in IPv6. No host has it: the MAC, which moves for both families, is all that is needed."""
SOURCES: Final = "sources"
"""The map of a port towards other hosts to the MAC that routers' frames have there."""

_DROP: Final[Any] = {"drop": None}
_ACCEPT: Final[Any] = {"accept": None}
_IN, _OUT = ({"meta": {"key": key}} for key in ("iifname", "oifname"))
_SOURCE, _DESTINATION = ({"payload": {"protocol": "ether", "field": name}} for name in ("saddr", "daddr"))


def _is(left: Any, right: Any, op: str = "==") -> Any:
    return {"match": {"op": op, "left": left, "right": right}}


_QUESTIONS: Final = (
    _is({"payload": {"protocol": "ether", "field": "type"}}, "arp"),
    # Neighbour discovery and what routers say of themselves (RFC 4861), and listeners to groups (RFC 2710, RFC 3810).
    _is({"payload": {"protocol": "icmpv6", "field": "type"}}, {"set": [{"range": [130, 137]}, 143]}),
)


_ASKED: Final = tuple(
    _is({"payload": {"protocol": protocol, "field": "dport"}}, {"set": [53, 67, 80, 547]})
    for protocol in ("udp", "tcp")
)
"""What a network's own services are asked: names, addresses and metadata, by its own guests alone."""


def entering() -> list[list[Any]]:
    """What comes from another host neither is from a gateway nor is meant for one; no guest is one."""
    stolen = _is({"concat": [_IN, _SOURCE]}, "@transitmacs")
    return [[stolen, _DROP], *([_is({"concat": [_IN, mac]}, "@gatewaymacs"), _DROP] for mac in (_SOURCE, _DESTINATION))]


def crossing() -> list[list[Any]]:
    """What goes to a gateway, and what comes from it."""
    from_gateway, outward = _is(_IN, "@gateways"), _is(_OUT, "@outward")
    receiver = {"concat": [_OUT, _DESTINATION]}
    from_central = _is(_IN, "@central")
    moved = _is({"payload": {"protocol": "arp", "field": "saddr ip"}}, TRANSIT_ADDRESS)
    return [
        [_is(_OUT, "@guests"), moved, _DROP],
        *([from_gateway, outward, question, _DROP] for question in _QUESTIONS),
        *([_is(_IN, "@outward"), _is(_OUT, "@gateways"), question, _DROP] for question in _QUESTIONS),
        *([from_gateway, question, _ACCEPT] for question in _QUESTIONS),
        *([from_gateway, _is(_OUT, "@services"), asked, _DROP] for asked in _ASKED),
        [from_gateway, _is(receiver, "@localmacs"), _DROP],
        [from_gateway, _is(_OUT, "@guests"), _is(receiver, "@macs", "!="), _DROP],
        *([from_central, question, _ACCEPT] for question in _QUESTIONS),
        *([from_central, _is(_OUT, "@services"), asked, _DROP] for asked in _ASKED),
        [from_central, _is(_OUT, "@guests"), _is(receiver, "@macs", "!="), _DROP],
        [from_gateway, outward, {"mangle": {"key": _SOURCE, "value": {"map": {"key": _OUT, "data": f"@{SOURCES}"}}}}],
    ]
