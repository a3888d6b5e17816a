"""Where the datagrams that come to a load balancer go (pure).

The kernel counts them in turns, or makes a number of who sends them; each number has a member. What is chosen so is
kept by connection tracking: the datagrams of a client's port go to one member, while they follow each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface
from random import Random

from kumulus_api.load_balancer import (
    AssignedListener,
    AssignedMember,
    BalancingAlgorithm,
    ListenerProtocol,
    LoadBalancerAssignment,
)
from kumulus_api.load_balancer_status import MemberState

States = Mapping[tuple[str, str], MemberState]
"""Of members, by the names of listener and member."""
TURNS = 1024
"""Of so many datagrams that begin something each member gets its share, as evenly spread as may be."""
SLOTS = 1024
"""So many groups of clients are spread over members: with three of them one has up to a tenth more than another."""


@dataclass(frozen=True, order=True)
class Target:
    """Where a member takes datagrams."""

    address: str
    port: int


@dataclass(frozen=True)
class Way:
    """What becomes of datagrams for one port of one address.

    Attributes:
        address: of the load balancer.
        port: that is listened on.
        limit: so many clients' ports at once, those at all its addresses together.
        by_source: a client's address decides, not its turn.
        chosen: who gets what begins, by turn or by group of clients; nobody if it is empty.
        kept: those that go on with what they have.
    """

    address: str
    port: int
    limit: int
    by_source: bool
    chosen: tuple[Target, ...]
    kept: frozenset[Target]

    @property
    def version(self) -> int:
        """4 or 6."""
        return ip_address(self.address).version


def datagram_listeners(given: LoadBalancerAssignment) -> list[AssignedListener]:
    """Give the listeners that take datagrams."""
    return [item for item in given.listeners if item.protocol is ListenerProtocol.UDP]


def ways(given: LoadBalancerAssignment, states: States) -> tuple[Way, ...]:
    """Say where datagrams go.

    Args:
        given: what was decided.
        states: as they are known; a member of which nothing is known counts as well.
    """
    addresses = [str(ip_interface(item).ip) for item in given.addresses]
    return tuple(_way(listener, address, states) for listener in datagram_listeners(given) for address in addresses)


def _way(listener: AssignedListener, address: str, states: States) -> Way:
    version = ip_address(address).version
    found = [
        (member, target)
        for member in listener.members
        if states.get((listener.name, member.name)) is not MemberState.DOWN
        for target in _targets(member, version)
    ]
    weighted = [(member, target) for member, target in found if member.weight]
    serving = [item for item in weighted if not item[0].backup] or weighted
    by_source = listener.algorithm is BalancingAlgorithm.SOURCE_IP
    spread = groups if by_source else turns
    return Way(
        address,
        listener.port,
        listener.connection_limit,
        by_source,
        tuple(spread([(member.name, target, member.weight) for member, target in serving])),
        frozenset(target for _, target in found),
    )


def _targets(member: AssignedMember, version: int) -> Iterator[Target]:
    """Yield where a member is for datagrams of a family: they cannot become those of the other."""
    for address in (member.address, member.second_address):
        if address is not None and ip_address(address).version == version:
            yield Target(str(ip_address(address)), member.port)
            return


Weighted = Sequence[tuple[str, Target, int]]
"""Names of members, where they are, and their weights."""


def turns(members: Weighted) -> list[Target]:
    """Give who has its turn after whom: each as often as its weight says, and not all of them in a row."""
    if not members:
        return []
    weights = _scaled([weight for _, _, weight in members])
    places = (((number + 0.5) / weight, index) for index, weight in enumerate(weights) for number in range(weight))
    return [members[index][1] for _, index in sorted(places)]


def _scaled(weights: Sequence[int]) -> list[int]:
    common = math.gcd(*weights)
    least = [weight // common for weight in weights]
    total = sum(least)
    return least if total <= TURNS else [max(1, weight * TURNS // total) for weight in least]


def groups(members: Weighted) -> list[Target]:
    """Give who has which group of clients: one that comes or goes takes or leaves its own, and moves no other.

    Each member draws a number for each group, the greatest has it (rendezvous hashing, weighted as Schindelhauer and
    Schomaker say); all hosts draw the same ones.
    """
    drawn = [list(_drawn(name, weight)) for name, _, weight in sorted(members)]
    targets = [target for _, target, _ in sorted(members)]
    if not members:
        return []
    return [targets[_greatest(column)] for column in zip(*drawn, strict=True)]


def _drawn(name: str, weight: int) -> Iterator[float]:
    source = Random(name)  # noqa: S311 - the same everywhere, and no secret
    for _ in range(SLOTS):
        yield weight / -math.log(source.random() or 0.5)


def _greatest(column: Sequence[float]) -> int:
    return max(range(len(column)), key=column.__getitem__)


def limits_of(found: Iterable[Way]) -> dict[int, int]:
    """Give how many clients' ports each port takes at once."""
    return {way.port: way.limit for way in found}


def member_ports(found: Iterable[Way]) -> set[int]:
    """Give the ports that answers come from."""
    return {target.port for way in found for target in way.kept}
