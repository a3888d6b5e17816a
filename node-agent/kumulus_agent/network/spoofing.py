"""What a guest may claim to be: rules of table `bridge` for frames as they come from it.

A frame has a MAC of its port, and an address of it: in IP, in ARP and in neighbour discovery (RFC 4861), whose messages
are looked into by a chain for each network, as nftables has no name for their fields. Nothing that only a router or a
DHCP server says passes, nor what could hide it: fragments of ICMPv6 begin with an echo or an error (RFC 6980), and
fragments with further headers behind the fragment's are dropped (RFC 7112).

A port may use more than its own: addresses of pairs, or, without port security, whatever it likes. But to the network's
own servers, which tell guests apart by MAC and address, it speaks as itself: frames on that way go through the same
chains a second time, with its own alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from typing import Any, Final

from kumulus_agent.network.expressions import ACCEPT, DROP, anyof, digest, field, match, meta, transported, udp
from kumulus_agent.network.limits import counted_spoof, new_voices

RARP = 0x8035
"""Ethernet type of the announcements that QEMU sends for a guest that has just migrated."""
NEIGHBOURS: Final = "neighbours"
"""The map of interface to the chain that looks into its neighbour discovery."""
OWN_NEIGHBOURS: Final = "own-neighbours"
"""The same, of those that may use more than their own, for what they send to the network's servers."""
ADVERTISERS: Final = "advertisers"
"""The interfaces that router advertisements come from."""

SOLICIT_ROUTER, ADVERTISE_ROUTER, SOLICIT, ADVERTISE, REDIRECT = 133, 134, 135, 136, 137
QUERY, REPORT, DONE, REPORT_2 = 130, 131, 132, 143
"""Multicast listener discovery (RFC 2710, RFC 3810)."""
ICMPV6: Final = 58
_ECHOES_AND_ERRORS: Final = (1, 2, 3, 4, 128, 129)
DHCP, DHCPV6 = (67, 68), (547, 546)
"""Ports of server and client."""
_ROUTERS_ONLY: Final = (QUERY, ADVERTISE_ROUTER, REDIRECT, 138, 151)
"""With router renumbering (RFC 2894) and multicast router advertisement (RFC 4286)."""
_HEADERS: Final = (0, 43, 44, 51, 60)
"""Extension headers: hop-by-hop, routing, fragment, authentication, destination options."""
_TYPE = field("icmpv6", "type")
_LENGTH = field("ip6", "length")
_UNSPECIFIED = "::"
_KNOWN = match(field("ip6", "saddr"), _UNSPECIFIED, "!=")
_ADDRESS_BITS, _MAC_BITS = 128, 48
SERVICE_MAC_MASK: Final = "ff:ff:ff:00:00:00"
SERVICE_MAC_PREFIX: Final = "0e:6b:6d:00:00:00"
TAGGED: Final = ("8021q", "8021ad")
"""Ethernet types that lead into another network."""
SETS: Final[dict[str, list[str]]] = {
    "macs": ["ifname", "ether_addr"],
    "addresses": ["ifname", "ipv4_addr"],
    "addresses6": ["ifname", "ipv6_addr"],
    "pairs": ["ifname", "ipv4_addr"],
    "pairs6": ["ifname", "ipv6_addr"],
    "unchecked": ["ifname"],
    "lenient": ["ifname"],
    "own": ["ifname", "ether_addr"],
}
"""What ports may use; those of which nothing is looked at; those that may use more than their own, and that."""
RANGES: Final = ("pairs", "pairs6")
"""The sets whose addresses are ranges: no two of an interface's overlap."""


@dataclass(frozen=True)
class _Check:
    """What frames are held to: the sets and map to look into, and what becomes of one that is otherwise.

    Attributes:
        name: of its first chain; with that the names of the others begin.
    """

    name: str
    macs: str
    addresses: tuple[str, ...]
    addresses6: tuple[str, ...]
    neighbours: str
    drop: tuple[Any, ...]

    def to(self, part: str) -> Any:
        """Go on with one of its other chains."""
        return {"goto": {"target": f"{self.name}-{part}"}}


_GUEST = _Check("guest", "macs", ("addresses", "pairs"), ("addresses6", "pairs6"), NEIGHBOURS, tuple(counted_spoof()))
_OWN = _Check("own", "own", ("addresses",), ("addresses6",), OWN_NEIGHBOURS, (DROP,))


def from_port(header: Any, named: str, op: str = "==") -> Any:
    """Interface and header field together are (not) in the named set."""
    return match({"concat": [meta("iifname"), header]}, f"@{named}", op)


def no_router(interfaces: str = ADVERTISERS) -> list[Any]:
    """What only a router says, from where there is none."""
    return [match(meta("iifname"), f"@{interfaces}", "!="), match(_TYPE, anyof(ADVERTISE_ROUTER, REDIRECT)), DROP]


