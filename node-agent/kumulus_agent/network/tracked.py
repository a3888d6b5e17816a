"""The kernel's table of connections of a namespace: reading it, and marking in it those that are refused.

An entry of those is not removed instead: the next packet of whoever answers would begin the connection anew, in the
other direction.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from kumulus_agent.network import namespace
from kumulus_agent.network.errors import NetworkError
from kumulus_agent.network.groups import ICMP, REFUSED, Flow
from kumulus_agent.network.netlink import AsyncConntrack, NetlinkError, netfilter_socket

_GONE = 2
"""ENOENT: the connection has ended meanwhile."""


@dataclass(frozen=True, slots=True)
class Connection:
    """An entry of the table.

    Attributes:
        flow: its first packet.
        refused: whether it is marked so.
        key: what the kernel finds it by.
    """

    flow: Flow
    refused: bool
    key: Any = field(compare=False, default=None)


def otherwise(connections: Iterable[Connection], refuses: Callable[[Flow], bool]) -> list[Connection]:
    """Give the connections as they are to be marked, of those that are not."""
    found = ((item, refuses(item.flow)) for item in connections)
    return [Connection(item.flow, refused, item.key) for item, refused in found if refused != item.refused]


async def hold(
    name: str,
    families: Iterable[int],
    changed: Callable[[list[Connection]], list[Connection]],
    *,
    zone: int | None = None,
    translated: bool = False,
) -> int:
    """Mark the connections of a namespace; return how many were otherwise.

    Args:
        name: of the namespace.
        families: AF_INET, AF_INET6.
        changed: gives the connections as they are to be marked, of those that are not.
        zone: only those of this zone of the table.
        translated: a flow's destination is the one that it was translated to, not the one that was asked for.

    Raises:
        NetworkError: the kernel refused.
    """
    return sum([await _hold(name, family, changed, zone, translated) for family in families])


async def forget(name: str, families: Iterable[int], chosen: Callable[[Any], bool]) -> int:
    """Forget connections of a namespace; return how many.

    Args:
        name: of the namespace.
        families: AF_INET, AF_INET6.
        chosen: whether an entry, as pyroute2 gives it, is to go.

    Raises:
        NetworkError: the kernel refused.
    """
    count = 0
    for family in families:
        async with _table(name, family) as table:
            entries = [entry async for entry in await table.dump_entries() if entry.tuple_orig.family == family]
            found = [entry.tuple_orig for entry in entries if chosen(entry)]
            for key in found:
                await _change(table, "del", key)
            count += len(found)
    return count


async def _hold(
    name: str,
    family: int,
    changed: Callable[[list[Connection]], list[Connection]],
    zone: int | None,
    translated: bool,
) -> int:
    of_zone = {} if zone is None else {"zone": zone}
    async with _table(name, family) as table:
        entries = [entry async for entry in await table.dump_entries(**of_zone)]
        changes = changed(
            [
                _connection(entry, translated)
                for entry in entries
                if entry.tuple_orig.family == family and (zone is None or entry.zone == zone)
            ]
        )
        for item in changes:
            await _change(table, "set", item.key, mark=REFUSED if item.refused else 0, **of_zone)
    return len(changes)


async def _change(table: AsyncConntrack, verb: str, key: Any, **what: int) -> None:
    try:
        await table.entry(verb, tuple_orig=key, **what)
    except NetlinkError as error:
        if error.code != _GONE:
            raise NetworkError(f"asked to {verb} connection {key}: {error}") from error


@asynccontextmanager
async def _table(name: str, family: int) -> AsyncIterator[AsyncConntrack]:
    """Open the kernel's table of connections of a namespace, for one family."""
    handle = namespace.within(name, netfilter_socket).detach()
    async with AsyncConntrack(nfgen_family=family, fileno=handle) as table:
        yield table


def _connection(entry: Any, translated: bool) -> Connection:
    key, answer = entry.tuple_orig, entry.tuple_reply
    destination, port = (answer.saddr, answer.sport) if translated else (key.daddr, key.dport)
    first, second = (key.icmp_type, key.icmp_code) if key.proto in ICMP.values() else (key.sport, port)
    flow = Flow(key.proto, ip_address(key.saddr), ip_address(destination), first or 0, second or 0)
    return Connection(flow, bool((entry.mark or 0) & REFUSED), key)
