"""How fast a router may ask for neighbours that it does not know: rules of its namespace.

All namespaces of a host, its own among them, have one table of neighbours that were asked for, of 1,024 entries by
default (`gc_thresh3`). A guest that sends to address after address of a network behind its router would fill it, and no
other router, load balancer or DHCP server of the host, nor the host itself, would find anybody. So connections to new
next hops are begun no faster than this, whoever begins them; to those that were begun before, as fast as may be. As the
kernel asks for three seconds, a router has no more than 150 entries of hops that do not answer.
"""

from __future__ import annotations

from typing import Any, Final, Literal

PER_SECOND: Final = 25
BURST: Final = 75
_REMEMBERED: Final = 60
"""Seconds for which a next hop is not new."""
_MOST: Final = 65535
_ASKED, _PACE = "asked", "pace"
KERNELS: Final = frozenset({_ASKED, _PACE})
"""The sets that the kernel adds to."""
_TYPES: Final = {"ip": "ipv4_addr", "ip6": "ipv6_addr"}


def objects(family: Literal["ip", "ip6"], table: str) -> list[dict[str, Any]]:
    """Give the commands that make sets and chain in a table of that family, as libnftables-json(5)."""

    def made(kind: str, **attributes: Any) -> dict[str, Any]:
        return {"add": {kind: {"family": family, "table": table, **attributes}}}

    begins = {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "new"}}
    hop = {"rt": {"key": "nexthop", "family": family}}
    unknown = {"match": {"op": "!=", "left": hop, "right": f"@{_ASKED}"}}
    limit = {"limit": {"rate": PER_SECOND, "burst": BURST, "per": "second", "inv": True}}
    # One pace for all: nothing marks packets here.
    paced = {"set": {"op": "add", "elem": {"meta": {"key": "mark"}}, "set": f"@{_PACE}", "stmt": [limit]}}
    noted = {"set": {"op": "add", "elem": hop, "set": f"@{_ASKED}"}}
    chain = "asking"
    return [
        made("set", name=_ASKED, type=_TYPES[family], size=_MOST, timeout=_REMEMBERED),
        made("set", name=_PACE, type="mark", size=_MOST),
        made("chain", name=chain, type="filter", hook="forward", prio=10, policy="accept"),
        made("rule", chain=chain, expr=[begins, unknown, paced, {"drop": None}]),
        made("rule", chain=chain, expr=[begins, unknown, noted]),
    ]