def of_service() -> Any:
    """From a MAC of the networks' own servers."""
    return match({"&": [field("ether", "saddr"), SERVICE_MAC_MASK]}, SERVICE_MAC_PREFIX)


def to_service() -> list[Any]:
    """What a port that may use more than its own sends to the network's servers."""
    return [match(meta("iifname"), "@lenient"), match(meta("oifname"), "@services"), {"goto": {"target": _OWN.name}}]


def guest_chains() -> dict[str, list[list[Any]]]:
    """Give the chains that a frame of a guest goes through, in an order in which each knows those it goes to."""
    chains: dict[str, list[list[Any]]] = {"guest-unchecked": _unchecked()}
    for check in (_OWN, _GUEST):
        parts = {"ip": _ip, "arp": _arp, "fragment": _fragment, "nd": _discovery, "ip6": _ip6}
        chains |= {f"{check.name}-{part}": rules(check) for part, rules in parts.items()}
        chains[check.name] = _frame(check)
    chains["guest"].insert(0, [match(meta("iifname"), "@unchecked"), {"goto": {"target": "guest-unchecked"}}])
    return chains


def _frame(check: _Check) -> list[list[Any]]:
    ether_type = field("ether", "type")
    return [
        [from_port(field("ether", "saddr"), check.macs, "!="), *check.drop],
        [match(ether_type, "ip"), check.to("ip")],
        [match(ether_type, "ip6"), check.to("ip6")],
        [match(ether_type, "arp"), check.to("arp")],
        [match(ether_type, RARP), ACCEPT],
        [*check.drop],
    ]


def _unchecked() -> list[list[Any]]:
    """Whatever it sends stays in its network: a tag would lead into another one, the servers' MACs to every host."""
    return [
        *([match(field("ether", "type"), kind), *counted_spoof()] for kind in TAGGED),
        [of_service(), *counted_spoof()],
        *new_voices(),
        [ACCEPT],
    ]


def _arp(check: _Check) -> list[list[Any]]:
    # The first four make sure that the fields lie where the others look for them.
    layout = {"htype": 1, "ptype": "ip", "hlen": 6, "plen": 4}
    return [
        *([match(field("arp", name), value, "!="), *check.drop] for name, value in layout.items()),
        [from_port(field("arp", "saddr ether"), check.macs, "!="), *check.drop],
        [match(field("arp", "saddr ip"), "0.0.0.0"), ACCEPT],  # noqa: S104 - a probe (RFC 5227), not a listener
        *([from_port(field("arp", "saddr ip"), named), ACCEPT] for named in check.addresses),
        [*check.drop],
    ]


def _ip(check: _Check) -> list[list[Any]]:
    unconfigured = [match(field("ip", "saddr"), "0.0.0.0"), match(field("ip", "daddr"), "255.255.255.255")]  # noqa: S104 - as above
    server, client = DHCP
    return [
        [*udp(server, client), *check.drop],
        [*unconfigured, *udp(client, server), ACCEPT],
        *([from_port(field("ip", "saddr"), named), ACCEPT] for named in check.addresses),
        [*check.drop],
    ]


def _fragment(check: _Check) -> list[list[Any]]:
    """What may be in a fragment: a rule that looks for what cannot be read matches nothing, so the last one drops."""

    def fragment(name: str, value: Any, op: str = "==") -> Any:
        return match({"exthdr": {"name": "frag", "field": name}}, value, op)

    done = {"return": None}
    return [
        [fragment("nexthdr", anyof(*_HEADERS)), *check.drop],
        [fragment("nexthdr", ICMPV6, "!="), done],
        [fragment("frag-off", 0, "!="), done],
        [match(_TYPE, anyof(*_ECHOES_AND_ERRORS)), done],
        [*check.drop],
    ]


def _ip6(check: _Check) -> list[list[Any]]:
    source, discovery = field("ip6", "saddr"), anyof(SOLICIT_ROUTER, SOLICIT, ADVERTISE)
    fragmented = match({"exthdr": {"name": "frag"}}, right=True)
    return [
        [fragmented, {"jump": {"target": f"{check.name}-fragment"}}],
        [match(field("udp", "dport"), DHCPV6[1]), *check.drop],
        [match(_TYPE, anyof(*_ROUTERS_ONLY)), *check.drop],
        [match(_TYPE, discovery), check.to("nd")],
        # Groups are joined before an address may be used (RFC 3590).
        [match(source, _UNSPECIFIED), match(field("ip6", "daddr"), "ff02::16"), match(_TYPE, REPORT_2), ACCEPT],
        *([from_port(source, named), ACCEPT] for named in check.addresses6),
        [*check.drop],
    ]


