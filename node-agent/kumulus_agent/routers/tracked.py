"""Tracked connections of a router, held to its firewall: those that it no longer allows are marked as refused.

An entry is not removed instead: the next packet of whoever answers would begin the connection anew, in the other
direction.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address
from socket import AF_INET, AF_INET6
from typing import Any

from kumulus_agent.network.connections import tracked
from kumulus_agent.network.errors import NetworkError
from kumulus_agent.network.groups import ICMP, Flow
from kumulus_agent.network.netlink import AsyncConntrack, NetlinkError
from kumulus_agent.routers.firewall import REFUSED, Firewall, allows

_GONE = 2
"""ENOENT: the connection has ended meanwhile."""


@dataclass(frozen=True, slots=True)
class Tracked:
    """A connection of a router: as it began, with the destination that it was translated to.

    Attributes:
        flow: its first packet.
        refused: whether it is marked so.
        key: what the kernel finds it by.
    """

    flow: Flow
    refused: bool
    key: Any = field(compare=False, default=None)


def changed(firewall: Firewall, connections: Iterable[Tracked]) -> list[Tracked]:
    """Give the connections as they are to be marked, of those that are not."""
    found = ((item, not allows(firewall, item.flow)) for item in connections)
    return [Tracked(item.flow, refused, item.key) for item, refused in found if refused != item.refused]


async def hold(name: str, firewall: Firewall) -> int:
    """Mark the connections in a router's namespace; return how many were otherwise.

    Raises:
        NetworkError: the kernel refused.
    """
    return sum([await _hold(name, firewall, family) for family in (AF_INET, AF_INET6)])


async def _hold(name: str, firewall: Firewall, family: int) -> int:
    async with tracked(name, family) as table:
        changes = changed(firewall, [item async for item in _read(table, family)])
        for item in changes:
            try:
                await table.entry("set", tuple_orig=item.key, mark=REFUSED if item.refused else 0)
            except NetlinkError as error:
                if error.code != _GONE:
                    raise NetworkError(f"asked to mark {item.flow}: {error}") from error
        return len(changes)


async def _read(table: AsyncConntrack, family: int) -> AsyncIterator[Tracked]:
    async for entry in await table.dump_entries():
        key, answer = entry.tuple_orig, entry.tuple_reply
        if key.family != family:
            continue
        first, second = (key.icmp_type, key.icmp_code) if key.proto in ICMP.values() else (key.sport, answer.sport)
        flow = Flow(key.proto, ip_address(key.saddr), ip_address(answer.saddr), first or 0, second or 0)
        yield Tracked(flow, bool((entry.mark or 0) & REFUSED), key)
