"""Members of load balancers that take datagrams, and clients that send them, as namespaces."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any

from kumulus_agent.network.namespace import within
from kumulus_lab.testing.balanced import VIP
from kumulus_lab.testing.namespaces import Machine

PORT, MEMBER_PORT = 53, 5353
_HEADER = 12


class Answering(asyncio.DatagramProtocol):
    """Answers each datagram that has something in it with a name; notes who has sent it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.sources: list[tuple[str, int]] = []
        self.empty = 0
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what answers go by."""
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Answer."""
        if not data:
            self.empty += 1
            return
        self.sources.append((addr[0].removeprefix("::ffff:"), addr[1]))
        self._transport.sendto(self.name.encode(), addr)


@dataclass
class DatagramMembers:
    """Machines that take datagrams."""

    open: dict[str, asyncio.DatagramTransport] = field(default_factory=dict)
    seen: dict[str, Answering] = field(default_factory=dict)

    async def serve(self, name: str, machine: Machine) -> None:
        """Have a machine take datagrams, of either family where it has both."""
        made = within(machine.namespace, lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.bind(("::", MEMBER_PORT))
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_datagram_endpoint(lambda: Answering(name), sock=made)
        self.open[name], self.seen[name] = transport, protocol

    def stop(self, name: str) -> None:
        """Have it take no more."""
        self.open.pop(name).close()

    def close(self) -> None:
        """Stop all."""
        for name in list(self.open):
            self.stop(name)


class Sender:
    """A client's port.

    Args:
        machine: the client.
        to: whom it asks.
        source_port: which port; any if it is 0.
    """

    def __init__(self, machine: Machine, to: tuple[str, int] = (VIP, PORT), source_port: int = 0) -> None:
        family = socket.AF_INET6 if ":" in to[0] else socket.AF_INET
        self._socket = within(machine.namespace, lambda: socket.socket(family, socket.SOCK_DGRAM))
        self._socket.setblocking(False)
        self._socket.bind(("", source_port))
        self._socket.connect(to)

    def __enter__(self) -> Sender:
        """Give itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the port."""
        self._socket.close()

    async def asks(self, seconds: float = 2.0) -> str:
        """Send a datagram, and give who answers.

        Raises:
            TimeoutError: nobody does.
            ConnectionRefusedError: it is said that nobody will.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(seconds):
            await loop.sock_sendall(self._socket, b"who")
            return (await loop.sock_recv(self._socket, 100)).decode()

    async def asks_until(self, wanted: set[str], seconds: float = 10.0) -> str:
        """Ask again and again until one of these answers, and give which."""
        async with asyncio.timeout(seconds):
            while True:
                try:
                    if (found := await self.asks(0.5)) in wanted:
                        return found
                except (TimeoutError, ConnectionRefusedError):
                    await asyncio.sleep(0.02)


async def tally(machine: Machine, count: int, to: tuple[str, int] = (VIP, PORT)) -> Counter[str]:
    """Ask from so many ports, one after the other, and count who answers."""
    answers: Counter[str] = Counter()
    for _ in range(count):
        with Sender(machine, to) as sender:
            answers[await sender.asks()] += 1
    return answers


class Naming(asyncio.DatagramProtocol):
    """A name server that knows one address: it answers each question with that, so that one sees who has answered."""

    def __init__(self, address: str) -> None:
        self._known = IPv4Address(address).packed
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what answers go by."""
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Answer a question of one name for its IPv4 address (RFC 1035)."""
        if len(data) < _HEADER:
            return
        question = data[_HEADER : data.index(b"\0", _HEADER) + 5]
        answer = b"\xc0\x0c\0\x01\0\x01" + bytes(4) + b"\0\x04" + self._known
        self._transport.sendto(data[:2] + b"\x81\x80\0\x01\0\x01" + bytes(4) + question + answer, addr)


async def name_server(namespace: str, port: int, address: str) -> asyncio.DatagramTransport:
    """Have a name server that knows one address on a port in a namespace."""
    made = within(namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    made.bind(("", port))
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: Naming(address), sock=made)
    return transport