def _discovery(check: _Check) -> list[list[Any]]:
    """What holds for neighbour discovery of every guest: who speaks, and that it is of a shape that can be looked into.

    A message has no extension header before it and one option behind it at most, which says a MAC; only that of a probe
    for an address that is yet to be used (from `::`, RFC 4862) need not be looked at: no receiver does.
    """
    source, probing = field("ip6", "saddr"), match(field("ip6", "saddr"), _UNSPECIFIED)

    def shape(kind: int, bare: int, option: int) -> list[list[Any]]:
        says = transported(bare * 8, 16)
        return [
            [match(_TYPE, kind), _KNOWN, match(_LENGTH, anyof(bare, bare + 8), "!="), *check.drop],
            [match(_TYPE, kind), _KNOWN, match(_LENGTH, bare + 8), match(says, option << 8 | 1, "!="), *check.drop],
        ]

    return [
        [match(field("ip6", "nexthdr"), ICMPV6, "!="), *check.drop],
        [_KNOWN, *(from_port(source, named, "!=") for named in check.addresses6), *check.drop],
        [match(_TYPE, ADVERTISE), probing, *check.drop],
        [match(_TYPE, SOLICIT_ROUTER), probing, match(_LENGTH, 8, "!="), *check.drop],
        *shape(ADVERTISE, 24, 2),
        *shape(SOLICIT, 24, 1),
        *shape(SOLICIT_ROUTER, 8, 1),
        [{"vmap": {"key": meta("iifname"), "data": f"@{check.neighbours}"}}],
        [*check.drop],
    ]


Speaker = tuple[str, str, tuple[IPv6Address, ...]]
"""A port: interface, MAC, and its addresses of IPv6."""


def neighbour_chain(ports: Iterable[Speaker], zone: int, *, own: bool = False) -> tuple[str, tuple[Any, ...]]:
    """Give the chain that looks into neighbour discovery of a network's ports: its name, and its rules.

    What a message tells of is an address of the port, and the MAC in it is the port's: a receiver believes both.

    Args:
        ports: which have no more than this.
        zone: number of the network.
        own: it is about what is sent to the network's servers, by ports that may have more.
    """
    spoken = sorted(ports)
    targets = {"set": [_pair(name, hex(int(address))) for name, _, own6 in spoken for address in sorted(own6)]}
    macs = {"set": [_pair(name, _octets(mac)) for name, mac, _ in spoken]}

    def foreign(offset: int, bits: int) -> list[Any]:
        header = {"concat": [meta("iifname"), transported(offset, bits)]}
        return [match(header, targets if bits == _ADDRESS_BITS else macs, "!=")]

    return _named(zone, _neighbour_rules(foreign, _OWN if own else _GUEST))


def paired_chain(macs: Iterable[str], addresses: Iterable[IPv6Network], zone: int) -> tuple[str, tuple[Any, ...]]:
    """Give the chain that looks into neighbour discovery of a port that has pairs: its name, and its rules.

    Args:
        macs: that it may use.
        addresses: that it may use; none overlaps another.
        zone: number of the network.
    """
    targets, octets = list(map(_range, sorted(addresses))), sorted(map(_octets, macs))

    def foreign(offset: int, bits: int) -> list[Any]:
        wanted = targets if bits == _ADDRESS_BITS else octets
        return [match(transported(offset, bits), anyof(*wanted), "!=")] if None not in wanted else []

    return _named(zone, _neighbour_rules(foreign, _GUEST))


def _neighbour_rules(foreign: Callable[[int, int], list[Any]], check: _Check) -> list[list[Any]]:
    """Give the rules; `foreign` matches what stands so many bits behind IP's header and is not the port's."""
    solicited = [match(_TYPE, SOLICIT), match(field("ip6", "saddr"), _UNSPECIFIED)]
    told = [match(_TYPE, anyof(SOLICIT, ADVERTISE)), _KNOWN, match(_LENGTH, 32)]
    asked = [match(_TYPE, SOLICIT_ROUTER), match(_LENGTH, 16)]
    of_target = foreign(64, _ADDRESS_BITS)
    targets = [[match(_TYPE, ADVERTISE), *of_target, *check.drop], [*solicited, *of_target, *check.drop]]
    return [
        *(targets if of_target else []),
        [*told, *foreign(208, _MAC_BITS), *check.drop],
        [*asked, *foreign(80, _MAC_BITS), *check.drop],
        [ACCEPT],
    ]


def _named(zone: int, rules: list[list[Any]]) -> tuple[str, tuple[Any, ...]]:
    return f"nd-{zone}-{digest(rules)}", tuple(rules)


def _octets(mac: str) -> int:
    return int(mac.replace(":", ""), 16)


def _range(network: IPv6Network) -> Any:
    """Give the addresses as numbers; None stands for all."""
    first, last = (hex(int(address)) for address in (network[0], network[-1]))
    if not network.prefixlen:
        return None
    return first if first == last else {"range": [first, last]}


def _pair(*parts: str | int) -> Any:
    return {"concat": list(parts)}
