"""The metadata service as guests find it, on hosts that are network namespaces."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import socket
import stat
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest

from kumulus_agent import metrics
from kumulus_agent.metadata import service
from kumulus_agent.metadata.door import inode
from kumulus_agent.metadata.ec2 import Guest as Told
from kumulus_agent.metadata.pace import BURST, CONNECTIONS
from kumulus_agent.metadata.service import MetadataService
from kumulus_agent.network import metadata_link, names
from kumulus_agent.network.command import run
from kumulus_agent.network.datapath import Datapath
from kumulus_agent.network.namespace import entering, within
from kumulus_agent.network.state import AddressPair, NetworkDesired, PortDesired, SubnetDesired
from kumulus_agent.storage.seed import Seed
from kumulus_api.addresses import eui64

BLUE, RED = 0x2A, 0x2B
SERVICE = IPv4Address("10.0.0.2")
SUBNET = SubnetDesired(IPv4Network("10.0.0.0/24"), SERVICE, gateway=IPv4Address("10.0.0.1"))
ADDRESS = ("169.254.169.254", 80)
SOCKET_NAMESPACE = 0x894C
"""The ioctl that gives a socket's network namespace (SIOCGSKNS)."""


def make_port(number: int, vni: int = BLUE) -> PortDesired:
    """A port with the address 10.0.0.<number>, whatever its network."""
    mac = f"02:00:00:00:{vni:02x}:{number:02x}"
    return PortDesired(f"kt{vni:02x}{number:09x}", mac, (IPv4Address(f"10.0.0.{number}"),), f"{vni:x}-{number}")


def make_network(host, ports, vni: int = BLUE, **overrides) -> NetworkDesired:
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


def guest_socket(guest, source: str = "", family: int = socket.AF_INET, scope: int = 0) -> socket.socket:
    """A socket in the guest; a link-local source needs the scope, which is its interface's index."""

    def make() -> socket.socket:
        made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        if source:
            made.bind((source, 0, 0, scope) if scope else (source, 0))
        return made

    return within(guest.namespace, make)


@asynccontextmanager
async def connected(guest, source: str = "", seconds: float = 3) -> AsyncIterator[Asking]:
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


async def ask(guest, target: str, *lines: str, source: str = "", method: str = "GET") -> Answer:
    """Ask once."""
    async with connected(guest, source) as asking:
        return await asking.ask(target, method, *lines)


async def uuid_told(guest, *lines: str, source: str = "") -> str:
    """Give the id that the guest is told."""
    answer = await ask(guest, "/openstack/latest/meta_data.json", *lines, source=source)
    assert answer.status == 200
    return str(json.loads(answer.body)["uuid"])


async def refused(guest, source: str = "") -> bool:
    """Whether a guest that asks is told nothing, neither at once nor later."""
    try:
        await uuid_told(guest, source=source)
    except (TimeoutError, OSError, asyncio.IncompleteReadError):
        return True
    return False


async def boot(host, port: PortDesired, vni: int = BLUE):
    """A guest with its address, that goes to the service as DHCP tells it to."""
    guest = await host.boot(port, vni)
    await guest.configure()
    await guest.run("ip", "route", "add", f"{ADDRESS[0]}/32", "via", str(SERVICE))
    return guest


@pytest.fixture
async def answering(hosts):
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


def held_namespaces() -> set[int]:
    """The inodes of the network namespaces that sockets of this process keep alive."""
    found = set()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names of numbers
        try:
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            handle = fcntl.ioctl(int(name), SOCKET_NAMESPACE)
        except OSError:
            continue
        found.add(os.fstat(handle).st_ino)
        os.close(handle)
    return found


async def test_each_guest_is_told_of_itself(answering):
    """Guests of two networks with the same address on one host, and two of one network, see each their own."""
    (host, _), _ = answering
    a, b, c = make_port(11), make_port(12), make_port(11, RED)
    await host.datapath.ensure_network(make_network(host, [a, b]))
    await host.datapath.ensure_network(make_network(host, [c], RED))
    guests = [await boot(host, a), await boot(host, b), await boot(host, c, RED)]
    assert [await uuid_told(guest) for guest in guests] == ["2a-11", "2a-12", "2b-11"]
    assert (await ask(guests[2], "/latest/user-data")).body == b"of 2b-11"
    assert (await ask(guests[0], "/latest/meta-data/hostname")).body == b"web"


