"""What is passed on to members that are gone or down ends, so that its clients come to others.

An entry is removed, and not marked as refused: the client's next datagram begins it anew, at a member that is well.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from kumulus_agent.load_balancers.udp.plan import Target, Way
from kumulus_agent.network import namespace
from kumulus_agent.network.command import run

_PAIRS = re.compile(r"\b(src|dst|sport|dport)=(\S+)")
_OF_ONE = 4
"""Of an entry's values: those of one direction."""


@dataclass(frozen=True, order=True)
class Led:
    """Datagrams for a port of an address, led to a member."""

    address: str
    port: int
    target: Target


def led(text: str) -> Iterator[Led]:
    """Read `conntrack --dump --proto udp`: an entry a line, as it began and as its answers come."""
    for line in text.splitlines():
        pairs = _PAIRS.findall(line)
        begun, answered = dict(pairs[:_OF_ONE]), dict(pairs[_OF_ONE : 2 * _OF_ONE])
        if len(begun) == len(answered) == _OF_ONE:
            target = Target(str(ip_address(answered["src"])), int(answered["sport"]))
            yield Led(str(ip_address(begun["dst"])), int(begun["dport"]), target)


def ended(found: Iterable[Led], ways: Iterable[Way]) -> list[Led]:
    """Give what is led to a member that does not keep it."""
    kept = {Led(way.address, way.port, target) for way in ways for target in way.kept}
    return sorted(set(found) - kept)


async def end(name: str, ways: Iterable[Way], *, ipv6: bool) -> list[Led]:
    """End what is led to members that are gone or down; give what that was.

    Raises:
        NetworkError: conntrack refused.
    """
    entering = namespace.entering(name)
    gone = []
    for family in ("ipv4", "ipv6") if ipv6 else ("ipv4",):
        listed = await run((*entering, "conntrack", "--dump", "--family", family, "--proto", "udp"))
        for item in ended(led(listed.decode()), ways):
            begun = ("--orig-dst", item.address, "--orig-port-dst", str(item.port))
            answered = ("--reply-src", item.target.address, "--reply-port-src", str(item.target.port))
            delete = ("conntrack", "--delete", "--family", family, "--proto", "udp", *begun, *answered)
            # 1: there was none any more.
            await run((*entering, *delete), allowed=(0, 1))
            gone.append(item)
    return gone
