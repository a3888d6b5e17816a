"""The datapath's nftables rules as data: fixed chains, and per interface elements of their sets.

Each frame gets a mark as it enters a bridge: the number of its network on this host, in the lower 16 bits (the upper
16 are for security groups, which will number ports). An interface that has no number drops everything: a port is
closed until its rules are there. br_netfilter then carries the frame, mark and all, to table `ip`, where the number
becomes the conntrack zone, before defragmentation (priority -400), so that equal addresses of two tenants never meet.

IPv6 from guests is dropped: a port has no IPv6 addresses to be checked against. So is what comes from a physical
network with a VLAN tag, which is another network's, and IPv6, which no guest could answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2s
from typing import Any

TABLE = "kumulus"
NETWORK_MASK = 0xFFFF
SERVICE_MAC_MASK = "ff:ff:ff:00:00:00"
SERVICE_MAC_PREFIX = "0e:6b:6d:00:00:00"
RARP = 0x8035
"""Ethernet type of the announcements that QEMU sends for a guest that has just migrated."""
FOREIGN = ("8021q", "8021ad", "ip6")
"""Ethernet types that are of no concern to the guests of a physical network."""

Command = dict[str, Any]

SETS: dict[str, list[str]] = {
    "guests": ["ifname"],
    "macs": ["ifname", "ether_addr"],
    "addresses": ["ifname", "ipv4_addr"],
    "overlays": ["ifname"],
    "services": ["ifname"],
    "uplinks": ["ifname"],
}
ZONES = "zones"
"""The map of interface to the number of its network."""


@dataclass(frozen=True, order=True)
class Element:
    """An element of a set or map of the bridge table; its key's first part is the interface."""

    set: str
    key: tuple[str, ...]
    value: int | None = None

    @property
    def interface(self) -> str:
        """The interface that it belongs to."""
        return self.key[0]


@dataclass(frozen=True)
class FirewallState:
    """The rules as they are: digest of the fixed part ("" if absent), elements, and numbers that have a zone chain."""

    base: str = ""
    elements: frozenset[Element] = frozenset()
    zones: frozenset[int] = frozenset()

    def zone_of(self, interface: str) -> int | None:
        """The number of the interface's network."""
        found = (e.value for e in self.elements if e.set == ZONES and e.interface == interface)
        return next(found, None)

    def elements_in(self, zone: int | None) -> frozenset[Element]:
        """All elements of the interfaces of the network with that number."""
        members = {e.interface for e in self.elements if e.set == ZONES and e.value == zone}
        return frozenset(e for e in self.elements if e.interface in members)

    def free_zone(self) -> int:
        """The lowest number that no network has."""
        used = self.zones | {e.value for e in self.elements if e.set == ZONES}
        return next(number for number in range(1, NETWORK_MASK + 1) if number not in used)


@dataclass(frozen=True)
class FirewallChange:
    """One transaction: from what was observed to `result`."""

    before: FirewallState
    result: FirewallState

    def transaction(self) -> dict[str, list[Command]]:
        """The change as libnftables-json(5): all of it happens, or none."""
        if self.before.base == self.result.base:
            before, commands = self.before, []
        else:
            before, commands = FirewallState(), base_commands()
        commands += [c for zone in sorted(self.result.zones - before.zones) for c in _zone_added(zone)]
        commands += [_element("delete", e) for e in sorted(before.elements - self.result.elements, key=repr)]
        commands += [_element("add", e) for e in sorted(self.result.elements - before.elements, key=repr)]
        commands += [c for zone in sorted(before.zones - self.result.zones) for c in _zone_removed(zone)]
        return {"nftables": commands}


def _meta(key: str) -> Any:
    return {"meta": {"key": key}}


def _field(protocol: str, field: str) -> Any:
    return {"payload": {"protocol": protocol, "field": field}}