async def test_nothing_in_a_request_says_who_asks(answering):
    """Headers by which Neutron's proxy names a guest change nothing here."""
    (host, _), (teller, _) = answering
    await host.datapath.ensure_network(make_network(host, [make_port(11), make_port(12)]))
    guest = await boot(host, make_port(11))
    await boot(host, make_port(12))
    forged = (
        "X-Forwarded-For: 10.0.0.12",
        "X-Instance-ID: 2a-12",
        "X-Tenant-ID: other",
        "X-Instance-ID-Signature: 0",
        "Forwarded: for=10.0.0.12",
    )
    assert await uuid_told(guest, *forged) == "2a-11"
    assert teller.asked == ["2a-11"]


async def test_a_spoofed_source_gets_nothing(answering):
    """Neither another guest's address, nor one that nobody has, leads to an answer; the guest's own still does."""
    (host, _), (teller, _) = answering
    await host.datapath.ensure_network(make_network(host, [make_port(11), make_port(12)]))
    guest, other = await boot(host, make_port(11)), await boot(host, make_port(12))
    assert await uuid_told(other) == "2a-12"
    for stolen in ("10.0.0.12", "10.0.0.99"):
        await guest.configure(IPv4Address(stolen))
        assert await refused(guest, stolen)
    assert teller.asked == ["2a-12"]
    assert await uuid_told(guest, source="10.0.0.11") == "2a-11"


@pytest.mark.parametrize("lenient", ["without port security", "with the other's address as a pair"])
async def test_a_port_that_may_use_another_s_address_is_told_of_itself_alone(answering, lenient):
    """It gets nothing by the other's address or MAC, and takes no answer from the other; its own are answered."""
    (host, _), (teller, _) = answering
    first, second = make_port(11), make_port(12)
    pair = AddressPair(IPv4Network("10.0.0.12/32"), second.mac)
    changes = {"secured": False} if lenient == "without port security" else {"pairs": frozenset({pair})}
    await host.datapath.ensure_network(make_network(host, [replace(first, **changes), second]))
    guest, other = await boot(host, first), await boot(host, second)
    stolen = "10.0.0.12"
    await guest.configure(IPv4Address(stolen))
    announce = ("busybox", "arping", "-U", "-c", "2", "-w", "1", "-I", "eth0", "-s", stolen, stolen)
    await guest.run(*announce, allowed=(0, 1))
    assert await refused(guest, stolen)
    assert teller.asked == []
    # Its kernel would go on taking the service for absent for a while.
    await guest.run("ip", "neighbour", "flush", "dev", "eth0")
    assert await uuid_told(guest, source="10.0.0.11") == "2a-11"
    assert await uuid_told(other) == "2a-12"
    await guest.run("ip", "link", "set", "eth0", "address", second.mac)
    await guest.run("ip", "neighbour", "flush", "dev", "eth0")
    assert await refused(guest, "10.0.0.11")
    assert await refused(guest, stolen)
    assert teller.asked == ["2a-11", "2a-12"]


async def test_the_mac_counts_where_a_port_may_use_any_address(answering):
    """Where no rule checks sources, as on a port without port security, a stolen address still gets nothing."""
    (host, _), (teller, _) = answering
    network = make_network(host, [make_port(11), make_port(12)])
    await host.datapath.ensure_network(network)
    guest = await boot(host, make_port(11))
    await run((*entering(host.namespace), "nft", "flush", "chain", "bridge", "kumulus", "guest"))
    await guest.run("ip", "address", "flush", "dev", "eth0")
    await guest.configure(IPv4Address("10.0.0.12"))
    await guest.run("ip", "route", "add", f"{ADDRESS[0]}/32", "via", str(SERVICE))
    before = metrics.METADATA_REFUSED.labels(reason="unknown")._value.get()
    assert await refused(guest)
    assert metrics.METADATA_REFUSED.labels(reason="unknown")._value.get() == before + 1
    assert teller.asked == []


async def test_a_host_answers_its_own_guests_only(answering):
    """A guest is answered on its host, by nobody else when that does not, and there after it has moved."""
    (first, second), (here, there) = answering
    a, b = make_port(11), make_port(12)
    peers = frozenset({first.address, second.address})

    def carry(host, other, local, remote):
        near = frozenset((port.mac, other.address) for port in remote)
        return host.datapath.ensure_network(make_network(host, local, peers=peers, neighbours=near))

    await carry(first, second, [a], [b])
    await carry(second, first, [b], [a])
    guest = await boot(second, b)
    assert await uuid_told(guest) == "2a-12"
    assert (here.asked, there.asked) == ([], ["2a-12"])
    # Its own host has no servers any more: the other's must not step in.
    silent = make_network(second, [b], peers=peers, neighbours=frozenset({(a.mac, first.address)}), subnets=())
    await second.datapath.ensure_network(silent)
    await guest.run("ip", "neighbour", "flush", "dev", "eth0")
    assert await refused(guest)
    await second.datapath.unplug(b.tap)
    await carry(first, second, [a, b], [])
    moved = await boot(first, b)
    assert await uuid_told(moved) == "2a-12"
    assert here.asked == ["2a-12"]


