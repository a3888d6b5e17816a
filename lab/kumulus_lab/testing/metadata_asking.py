"""Guests that ask the metadata service, and the hosts that answer."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from kumulus_agent.metadata.ec2 import Guest as Told
from kumulus_agent.metadata.service import MetadataService
from kumulus_agent.network.datapath import Datapath
from kumulus_agent.network.namespace import within
from kumulus_agent.network.state import NetworkDesired, PortDesired, SubnetDesired
from kumulus_agent.storage.seed import Seed

BLUE, RED = 0x2A, 0x2B
SERVICE = IPv4Address("10.0.0.2")
SUBNET = SubnetDesired(IPv4Network("10.0.0.0/24"), SERVICE, gateway=IPv4Address("10.0.0.1"))
ADDRESS = ("169.254.169.254", 80)


def make_port(number: int, vni: int = BLUE) -> PortDesired:
    """A port with the address 10.0.0.<number>, whatever its network."""
    mac = f"02:00:00:00:{vni:02x}:{number:02x}"
    return PortDesired(f"kt{vni:02x}{number:09x}", mac, (IPv4Address(f"10.0.0.{number}"),), f"{vni:x}-{number}")


def make_network(host: Any, ports: Iterable[PortDesired], vni: int = BLUE, **overrides: Any) -> NetworkDesired:
    """The network as `host` should have it."""
    return replace(NetworkDesired(vni, 1450, host.address, ports=tuple(ports), subnets=(SUBNET,)), **overrides)


@dataclass
class Teller:
    """What is told of whom; and who was asked about."""

    asked: list[str] = field(default_factory=list)
    passwords: dict[str, str] = field(default_factory=dict)

    async def keep_password(self, instance_id: str, text: str) -> HTTPStatus:
        """Take a guest's password once."""
        return HTTPStatus.OK if self.passwords.setdefault(instance_id, text) is text else HTTPStatus.CONFLICT

    async def guest(self, instance_id: str) -> Told | None:
        """Tell a guest its own id."""
        self.asked.append(instance_id)
        return Told(Seed(instance_id, "web", user_data=f"of {instance_id}".encode()))


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    head: str
    body: bytes


class Asking:
    """A guest's connection to the service."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, target: str, method: str = "GET", *lines: str, body: str = "") -> Answer:
        """Send a request and read its answer."""
        if body:
            lines = (*lines, f"Content-Length: {len(body)}")
        self.writer.write("\r\n".join((f"{method} {target} HTTP/1.1", "Host: x", *lines, "", body)).encode())
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        fields = dict(line.split(": ", 1) for line in head.splitlines()[1:] if line)
        length = 0 if method == "HEAD" else int(fields["Content-Length"])
        return Answer(int(head.split()[1]), head, await self.reader.readexactly(length))


def guest_socket(guest: Any, source: str = "", family: int = socket.AF_INET, scope: int = 0) -> socket.socket:
    """A socket in the guest; a link-local source needs the scope, which is its interface's index."""

    def make() -> socket.socket:
        made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        if source:
            made.bind((source, 0, 0, scope) if scope else (source, 0))
        return made

    return within(guest.namespace, make)


@asynccontextmanager
async def connected(guest: Any, source: str = "", seconds: float = 3) -> AsyncIterator[Asking]:
    """A connection from the guest; TimeoutError or an OSError if there is none."""
    handle = guest_socket(guest, source)
    try:
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().sock_connect(handle, ADDRESS)
            reader, writer = await asyncio.open_connection(sock=handle)
    except BaseException:
        handle.close()
        raise
    try:
        async with asyncio.timeout(20):
            yield Asking(reader, writer)
    finally:
        writer.transport.abort()


async def ask(guest: Any, target: str, *lines: str, source: str = "", method: str = "GET") -> Answer:
    """Ask once."""
    async with connected(guest, source) as asking:
        return await asking.ask(target, method, *lines)


async def uuid_told(guest: Any, *lines: str, source: str = "") -> str:
    """Give the id that the guest is told."""
    answer = await ask(guest, "/openstack/latest/meta_data.json", *lines, source=source)
    if answer.status != HTTPStatus.OK:
        raise AssertionError(f"the guest asked for its own data and was answered {answer.head}")
    return str(json.loads(answer.body)["uuid"])


async def refused(guest: Any, source: str = "") -> bool:
    """Whether a guest that asks is told nothing, neither at once nor later."""
    try:
        await uuid_told(guest, source=source)
    except (TimeoutError, OSError, asyncio.IncompleteReadError):
        return True
    return False


async def boot(host: Any, port: PortDesired, vni: int = BLUE) -> Any:
    """A guest with its address, that goes to the service as DHCP tells it to."""
    guest = await host.boot(port, vni)
    await guest.configure()
    await guest.run("ip", "route", "add", f"{ADDRESS[0]}/32", "via", str(SERVICE))
    return guest


@asynccontextmanager
async def answering_on(hosts: tuple[Any, ...]) -> AsyncIterator[tuple[tuple[Any, ...], list[Teller]]]:
    """The two hosts with the service, and what each has told."""
    tellers = []
    async with AsyncExitStack() as stack:
        for host in hosts:
            teller = Teller()
            await host.datapath.close()
            host.datapath = Datapath(
                host.services,
                host.directory / "dns",
                namespace=host.namespace,
                host_namespace=host.name,
                service_prefix=f"{host.name}-kd",
                metadata=MetadataService(teller),
            )
            await host.datapath.start()
            stack.push_async_callback(host.datapath.close)
            tellers.append(teller)
        yield hosts, tellers
