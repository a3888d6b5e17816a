"""Machines that are namespaces and hold TCP connections with each other."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from kumulus_agent.network.namespace import within
from kumulus_lab.testing.namespaces import Machine


@dataclass
class Stream:
    """A TCP connection between two machines."""

    client: socket.socket
    server: socket.socket

    async def carries(self, *, back: bool = False, seconds: float = 1.0) -> bool:
        """Whether a byte that is sent now comes (from the server, if back); what was sent before may come too."""
        loop = asyncio.get_running_loop()
        source, target = (self.server, self.client) if back else (self.client, self.server)
        try:
            await loop.sock_sendall(source, b"x")
            async with asyncio.timeout(seconds):
                return bool(await loop.sock_recv(target, 1 << 16))
        except (TimeoutError, ConnectionError):
            return False


@dataclass
class Speaker(Machine):
    """A machine that connects to others."""

    streams: list[Stream] = field(default_factory=list, init=False)

    def socket(self, version: int = 4) -> socket.socket:
        """Open a TCP socket there."""
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        made = within(self.namespace, lambda: socket.socket(family))
        made.setblocking(False)
        return made

    async def connect(
        self,
        server: Speaker,
        address: IPv4Address | IPv6Address,
        port: int,
        *,
        at: int | None = None,
        seconds: float = 1.0,
    ) -> Stream | None:
        """Connect to a server, which listens at port `at` of all its addresses; None if it is not answered in time."""
        loop = asyncio.get_running_loop()
        client = self.socket(address.version)
        with server.socket(address.version) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("", at or port))
            listener.listen()
            try:
                async with asyncio.timeout(seconds):
                    await loop.sock_connect(client, (str(address), port))
                    accepted, _ = await loop.sock_accept(listener)
            except (TimeoutError, ConnectionError):
                client.close()
                return None
        accepted.setblocking(False)
        self.streams.append(Stream(client, accepted))
        return self.streams[-1]

    def hang_up(self) -> None:
        """Close what was connected from there."""
        for stream in self.streams:
            stream.client.close()
            stream.server.close()
        self.streams.clear()
