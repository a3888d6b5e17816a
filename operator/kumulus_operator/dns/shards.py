"""Spread zone files over ConfigMaps, none of which holds more than 1 MiB (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CAPACITY = 900 * 1024
"""Bytes of zone files in one ConfigMap: of the mebibyte that Kubernetes allows, the rest is for names and metadata."""


class NoRoom(Exception):
    """No ConfigMap has room for a zone."""

    def __init__(self, domain: str) -> None:
        super().__init__(domain)
        self.domain = domain


@dataclass(frozen=True)
class Placed:
    """Where a zone file is.

    Attributes:
        shard: number of the ConfigMap.
        size: bytes.
        digest: of its text.
        serial: of its start of authority; None if it is not one of ours.
    """

    shard: int
    size: int
    digest: str
    serial: int | None


def plan_shards(wanted: Mapping[str, int | None], found: Mapping[str, Sequence[Placed]], shards: int) -> dict[str, int]:
    """Choose a ConfigMap for each zone file that is written: the one that it is in, else the first with room.

    Args:
        wanted: domains that change, with the bytes of their zone files; None takes one away.
        found: where zone files are; an interrupted move leaves one in two places.
        shards: how many ConfigMaps there are.

    Returns:
        The ConfigMap of each domain that is not taken away.

    Raises:
        NoRoom: for the first domain that fits nowhere.
    """
    used = [0] * shards
    for domain, places in found.items():
        for placed in places if domain not in wanted else ():
            used[placed.shard] += placed.size
    chosen: dict[str, int] = {}
    # Those that stay go first, so that a new one does not drive one out.
    for domain in sorted(wanted, key=lambda name: (name not in found, name)):
        size = wanted[domain]
        if size is None:
            continue
        own = [placed.shard for placed in found.get(domain, ())]
        for shard in (*own, *range(shards)):
            if used[shard] + size <= CAPACITY:
                chosen[domain] = shard
                used[shard] += size
                break
        else:
            raise NoRoom(domain)
    return chosen
