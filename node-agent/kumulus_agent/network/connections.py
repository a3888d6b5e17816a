"""Tracked connections of a network, held to what its groups permit now.

A connection that was permitted once passes by its entry in the kernel's table, whatever the rules say later. So each
change of the rules is followed by a look at the entries: those that could no longer begin are marked as refused, and
dropped by that; those that could again are freed of it. Neutron's changes, too, apply to connections that exist.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from socket import AF_INET, AF_INET6
from typing import Any

from kumulus_agent.network import namespace
from kumulus_agent.network.errors import NetworkError
from kumulus_agent.network.groups import ICMP, Direction, Flow, GroupKey, permits, stateless
from kumulus_agent.network.netlink import AsyncConntrack, NetlinkError, netfilter_socket
from kumulus_agent.network.rules import REFUSED
from kumulus_agent.network.state import NetworkDesired

_GONE = 2
"""ENOENT: the connection has ended meanwhile."""


@dataclass(frozen=True, slots=True)
class Connection:
    """An entry of the table.

    Attributes:
        flow: as it began.
        refused: whether it is marked so.
        key: what the kernel finds it by.
    """

    flow: Flow
    refused: bool
    key: Any = field(compare=False, default=None)


def changed(desired: NetworkDesired, connections: Iterable[Connection]) -> list[Connection]:
    """Give the connections as they are to be marked, of those that are not."""
    groups_at = _groups_at(desired)
    changes = []
    for connection in connections:
        flow = connection.flow
        ends: tuple[tuple[Direction, list[frozenset[GroupKey] | None]], ...] = (
            ("egress", groups_at(flow.source)),
            ("ingress", groups_at(flow.destination)),
        )
        refused = any(
            held and not any(_lets(keys, desired, direction, flow) for keys in held) for direction, held in ends
        )
        if refused != connection.refused and not _of_dhcp(flow):
            changes.append(Connection(flow, refused, connection.key))
    return changes


def _lets(keys: frozenset[GroupKey] | None, desired: NetworkDesired, direction: Direction, flow: Flow) -> bool:
    """Whether a port of these groups holds nothing against a connection; of a stateless one each packet is judged."""
    if keys is None or stateless(keys, desired.groups):
        return True
    return permits(keys, desired.groups, direction, flow)


def _groups_at(desired: NetworkDesired) -> Callable[[IPv4Address | IPv6Address], list[frozenset[GroupKey] | None]]:
    """Give what tells the groups of each port here that has an address: as its own, or else as one of its pairs.

    Several ports may use an address of pairs: what one of them permits may be its connection.
    """
    own: dict[IPv4Address | IPv6Address, list[frozenset[GroupKey] | None]] = defaultdict(list)
    for port in desired.ports:
        for address in port.sources:
            own[address].append(port.groups)
    ranges = [(addresses, port.groups) for port in desired.ports for addresses in port.ranges]

    def at(address: IPv4Address | IPv6Address) -> list[frozenset[GroupKey] | None]:
        return own.get(address) or [groups for addresses, groups in ranges if address in addresses]

    return at


def _of_dhcp(flow: Flow) -> bool:
    """Whether an address is asked for or given, which rules of its own judge: an entry lives on from start to start."""
    return (flow.protocol, flow.first, flow.second) in ((17, 68, 67), (17, 67, 68), (17, 546, 547), (17, 547, 546))


async def judge(name: str, zone: int, desired: NetworkDesired) -> int:
    """Mark the connections of a network in the datapath's namespace; return how many were otherwise.

    Raises:
        NetworkError: the kernel refused.
    """
    families = (AF_INET, AF_INET6) if any(port.sources6 for port in desired.ports) else (AF_INET,)
    return sum([await _judge(name, zone, desired, family) for family in families])


async def _judge(name: str, zone: int, desired: NetworkDesired, family: int) -> int:
    async with tracked(name, family) as table:
        found = [connection async for connection in _read(table, zone, family)]
        changes = changed(desired, found)
        for connection in changes:
            try:
                await table.entry(
                    "set", tuple_orig=connection.key, zone=zone, mark=REFUSED if connection.refused else 0
                )
            except NetlinkError as error:
                if error.code != _GONE:
                    raise NetworkError(f"asked to mark {connection.flow}: {error}") from error
        return len(changes)


@asynccontextmanager
async def tracked(name: str, family: int) -> AsyncIterator[AsyncConntrack]:
    """Open the kernel's table of connections of a namespace, for one family."""
    handle = namespace.within(name, netfilter_socket).detach()
    async with AsyncConntrack(nfgen_family=family, fileno=handle) as table:
        yield table


async def _read(table: AsyncConntrack, zone: int, family: int) -> AsyncIterator[Connection]:
    async for entry in await table.dump_entries(zone=zone):
        key = entry.tuple_orig
        if entry.zone != zone or key.family != family:
            continue
        first, second = (key.icmp_type, key.icmp_code) if key.proto in ICMP.values() else (key.sport, key.dport)
        flow = Flow(key.proto, ip_address(key.saddr), ip_address(key.daddr), first or 0, second or 0)
        yield Connection(flow, bool((entry.mark or 0) & REFUSED), key)
