"""Tracked connections of a network, held to what its groups permit now.

A connection that was permitted once passes by its entry in the kernel's table, whatever the rules say later. So each
change of the rules is followed by a look at the entries: those that could no longer begin are marked as refused, and
dropped by that; those that could again are freed of it. Neutron's changes, too, apply to connections that exist.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address
from socket import AF_INET, AF_INET6

from kumulus_agent.network import tracked
from kumulus_agent.network.groups import Direction, Flow, GroupKey, permits, stateless
from kumulus_agent.network.state import NetworkDesired
from kumulus_agent.network.tracked import Connection


def changed(desired: NetworkDesired, connections: Iterable[Connection]) -> list[Connection]:
    """Give the connections as they are to be marked, of those that are not."""
    groups_at = _groups_at(desired)

    def refuses(flow: Flow) -> bool:
        ends: tuple[tuple[Direction, list[frozenset[GroupKey] | None]], ...] = (
            ("egress", groups_at(flow.source)),
            ("ingress", groups_at(flow.destination)),
        )
        return any(held and not any(_lets(keys, desired, direction, flow) for keys in held) for direction, held in ends)

    return tracked.otherwise((item for item in connections if not _of_dhcp(item.flow)), refuses)


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
    return await tracked.hold(name, families, lambda connections: changed(desired, connections), zone=zone)
