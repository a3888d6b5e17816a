"""Tracked connections of a router, held to its firewall: those that it no longer allows are marked as refused."""

from __future__ import annotations

from collections.abc import Iterable
from socket import AF_INET, AF_INET6

from kumulus_agent.network import tracked
from kumulus_agent.network.tracked import Connection
from kumulus_agent.routers.firewall import Firewall, allows


def changed(firewall: Firewall, connections: Iterable[Connection]) -> list[Connection]:
    """Give the connections as they are to be marked, of those that are not."""
    return tracked.otherwise(connections, lambda flow: not allows(firewall, flow))


async def hold(name: str, firewall: Firewall) -> int:
    """Mark the connections in a router's namespace; return how many were otherwise.

    Raises:
        NetworkError: the kernel refused.
    """
    return await tracked.hold(
        name, (AF_INET, AF_INET6), lambda connections: changed(firewall, connections), translated=True
    )
