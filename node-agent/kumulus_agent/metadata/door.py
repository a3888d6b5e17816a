"""The service's listening sockets, opened inside a network's namespace by a thread that ends there."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from kumulus_agent.network import metadata_link, namespace, service_link
from kumulus_agent.network.neighbours import Neighbours
from kumulus_agent.network.state import PortDesired

BACKLOG = 1024
"""Connections that wait to be taken: ten guests' bursts. One more is told nothing, and asks again a second later."""


@dataclass(frozen=True)
class Door:
    """Open sockets.

    Attributes:
        listeners: where guests knock: one for IPv4, and one for IPv6 where the link has that.
        neighbours: who has which address on the link.
        inode: the namespace's: one of the same name may be another.
    """

    listeners: tuple[socket.socket, ...]
    neighbours: Neighbours
    inode: int

    def close(self) -> None:
        """Close them: a socket keeps its namespace alive."""
        for listener in self.listeners:
            listener.close()
        self.neighbours.close()

    def caller(self, source: str, ports: Mapping[str, PortDesired]) -> PortDesired | None:
        """Give the port that asks; None for a stranger.

        Args:
            source: the address that it asks from. Port rules let nobody use another's, and the kernel answers to the
                MAC of the port that has it.
            ports: the network's on this host, by MAC.
        """
        address = ip_address(source)
        port = ports.get(self.neighbours.mac(address) or "")
        if port is None:
            return None
        # Of link-local addresses a port may use those that follow from its MAC.
        own = address in port.addresses or (address.version == 6 and address.is_link_local)
        return port if own else None


def inode(name: str) -> int | None:
    """Give the inode of the namespace of that name; None if there is none."""
    try:
        return namespace.path(name).stat().st_ino
    except FileNotFoundError:
        return None


def open_door(name: str) -> Door:
    """Open the sockets in the namespace of that name.

    Raises:
        OSError: it has no such address, or no link.
    """
    place = namespace.path(name).stat().st_ino
    return Door(*namespace.within(name, _open), inode=place)


def _open() -> tuple[tuple[socket.socket, ...], Neighbours]:
    index = socket.if_nametoindex(service_link.INNER)
    wanted: list[tuple[int, tuple[object, ...]]] = [
        (socket.AF_INET, (str(metadata_link.ADDRESS), metadata_link.PORT)),
    ]
    if metadata_link.has_ipv6():
        wanted.append((socket.AF_INET6, (str(metadata_link.ADDRESS6), metadata_link.PORT, 0, index)))
    opened: list[socket.socket] = []
    try:
        for family, address in wanted:
            opened.append(listener := socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        route = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    except OSError:
        for listener in opened:
            listener.close()
        raise
    return tuple(opened), Neighbours(route, index)