async def test_a_port_that_is_gone_is_not_answered(answering):
    """A connection that is kept does not outlive its port, whoever has the address then."""
    (host, _), (teller, _) = answering
    await host.datapath.ensure_network(make_network(host, [make_port(11), make_port(12)]))
    guest = await boot(host, make_port(11))
    async with connected(guest) as asking:
        assert (await asking.ask("/openstack")).status == 200
        host.datapath._metadata._served[BLUE].know(make_network(host, [make_port(12)]))
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await asking.ask("/openstack")
    assert teller.asked == ["2a-11"]


async def test_requests_follow_one_another(answering):
    """A connection is kept; what is not there, not allowed or no request is said so, and paths lead nowhere else."""
    (host, _), _ = answering
    await host.datapath.ensure_network(make_network(host, [make_port(11)]))
    guest = await boot(host, make_port(11))
    async with connected(guest) as asking:
        whole = await asking.ask("/latest/meta-data/hostname")
        head = await asking.ask("/latest/meta-data/hostname", "HEAD")
        assert (head.status, head.body) == (200, b"")
        assert head.head == whole.head
        assert (await asking.ask("/openstack/latest/../../../../etc/passwd")).status == 404
        assert (await asking.ask("/nothing")).status == 404
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            answer = await asking.ask("/openstack/latest/meta_data.json", method)
            assert answer.status == 405
            assert "Allow: GET, HEAD" in answer.head
        last = await asking.ask("/openstack", "POST", "Content-Length: 3")
        assert "Connection: close" in last.head
        assert await asking.reader.read() == b""
    async with connected(guest) as asking:
        asking.writer.write(b"GET / HTTP/1.1\r\nX: " + b"x" * 9000 + b"\r\n\r\n")
        assert (await asking.reader.read()).startswith(b"HTTP/1.1 431 ")
    async with connected(guest) as asking:
        asking.writer.write(b"\x16\x03\x01\x02\x00\r\n\r\n")
        assert (await asking.reader.read()).startswith(b"HTTP/1.1 400 ")


async def test_a_guest_tells_its_password_for_itself(answering):
    """What is posted is kept for the guest that posts; a body that is too large, or elsewhere, is not taken."""
    (host, _), (teller, _) = answering
    await host.datapath.ensure_network(make_network(host, [make_port(11), make_port(12)]))
    guest, other = await boot(host, make_port(11)), await boot(host, make_port(12))
    path = "/openstack/2013-04-04/password"
    for status in (200, 409):
        async with connected(guest) as asking:
            assert (await asking.ask(path, "POST", "X-Instance-ID: 2a-12", body="QUJD\n")).status == status
    async with connected(other) as asking:
        assert (await asking.ask(path, "POST", body="x" * 2000)).status == 413
    async with connected(other) as asking:
        assert (await asking.ask("/openstack/latest/user_data", "POST", body="QUJD")).status == 405
    assert teller.passwords == {"2a-11": "QUJD"}


async def test_a_request_that_does_not_end_is_given_up(answering, monkeypatch):
    """A guest that sends its request a byte at a time is not waited for."""
    monkeypatch.setattr(service, "_SECONDS", 0.5)
    (host, _), _ = answering
    await host.datapath.ensure_network(make_network(host, [make_port(11)]))
    guest = await boot(host, make_port(11))
    async with connected(guest) as asking:

        async def drip() -> None:
            while True:
                asking.writer.write(b"G")
                await asyncio.sleep(0.05)

        dripping = asyncio.create_task(drip())
        started = time.monotonic()
        assert await asking.reader.read() == b""
        assert time.monotonic() - started < 2
        dripping.cancel()


async def test_dhcp_tells_the_way(answering, tmp_path):
    """The lease has a route to the service, and the default route with it, as its clients ignore the router option."""
    (host, _), _ = answering
    await host.datapath.ensure_network(make_network(host, [make_port(11)]))
    guest = await host.boot(make_port(11), BLUE)
    script = tmp_path / "lease"
    script.write_text('#!/bin/sh\necho "$1 $ip routes=$staticroutes"\n')
    script.chmod(0o755)
    argv = ("-i", "eth0", "-f", "-q", "-n", "-t", "5", "-T", "1", "-O", "staticroutes", "-s", str(script))
    output = await guest.run("busybox", "udhcpc", *argv)
    assert f"bound 10.0.0.11 routes=169.254.169.254/32 {SERVICE} 0.0.0.0/0 10.0.0.1" in output


