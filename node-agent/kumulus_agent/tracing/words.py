"""The words that nft prints for numbers, by the field that they stand in."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any, Final

Value = int | str
"""What is compared: names of interfaces are text, all else is a number."""

PROTOCOLS: Final = {
    "ip": 0, "hopopt": 0, "icmp": 1, "igmp": 2, "tcp": 6, "udp": 17, "dccp": 33, "ipv6-route": 43, "ipv6-frag": 44,
    "gre": 47, "esp": 50, "ah": 51, "ipv6-icmp": 58, "icmpv6": 58, "ipv6-opts": 60, "sctp": 132, "udplite": 136,
}  # fmt: skip
ETHER_TYPES: Final = {"ip": 0x0800, "arp": 0x0806, "8021q": 0x8100, "ip6": 0x86DD, "8021ad": 0x88A8, "vlan": 0x8100}
FAMILIES: Final = {"ipv4": 2, "ipv6": 10}
ICMP_TYPES: Final = {
    "echo-reply": 0, "destination-unreachable": 3, "source-quench": 4, "redirect": 5, "echo-request": 8,
    "router-advertisement": 9, "router-solicitation": 10, "time-exceeded": 11, "parameter-problem": 12,
    "timestamp-request": 13, "timestamp-reply": 14, "info-request": 15, "info-reply": 16,
    "address-mask-request": 17, "address-mask-reply": 18,
}  # fmt: skip
ICMP_CODES: Final = {
    "net-unreachable": 0, "host-unreachable": 1, "prot-unreachable": 2, "port-unreachable": 3, "frag-needed": 4,
    "net-prohibited": 9, "host-prohibited": 10, "admin-prohibited": 13,
}  # fmt: skip
ICMPV6_TYPES: Final = {
    "destination-unreachable": 1, "packet-too-big": 2, "time-exceeded": 3, "parameter-problem": 4,
    "echo-request": 128, "echo-reply": 129, "mld-listener-query": 130, "mld-listener-report": 131,
    "mld-listener-done": 132, "mld-listener-reduction": 132, "nd-router-solicit": 133, "nd-router-advert": 134,
    "nd-neighbor-solicit": 135, "nd-neighbor-advert": 136, "nd-redirect": 137, "router-renumbering": 138,
    "ind-neighbor-solicit": 141, "ind-neighbor-advert": 142, "mld2-listener-report": 143,
}  # fmt: skip
ICMPV6_CODES: Final = {
    "no-route": 0, "admin-prohibited": 1, "addr-unreachable": 3, "port-unreachable": 4, "policy-fail": 5,
    "reject-route": 6,
}  # fmt: skip
STATES: Final = {"invalid": 1, "established": 2, "related": 4, "new": 8, "untracked": 64}
STATUSES: Final = {
    "expected": 1, "seen-reply": 2, "assured": 4, "confirmed": 8, "snat": 16, "dnat": 32, "dying": 512,
}  # fmt: skip
DIRECTIONS: Final = {"original": 0, "reply": 1}
_WORDS: Final[Mapping[tuple[str, str], Mapping[str, int]]] = {
    ("meta", "nfproto"): FAMILIES,
    ("meta", "l4proto"): PROTOCOLS,
    ("meta", "protocol"): ETHER_TYPES,
    ("ct", "state"): STATES,
    ("ct", "status"): STATUSES,
    ("ct", "direction"): DIRECTIONS,
    ("ether", "type"): ETHER_TYPES,
    ("ip", "protocol"): PROTOCOLS,
    ("ip6", "nexthdr"): PROTOCOLS,
    ("icmp", "type"): ICMP_TYPES,
    ("icmp", "code"): ICMP_CODES,
    ("icmpv6", "type"): ICMPV6_TYPES,
    ("icmpv6", "code"): ICMPV6_CODES,
}
Field = tuple[str, str]
"""Where a value comes from: `meta` or `ct` and a key, or a protocol and one of its header's fields."""


def is_text(field: Field) -> bool:
    """Whether values of a field are names."""
    return field in (("meta", "iifname"), ("meta", "oifname"), ("fib", "type"))


def width(field: Field, text: str = "") -> int:
    """Give the bits of a field, where a prefix is said of it."""
    if field[1] in ("saddr", "daddr"):
        return {"ip": 32, "ip6": 128, "ether": 48}.get(field[0], 32)
    return 128 if ":" in text else 32


def number(field: Field, word: Any) -> Value:
    """Give what a word of nft's stands for.

    Raises:
        ValueError: nobody knows.
    """
    if isinstance(word, int):
        return word
    if is_text(field):
        return str(word)
    known = _WORDS.get(field, {})
    if word in known:
        return known[word]
    text = str(word)
    if field[0] == "ether":
        return int(text.replace(":", ""), 16)
    if "." in text or ":" in text:
        return int(ip_address(text))
    return int(text, 0)
