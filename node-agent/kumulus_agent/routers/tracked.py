"""Tracked connections of a router, held to its firewall: those that it no longer allows are marked as refused."""

from __future__ import annotations

from collections.abc import Iterable
from socket import AF_INET, AF_INET6
from typing import Final

from kumulus_agent.network import tracked
from kumulus_agent.network.tracked import Connection
from kumulus_agent.routers.firewall import Firewall, allows

_FAMILIES: Final = (AF_INET, AF_INET6)
_TRANSLATED: Final = 0x30
"""Of a connection's status: its source (IPS_SRC_NAT) or destination (IPS_DST_NAT) is another one inside."""


def changed(firewall: Firewall, connections: Iterable[Connection]) -> list[Connection]:
    """Give the connections as they are to be marked, of those that are not."""
    return tracked.otherwise(connections, lambda flow: not allows(firewall, flow))


async def hold(name: str, firewall: Firewall) -> int:
    """Mark the connections in a router's namespace; return how many were otherwise.

    Raises:
        NetworkError: the kernel refused.
    """
    return await tracked.hold(name, _FAMILIES, lambda connections: changed(firewall, connections), translated=True)


async def forget_halves(name: str) -> int:
    """Forget the connections of a router that was distributed, but for those that it translates; return how many.

    Of those without translation it may have seen the answers alone, and takes these for the question: held to the rules
    so they would be judged in the wrong direction. What is translated was seen here from its first packet on.

    Raises:
        NetworkError: the kernel refused.
    """
    return await tracked.forget(name, _FAMILIES, lambda entry: not (entry.status or 0) & _TRANSLATED)
