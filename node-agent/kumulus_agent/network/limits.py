"""What a port is held to in the number of its connections, and what is counted of all that is dropped, by port.

The kernel itself adds to these sets, with the first packet that an element is about: a port that nothing happens to
costs nothing, neither here nor where the counters are read.

A port may begin so many connections in a second, and have so many that it began. Of these two the first is needed for
the second: the kernel's count keeps a note of each connection that it is asked about, also of those that are then
dropped, and forgets only some dozens of them at a time; without the first a flood would fill its memory with notes.

The kernel keeps fragments until their packet is whole, those of all tenants in the same memory (`namespace`), and when
that is full nobody's packets are put together. So before they come there, fragments are bounded by the port, or the
tunnel, that they come from, and by their network: those of its ports here and elsewhere that come to this host.

A port without port security may speak by any MAC, and all hosts of its network would learn as many as it makes up: it
may have some thousands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

SPOOFED: Final = "spoofed"
"""Counts, by interface, what a guest sent that is not its own to send."""
FAMILY: Final = "inet"
"""Of the table in which connections are judged."""
DROPPED: Final = "dropped"
"""Counts, by port and reason, what was dropped of its packets; the reason stands where a mark has the network."""
EXCESS: Final = "excess"
BEGUN: Final = "begun"
TRACKED: Final = "tracked"
CONNECTIONS: Final = 8192
"""So many connections that it began a port may have; those that were closed do not count."""
CONNECTIONS_PER_SECOND: Final = 1000
CONNECTIONS_BURST: Final = 2000
PORT_MASK: Final = 0xFFFF0000
"""Of a mark: the number of a port."""

FRAGMENTS: Final = "fragments"
"""Bounds fragments, by where they come from."""
FRAGMENTS_OF_NETWORK: Final = "network-fragments"
FRAGMENTS_PER_SECOND: Final = 2000
"""So many of a port, and as many at once; of a network twice as many."""
VOICES: Final = "voices"
"""The MACs by which ports without port security have spoken, by interface: bridges here and elsewhere learn each."""
NEW_VOICES: Final = "new-voices"
"""Bounds new ones, by interface."""
VOICES_PER_SECOND: Final = 10
VOICES_BURST: Final = 500
VOICES_SECONDS: Final = 300
"""How long a MAC is not new: as long as bridges know it."""
NETWORK: Final = 0xFFFF
"""Of a mark: the number of a network."""

_CONFIRMED = 8
"""Of a connection's status: its first packet has gone all the way, and it stands in the table (IPS_CONFIRMED)."""
_PORT = {"&": [{"meta": {"key": "mark"}}, PORT_MASK]}
_DROP: dict[str, Any] = {"drop": None}


def refused(direction: str) -> str:
    """Name the chain that drops what the groups do not permit, and the set that counts it."""
    return f"refused-{direction}"


REASONS: Final = {refused("egress"): 1, refused("ingress"): 2, EXCESS: 3}
"""The chains that drop, and what stands for each in the counters' keys."""
KERNELS: Final = frozenset(
    {SPOOFED, DROPPED, BEGUN, TRACKED, FRAGMENTS, FRAGMENTS_OF_NETWORK, VOICES, NEW_VOICES},
)
"""The sets that the kernel adds to."""


def counting_sets(table: str) -> list[dict[str, Any]]:
    """Give the commands that make the sets."""

    def made(family: str, name: str, of: str) -> dict[str, Any]:
        counts = {"stmt": [{"counter": None}]} if name in (SPOOFED, DROPPED) else {}
        return {"add": {"set": {"family": family, "table": table, "name": name, "type": of, "size": 65535, **counts}}}

    by_mark = (DROPPED, BEGUN, TRACKED, FRAGMENTS, FRAGMENTS_OF_NETWORK)
    voices = {"type": ["ifname", "ether_addr"], "size": 1 << 20, "timeout": VOICES_SECONDS}
    return [
        *(made("bridge", name, "ifname") for name in (SPOOFED, NEW_VOICES)),
        {"add": {"set": {"family": "bridge", "table": table, "name": VOICES, **voices}}},
        *(made(FAMILY, name, "mark") for name in by_mark),
    ]


def forgotten(table: str, before: Mapping[str, int], after: Mapping[str, int]) -> list[dict[str, Any]]:
    """Give the commands that take out of the sets what they have about ports that are gone: others get their numbers.

    Args:
        table: the table's name.
        before: the mark of each interface as it was.
        after: as it will be.
    """
    ports = {mark & PORT_MASK for mark in before.values()} - {mark & PORT_MASK for mark in after.values()} - {0}
    gone: dict[tuple[str, str], list[str | int]] = {(FAMILY, name): sorted(ports) for name in (BEGUN, TRACKED)}
    gone[FAMILY, DROPPED] = [port | number for port in sorted(ports) for number in REASONS.values()]
    gone["bridge", SPOOFED] = gone["bridge", NEW_VOICES] = sorted(before.keys() - after.keys())
    marks, remaining = set(before.values()), set(after.values())
    networks = {mark & NETWORK for mark in marks} - {mark & NETWORK for mark in remaining}
    gone[FAMILY, FRAGMENTS] = sorted(marks - remaining)
    gone[FAMILY, FRAGMENTS_OF_NETWORK] = sorted(networks)
    # What is not there cannot be deleted, what is there can be added. One command for each key would take nft
    # five times as long.
    return [
        {verb: {"element": {"family": family, "table": table, "name": name, "elem": keys}}}
        for (family, name), keys in gone.items()
        if keys
        for verb in ("add", "delete")
    ]