async def test_a_guest_that_takes_it_for_a_neighbour_is_answered(answering):
    """A guest that asks for the address by ARP, as one without DHCP or with a zeroconf route does, is answered."""
    (host, _), _ = answering
    await host.datapath.ensure_network(make_network(host, [make_port(11)]))
    guest = await host.boot(make_port(11), BLUE)
    await guest.configure()
    await guest.run("ip", "route", "add", "169.254.0.0/16", "dev", "eth0")
    assert await uuid_told(guest) == "2a-11"


async def test_a_restart_is_a_short_gap(answering):
    """The next agent opens the socket again, behind its rules, and finds nothing else to do; dnsmasq is as it was."""
    (host, _), (teller, _) = answering
    network = make_network(host, [make_port(11)])
    await host.datapath.ensure_network(network)
    guest = await boot(host, make_port(11))
    servers = host.services.observe()
    assert await host.datapath.ensure_network(network) == []
    async with connected(guest) as asking:
        await asking.ask("/openstack")
        await host.datapath.close()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await asking.ask("/openstack")
    assert await refused(guest)
    inside = (*entering(f"{host.name}-kd{BLUE:06x}"), "nft")
    await run((*inside, "delete", "table", "inet", metadata_link.TABLE))
    await host.datapath.start()
    assert [step.reason for step in await host.datapath.ensure_network(network)] == ["answers for metadata"]
    assert await uuid_told(guest) == "2a-11"
    assert metadata_link.TABLE in (await run((*inside, "list", "tables"))).decode()
    assert host.services.observe() == servers
    assert teller.asked == ["2a-11", "2a-11"]


async def test_a_namespace_that_was_replaced_is_answered_in(answering):
    """Where somebody deletes the servers' namespace, a comparison sees it, and the next apply answers anew."""
    (host, _), _ = answering
    network = make_network(host, [make_port(11)])
    await host.datapath.ensure_network(network)
    guest = await boot(host, make_port(11))
    assert not host.datapath.differs(network, await host.datapath.observe())
    target = f"{host.name}-kd{BLUE:06x}"
    await run(("ip", "netns", "delete", target))
    assert host.datapath.differs(network, await host.datapath.observe())
    await run(("ip", "-netns", host.namespace, "link", "delete", names.service_link(BLUE)))
    await host.datapath.ensure_network(network)
    assert not host.datapath.differs(network, await host.datapath.observe())
    assert await uuid_told(guest) == "2a-11"


async def test_no_socket_keeps_a_namespace(answering):
    """When a network goes, with a guest's connection open, its servers' namespace goes with it."""
    (host, _), _ = answering
    await host.datapath.ensure_network(make_network(host, [make_port(11)]))
    guest = await boot(host, make_port(11))
    place = inode(f"{host.name}-kd{BLUE:06x}")
    async with connected(guest) as asking:
        await asking.ask("/openstack")
        assert place in held_namespaces()
        await host.datapath.remove_network(BLUE)
        assert place not in held_namespaces()


FLOOD = """
import socket, sys, time
end, opened = time.monotonic() + float(sys.argv[1]), 0
held = []
while time.monotonic() < end:
    made = socket.socket()
    made.setblocking(False)
    made.connect_ex(("169.254.169.254", 80))
    held.append(made)
    opened += 1
    if len(held) > 500:
        try:
            held[0].send(b"GET /openstack HTTP/1.1\\r\\n\\r\\n" * 50)
        except OSError:
            pass
        held.pop(0).close()
print(opened)
"""


async def test_a_flood_starves_nobody(answering):
    """While one guest opens connections without end, another is answered in time, and the agent sees few of them."""
    (host, _), (teller, _) = answering
    await host.datapath.ensure_network(make_network(host, [make_port(11), make_port(12)]))
    guest, other = await boot(host, make_port(11)), await boot(host, make_port(12))
    accepted = []
    accept = host.datapath._metadata._talk

    async def counted(*args) -> None:
        accepted.append(args)
        await accept(*args)

    host.datapath._metadata._talk = counted
    seconds = 4.0
    argv = ("ip", "netns", "exec", guest.namespace, sys.executable, "-c", FLOOD, str(seconds))
    flood = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    slowest = 0.0
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        asked = time.monotonic()
        assert await uuid_told(other) == "2a-12"
        slowest = max(slowest, time.monotonic() - asked)
        await asyncio.sleep(0.1)
    output, _ = await flood.communicate()
    assert int(output) > 1000
    rate, burst = metadata_link.CONNECTIONS
    asked = teller.asked.count("2a-12")
    assert len(accepted) - asked <= (burst + rate * (seconds + 1))
    assert slowest < 1
    assert len(host.datapath._metadata._served[BLUE].talks) <= CONNECTIONS + 1