def _match(left: Any, right: Any, op: str = "==") -> Any:
    return {"match": {"op": op, "left": left, "right": right}}


def _from_port(header: Any, named: str, op: str = "==") -> Any:
    """Interface and header field together are (not) in the named set."""
    return _match({"concat": [_meta("iifname"), header]}, f"@{named}", op)


DROP: Any = {"drop": None}
ACCEPT: Any = {"accept": None}


def _entering() -> list[list[Any]]:
    network = {"map": {"key": _meta("iifname"), "data": f"@{ZONES}"}}
    of_service = _match({"&": [_field("ether", "saddr"), SERVICE_MAC_MASK]}, SERVICE_MAC_PREFIX)
    return [
        [{"mangle": {"key": _meta("mark"), "value": 0}}],
        [{"mangle": {"key": _meta("mark"), "value": network}}],
        [_match(_meta("mark"), 0), DROP],
        [_match(_meta("iifname"), "@overlays"), of_service, DROP],
        *([_match(_meta("iifname"), "@uplinks"), _match(_field("ether", "type"), kind), DROP] for kind in FOREIGN),
        [_match(_meta("iifname"), "@guests"), {"jump": {"target": "guest"}}],
    ]


def _from_guest() -> list[list[Any]]:
    ether_type = _field("ether", "type")
    return [
        [_from_port(_field("ether", "saddr"), "macs", "!="), DROP],
        [_match(ether_type, "ip"), {"goto": {"target": "guest-ip"}}],
        [_match(ether_type, "arp"), {"goto": {"target": "guest-arp"}}],
        [_match(ether_type, RARP), ACCEPT],
        [DROP],
    ]


def _from_guest_arp() -> list[list[Any]]:
    # The first four make sure that the fields lie where the last three look for them.
    layout = {"htype": 1, "ptype": "ip", "hlen": 6, "plen": 4}
    return [
        *([_match(_field("arp", name), value, "!="), DROP] for name, value in layout.items()),
        [_from_port(_field("arp", "saddr ether"), "macs", "!="), DROP],
        [_match(_field("arp", "saddr ip"), "0.0.0.0"), ACCEPT],  # noqa: S104 - a probe (RFC 5227), not a listener
        [_from_port(_field("arp", "saddr ip"), "addresses"), ACCEPT],
        [DROP],
    ]


def _dhcp(source: int, destination: int) -> list[Any]:
    return [_match(_field("udp", "sport"), source), _match(_field("udp", "dport"), destination)]


def _from_guest_ip() -> list[list[Any]]:
    unconfigured = [_match(_field("ip", "saddr"), "0.0.0.0"), _match(_field("ip", "daddr"), "255.255.255.255")]  # noqa: S104 - as above
    return [
        [*_dhcp(67, 68), DROP],
        [*unconfigured, *_dhcp(68, 67), ACCEPT],
        [_from_port(_field("ip", "saddr"), "addresses"), ACCEPT],
        [DROP],
    ]


def _crossing() -> list[list[Any]]:
    guest, service, overlay = ("guests", "services", "overlays")

    def between(source: str, target: str) -> list[Any]:
        return [_match(_meta("iifname"), f"@{source}"), _match(_meta("oifname"), f"@{target}")]

    return [
        [*between(service, overlay), DROP],
        [*between(overlay, service), DROP],
        [*between(guest, overlay), *_dhcp(68, 67), DROP],
    ]


def _add(kind: str, family: str, **attributes: Any) -> Command:
    return {"add": {kind: {"family": family, "table": TABLE, **attributes}}}