def counted_spoof() -> list[dict[str, Any]]:
    """Give the end of a rule that drops a frame of a guest, and counts it."""
    return [{"set": {"op": "update", "elem": {"meta": {"key": "iifname"}}, "set": f"@{SPOOFED}"}}, _DROP]


def new_voices() -> list[list[dict[str, Any]]]:
    """Give the rules that a port is held to which may speak by any MAC: of new ones, so many."""
    voice = {"concat": [{"meta": {"key": "iifname"}}, {"payload": {"protocol": "ether", "field": "saddr"}}]}
    new = {"match": {"op": "!=", "left": voice, "right": f"@{VOICES}"}}
    limit = {"limit": {"rate": VOICES_PER_SECOND, "burst": VOICES_BURST, "per": "second", "inv": True}}
    paced = {"set": {"op": "add", "elem": {"meta": {"key": "iifname"}}, "set": f"@{NEW_VOICES}", "stmt": [limit]}}
    noted = {"set": {"op": "add", "elem": voice, "set": f"@{VOICES}"}}
    return [[new, paced, *counted_spoof()], [new, noted]]


def counted_drop(chain: str) -> list[dict[str, Any]]:
    """Give the rule of a chain of table `inet` that drops a port's packet, and counts it."""
    return [{"set": {"op": "update", "elem": {"|": [_PORT, REASONS[chain]]}, "set": f"@{DROPPED}"}}, _DROP]


def bounds() -> list[list[dict[str, Any]]]:
    """Give the rules that a packet which begins a connection is held to, by the port that it comes from."""
    begins = [
        # Not by its state: a stream that nobody answers is new with each packet.
        {"match": {"op": "==", "left": {"&": [{"ct": {"key": "status"}}, _CONFIRMED]}, "right": 0}},
        {"match": {"op": "!=", "left": _PORT, "right": 0}},
    ]
    rate = {"rate": CONNECTIONS_PER_SECOND, "burst": CONNECTIONS_BURST, "per": "second", "inv": True}
    statements = {BEGUN: {"limit": rate}, TRACKED: {"ct count": {"val": CONNECTIONS, "inv": True}}}
    return [
        [
            *begins,
            {"set": {"op": "add", "elem": _PORT, "set": f"@{name}", "stmt": [statement]}},
            {"goto": {"target": EXCESS}},
        ]
        for name, statement in statements.items()
    ]


def fragment_bounds() -> list[list[dict[str, Any]]]:
    """Give the rules that a fragment is held to, of either family, before it waits for the others of its packet."""
    mark = {"meta": {"key": "mark"}}
    offset = {"payload": {"protocol": "ip", "field": "frag-off"}}
    kinds: list[dict[str, Any]] = [
        # More of them follow, or have gone before.
        {"match": {"op": "!=", "left": {"&": [offset, 0x3FFF]}, "right": 0}},
        {"match": {"op": "==", "left": {"exthdr": {"name": "frag"}}, "right": True}},
    ]
    keys = {FRAGMENTS: (mark, 1), FRAGMENTS_OF_NETWORK: ({"&": [mark, NETWORK]}, 2)}

    def limit(times: int) -> dict[str, Any]:
        rate = times * FRAGMENTS_PER_SECOND
        return {"limit": {"rate": rate, "burst": rate, "per": "second", "inv": True}}

    return [
        [
            kind,
            {"set": {"op": "add", "elem": key, "set": f"@{name}", "stmt": [limit(times)]}},
            {"goto": {"target": EXCESS}},
        ]
        for kind in kinds
        for name, (key, times) in keys.items()
    ]


@dataclass(frozen=True, slots=True)
class Dropped:
    """Packets of a port that were dropped since it was plugged.

    Attributes:
        spoofed: from the guest, with what is not its own to send.
        egress: from the guest, which its groups do not permit.
        ingress: to the guest, which its groups do not permit.
        excess: from the guest: what would have begun one connection too many, or was one fragment too many.
    """

    spoofed: int = 0
    egress: int = 0
    ingress: int = 0
    excess: int = 0


def dropped_of(
    spoofed: Mapping[str | int, int], dropped: Mapping[str | int, int], marks: Mapping[str, int]
) -> dict[str, Dropped]:
    """Read the counters.

    Args:
        spoofed: packets by interface.
        dropped: packets by port and reason.
        marks: of interfaces.

    Returns:
        By interface, of those of which something was dropped.
    """
    found = {}
    for interface, mark in marks.items():
        port = mark & PORT_MASK
        egress, ingress, excess = (dropped.get(port | number, 0) for number in REASONS.values())
        counts = Dropped(spoofed.get(interface, 0), egress, ingress, excess) if port else Dropped()
        if counts != Dropped():
            found[interface] = counts
    return found


def counts_of(listed: Iterable[Mapping[str, Any]]) -> dict[str | int, int]:
    """Read a counting set as nft lists it: packets by key."""
    sets = (entry["set"] for entry in listed if "set" in entry)
    elements = (item["elem"] for found in sets for item in found.get("elem", []))
    return {element["val"]: element["counter"]["packets"] for element in elements}