async def test_bursts_of_two_leave_room_for_a_third(answering):
    """Two guests begin as many connections as they may while the agent has no time: a third's is taken at once."""
    (host, _), _ = answering
    ports = [make_port(number) for number in (11, 12, 13)]
    await host.datapath.ensure_network(make_network(host, ports))
    *crowd, third = [await boot(host, port) for port in ports]
    for guest in (*crowd, third):
        assert await uuid_told(guest)
    with ExitStack() as stack:
        # No turn of the event loop in here: the agent's part stands still.
        for guest in crowd * metadata_link.CONNECTIONS[1]:
            stack.enter_context(guest_socket(guest)).connect_ex(ADDRESS)
        asking = stack.enter_context(guest_socket(third))
        asking.settimeout(0.5)
        asking.connect(ADDRESS)


async def test_requests_and_connections_are_bounded(answering):
    """Beyond its burst a guest is told to wait, beyond its connections it gets no other; both end with the excess."""
    (host, _), _ = answering
    await host.datapath.ensure_network(make_network(host, [make_port(11)]))
    guest = await boot(host, make_port(11))
    async with AsyncExitStack() as stack:
        kept = [await stack.enter_async_context(connected(guest)) for _ in range(CONNECTIONS)]
        assert (await kept[0].ask("/openstack")).status == 200
        assert await refused(guest)
    async with connected(guest) as asking:
        for _ in range(int(BURST) * 4):
            answer = await asking.ask("/openstack")
            if answer.status != 200:
                break
        assert answer.status == 429
        assert "Connection: close" in answer.head
        assert await asking.reader.read() == b""


@asynccontextmanager
async def connected6(guest, source: str) -> AsyncIterator[Asking]:
    """A connection from the guest by IPv6."""
    index = within(guest.namespace, lambda: socket.if_nametoindex("eth0"))
    handle = guest_socket(guest, source, socket.AF_INET6, index)
    try:
        async with asyncio.timeout(5):
            await asyncio.get_running_loop().sock_connect(handle, (str(metadata_link.ADDRESS6), 80, 0, index))
            asking = Asking(*await asyncio.open_connection(sock=handle))
            yield asking
        asking.writer.transport.abort()
    finally:
        handle.close()


async def test_ipv6_is_answered_where_the_link_has_it(answering):
    """On a network with IPv6 a guest is told of itself at fe80::a9fe:a9fe, from each address that its port may use."""
    (host, _), (teller, _) = answering
    subnet = SubnetDesired(IPv6Network("fd00:1::/64"), IPv6Address("fd00:1::ffff:ffff:ffff:ffff"), mode="SLAAC")
    ports = []
    for number in (11, 12):
        port = make_port(number)
        ports.append(replace(port, addresses=(*port.addresses, eui64(IPv6Network("fd00:1::/64"), port.mac))))
    await host.datapath.ensure_network(make_network(host, ports, subnets=(SUBNET, subnet)))
    guest, other = await boot(host, ports[0]), await boot(host, ports[1])
    own, stolen = ports[0].sources6, ports[1].sources6
    # Made anew, so that they may be used at once: nobody is waited for who might have them too.
    await guest.run("ip", "-6", "address", "flush", "dev", "eth0")
    for which, address in ((guest, own[0]), (guest, own[1]), (guest, stolen[0]), (other, stolen[0])):
        await which.run("ip", "address", "add", f"{address}/64", "dev", "eth0", "nodad")
    for source in own:
        async with connected6(guest, str(source)) as asking:
            answer = await asking.ask("/openstack/latest/meta_data.json")
        assert json.loads(answer.body)["uuid"] == "2a-11"
    with pytest.raises((TimeoutError, OSError)):
        async with connected6(guest, str(stolen[0])) as asking:
            await asking.ask("/openstack/latest/meta_data.json")
    async with connected6(other, str(stolen[0])) as asking:
        answer = await asking.ask("/openstack/latest/meta_data.json")
    assert json.loads(answer.body)["uuid"] == "2a-12"
    assert teller.asked == ["2a-11", "2a-11", "2a-12"]