def _base_objects() -> list[Command]:
    bridge, ip = "bridge", "ip"
    lookup = {"vmap": {"key": {"&": [_meta("mark"), NETWORK_MASK]}, "data": f"@{ZONES}"}}
    chains: dict[str, tuple[str, int, list[list[Any]]]] = {
        "entering": ("prerouting", -300, _entering()),
        "crossing": ("forward", -200, _crossing()),
    }
    jumps = {"guest-ip": _from_guest_ip(), "guest-arp": _from_guest_arp(), "guest": _from_guest()}
    commands = [_add("map", bridge, name=ZONES, type="ifname", map="mark")]
    commands += [
        _add("set", bridge, name=name, type=types if len(types) > 1 else types[0]) for name, types in SETS.items()
    ]
    for name, rules in jumps.items():
        commands.append(_add("chain", bridge, name=name))
        commands += [_add("rule", bridge, chain=name, expr=rule) for rule in rules]
    for name, (hook, priority, rules) in chains.items():
        commands.append(_add("chain", bridge, name=name, type="filter", hook=hook, prio=priority, policy="accept"))
        commands += [_add("rule", bridge, chain=name, expr=rule) for rule in rules]
    commands.append(_add("map", ip, name=ZONES, type="mark", map="verdict"))
    commands.append(_add("chain", ip, name="zone", type="filter", hook="prerouting", prio=-450, policy="accept"))
    commands.append(_add("rule", ip, chain="zone", expr=[lookup]))
    return commands


BASE = blake2s(json.dumps(_base_objects()).encode(), digest_size=8).hexdigest()
"""Digest of the fixed part: the name of a chain of its own, by which a newer agent sees that the rules are old."""


def base_commands() -> list[Command]:
    """Replace both tables by the fixed part, without elements."""
    tables = [{"family": family, "name": TABLE} for family in ("bridge", "ip")]
    # A table that is not there cannot be deleted, one that is there can be added.
    renewed = [{verb: {"table": table}} for table in tables for verb in ("add", "delete", "add")]
    return [*renewed, *_base_objects(), _add("chain", "bridge", name=f"version-{BASE}")]


def _element(verb: str, element: Element) -> Command:
    key: Any = element.key[0] if len(element.key) == 1 else {"concat": list(element.key)}
    entry = key if element.value is None else [key, element.value]
    return {verb: {"element": {"family": "bridge", "table": TABLE, "name": element.set, "elem": [entry]}}}


def _zone_parts(zone: int) -> tuple[str, Command]:
    chain = f"zone-{zone}"
    entry = [zone, {"jump": {"target": chain}}]
    return chain, {"element": {"family": "ip", "table": TABLE, "name": ZONES, "elem": [entry]}}


def _zone_added(zone: int) -> list[Command]:
    chain, element = _zone_parts(zone)
    set_zone = {"mangle": {"key": {"ct": {"key": "zone"}}, "value": zone}}
    return [_add("chain", "ip", name=chain), _add("rule", "ip", chain=chain, expr=[set_zone]), {"add": element}]


def _zone_removed(zone: int) -> list[Command]:
    chain, element = _zone_parts(zone)
    target = {"chain": {"family": "ip", "table": TABLE, "name": chain}}
    return [{"delete": element}, {"flush": target}, {"delete": target}]


def parse(listed: Iterable[Command]) -> FirewallState:
    """Read the objects of `nft -j list ruleset`; what is not ours is passed over."""
    base, elements, zones = "", set(), set()
    for entry in listed:
        for kind, item in entry.items():
            family, name = item.get("family"), item.get("name", "")
            if item.get("table") != TABLE:
                continue
            if kind == "chain" and family == "bridge" and name.startswith("version-"):
                base = name.removeprefix("version-")
            elif kind == "chain" and family == "ip" and name.startswith("zone-"):
                zones.add(int(name.removeprefix("zone-")))
            elif kind in {"set", "map"} and family == "bridge":
                elements |= {_parsed(name, element) for element in item.get("elem", [])}
    return FirewallState(base, frozenset(elements), frozenset(zones))


def _parsed(name: str, element: Any) -> Element:
    key, value = element if isinstance(element, list) else (element, None)
    return Element(name, tuple(key["concat"]) if isinstance(key, dict) else (key,), value)
