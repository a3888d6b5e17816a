"""What one tenant floods touches no other: two tenants with equal addresses and MACs, on the same two hosts."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import IPv4Network, IPv6Address, IPv6Network
from itertools import cycle
from pathlib import Path

import pytest

from kumulus_agent.metadata.ec2 import Guest as Told
from kumulus_agent.metadata.service import MetadataService
from kumulus_agent.network import limits
from kumulus_agent.network.command import run
from kumulus_agent.network.errors import CommandFailed
from kumulus_agent.network.groups import GroupRule, SecurityGroup
from kumulus_agent.network.limits import Dropped
from kumulus_agent.network.namespace import entering, within
from kumulus_agent.network.state import NetworkDesired, PortDesired, SubnetDesired
from kumulus_agent.storage.seed import Seed
from kumulus_lab.testing.frames import (
    ARP,
    BROADCAST,
    IPV4,
    IPV6,
    Wire,
    arp,
    ethernet,
    fragments,
    icmpv6,
    ipv4,
    ipv6,
    udp,
)

RED, BLUE = 0x2A, 0x2B
FOUR, SIX = IPv4Network("10.0.0.0/24"), IPv6Network("fd00:1::/64")
SUBNETS = (SubnetDesired(FOUR, FOUR[254], FOUR[1]), SubnetDesired(SIX, SIX[-1], mode="DHCPv6Stateful"))
A, B = 11, 12
MORE = (13, 14, 15)
FRAGMENT = 44
MEMBERS = ("team", "default")
RULES = frozenset(
    GroupRule(direction, remote=remote, family=family)
    for family in (4, 6)
    for direction, remote in (("egress", None), ("ingress", MEMBERS))
)


def make_port(tenant: int, number: int) -> PortDesired:
    """A port of a tenant; those of two tenants differ in their taps and guests alone."""
    return PortDesired(
        f"kt{tenant:x}{number:09x}",
        mac(number),
        (FOUR[number], SIX[number]),
        f"i-{tenant:x}-{number}",
        "web",
        groups=frozenset({MEMBERS}),
    )


def mac(number: int) -> str:
    """The MAC of the port with that number, whoever has it."""
    return f"02:00:00:00:00:{number:02x}"


class Teller:
    """What guests are told of themselves."""

    async def guest(self, instance_id: str) -> Told:
        """Tell a guest its id."""
        return Told(Seed(instance_id, "web", user_data=f"of {instance_id}".encode()))


@dataclass
class Tenants:
    """Guests by network and number: A and more of them on the first host, B on the second."""

    hosts: tuple
    guests: dict
    stack: AsyncExitStack
    networks: list[tuple] = field(default_factory=list)
    """Hosts, and the networks that they have."""

    def wire(self, tenant: int, number: int) -> Wire:
        """Open a guest's end of its cable."""
        opened = Wire.open(partial(within, self.guests[tenant, number].namespace))
        self.stack.callback(opened.close)
        return opened

    async def large_pings(self, number: int = 20) -> tuple[int, int]:
        """Have BLUE's A ask B with packets of many fragments; give how many are answered of each family."""
        answered = []
        for target in (FOUR[B], SIX[B]):
            argv = ("ping", "-q", "-c", str(number), "-i", "0.02", "-W", "2", "-s", "20000", str(target))
            said = await self.guests[BLUE, A].run(*argv, allowed=(0, 1))
            answered.append(int(said.partition(" received")[0].rpartition(" ")[2]))
        return answered[0], answered[1]


@pytest.fixture
async def tenants(hosts) -> AsyncIterator[Tenants]:
    """Two tenants' networks of the same addresses, whose ports have groups, served by DHCP, DNS and metadata."""
    async with AsyncExitStack() as stack:
        made = Tenants(hosts, {}, stack)
        places = ((hosts[0], (A, *MORE)), (hosts[1], (B,)))
        members = frozenset(address for number in (A, B, *MORE) for address in (FOUR[number], SIX[number]))
        for (host, numbers), (other, away) in zip(places, reversed(places), strict=True):
            host.datapath._metadata = MetadataService(Teller())
            for tenant in (RED, BLUE):
                ports = tuple(make_port(tenant, number) for number in numbers)
                elsewhere = frozenset((mac(number), other.address) for number in away)
                network = NetworkDesired(
                    tenant,
                    1450,
                    host.address,
                    peers=frozenset(item.address for item in hosts),
                    neighbours=elsewhere,
                    ports=ports,
                    subnets=SUBNETS,
                    groups={MEMBERS: SecurityGroup(RULES, members)},
                )
                made.networks.append((host, network))
                await host.datapath.ensure_network(network)
                for port in ports:
                    guest = made.guests[tenant, int(port.mac[-2:], 16)] = await host.boot(port, tenant)
                    for address in port.addresses:
                        await guest.configure(address)
        yield made


def from_a(packet: bytes, number: int = A) -> bytes:
    """An honest frame to B."""
    kind = IPV4 if packet[0] >> 4 == 4 else IPV6
    return ethernet(mac(B), mac(number), kind, packet)


def begun(number: int, size: int = 1400) -> Iterator[bytes]:
    """First fragments without a second, of both families, for ever."""
    for identification in cycle(range(1 << 16)):
        payload = bytes(size)
        yield from_a(ipv4(FOUR[number], FOUR[B], payload, (identification, 0x2000)), number)
        head = struct.pack("!BBHI", 17, 0, 1, identification)
        yield from_a(ipv6(SIX[number], SIX[B], head + payload, FRAGMENT), number)


def overlapping(number: int) -> Iterator[bytes]:
    """Fragments that overlap, of both families, for ever: a teardrop, and what RFC 5722 forbids."""
    for identification in cycle(range(1 << 16)):
        for offset in (0, 8, 4):
            piece = (identification, 0x2000 | offset)
            yield from_a(ipv4(FOUR[number], FOUR[B], bytes(800), piece), number)
            head = struct.pack("!BBHI", 17, 0, offset << 3 | 1, identification)
            yield from_a(ipv6(SIX[number], SIX[B], head + bytes(800), FRAGMENT), number)


def tiny(number: int) -> Iterator[bytes]:
    """Pieces of eight bytes, each of which costs the kernel a hundred times as much, for ever."""
    for count in cycle(range(1 << 24)):
        piece = (count >> 12 & 0xFFFF, 0x2000 | (count & 0xFFF))
        yield from_a(ipv4(FOUR[number], FOUR[B], bytes(8), piece), number)


MOST_WAITING = 28 << 20
"""Bytes of fragments of one network, as `namespace.fragment_memory` says."""
KINDS = {"never completed": begun, "overlapping": overlapping, "tiny": tiny}


async def test_what_an_equal_sender_sends_between_two_fragments_does_not_part_them(tenants):
    """A packet's halves are joined however many fragments another tenant sends from the same address meanwhile."""
    blue, red, heard = tenants.wire(BLUE, A), tenants.wire(RED, A), tenants.wire(BLUE, B)
    flood = begun(A)
    for number in range(5):
        data = b"%04d" % number
        first, second = fragments((FOUR[A], FOUR[B]), udp(4000, 4000, data * 500), 7000 + number)
        await blue.send(from_a(first))
        await red.send(*(next(flood) for _ in range(300)))
        await blue.send(from_a(second))
        await heard.until(data * 100)


def waiting(name: str) -> int:
    """Give how many bytes of fragments of IPv4 wait in a namespace for others of their packets."""

    def read() -> int:
        lines = Path("/proc/thread-self/net/sockstat").read_text().splitlines()
        return next(int(line.split()[-1]) for line in lines if line.startswith("FRAG:"))

    return within(name, read)


@pytest.mark.parametrize("kind", KINDS)
async def test_fragments_take_nobody_elses_room(tenants, kind):
    """All ports of a tenant send bad fragments, far more than they may; all large pings of the other are answered."""
    assert await tenants.large_pings() == (20, 20)
    flooding = [(tenants.wire(RED, number), KINDS[kind](number)) for number in (A, *MORE)]
    for _ in range(20):
        for wire, frames in flooding:
            await wire.send(*(next(frames) for _ in range(400)))
    assert all(waiting(host.namespace) < MOST_WAITING for host in tenants.hosts)
    assert await tenants.large_pings() == (20, 20)
    counted = await tenants.hosts[0].datapath.dropped()
    for number in (A, *MORE):
        assert counted[make_port(RED, number).tap].excess > 3000
    assert counted.get(make_port(BLUE, A).tap, Dropped()).excess == 0


async def known(host) -> int:
    """Give how many MACs the bridges and tunnels of a host know."""
    return len((await run(("ip", "netns", "exec", host.namespace, "bridge", "fdb", "show"))).splitlines())


async def test_made_up_macs_do_not_fill_the_hosts(tenants):
    """Of the MACs that a port without port security makes up, its own and other hosts learn as many as it may have."""
    before = [await known(host) for host in tenants.hosts]
    host, network = next(item for item in tenants.networks if item[1].vni == RED)
    free = [replace(port, groups=None, secured=False) if port.mac == mac(A) else port for port in network.ports]
    await host.datapath.ensure_network(replace(network, ports=tuple(free)))
    wire = tenants.wire(RED, A)
    for number in range(20_000):
        made_up = f"06:00:00:00:{number >> 8:02x}:{number & 255:02x}"
        await wire.send(ethernet(BROADCAST, made_up, ARP, arp(made_up, FOUR[A], FOUR[B])))
    heard = tenants.wire(RED, B)
    await wire.send(ethernet(mac(B), "06:00:00:00:00:00", IPV4, ipv4(FOUR[A], FOUR[B], udp(1, 1, b"the last"))))
    await heard.until(b"the last")
    for number, item in enumerate(tenants.hosts):
        # A bridge and a tunnel may both know a MAC.
        assert await known(item) - before[number] < 2 * (limits.VOICES_BURST + 20 * limits.VOICES_PER_SECOND)
    assert await tenants.large_pings() == (20, 20)


def neighbours(number: int) -> Iterator[bytes]:
    """Questions for all addresses, and answers to nobody: ARP, neighbour discovery; and other frames to all."""
    own = SIX[number]
    for count in cycle(range(1 << 16)):
        asked = FOUR[1 + count % 253]
        target = SIX[1 + count]
        option = bytes.fromhex(mac(number).replace(":", ""))
        group = IPv6Address(int(IPv6Address("ff02::1:ff00:0")) | int(target) & 0xFFFFFF)
        solicit = icmpv6((own, group), 135, bytes(4) + target.packed + b"\1\1" + option)
        advert = icmpv6((own, IPv6Address("ff02::1")), 136, b"\x20" + bytes(3) + own.packed + b"\2\1" + option)
        yield ethernet(BROADCAST, mac(number), ARP, arp(mac(number), FOUR[number], asked))
        yield ethernet(BROADCAST, mac(number), ARP, arp(mac(number), FOUR[number], FOUR[number], operation=2))
        yield ethernet(
            f"33:33:ff:{(count >> 16) & 255:02x}:{count >> 8 & 255:02x}:{count & 255:02x}", mac(number), IPV6, solicit
        )
        yield ethernet("33:33:00:00:00:01", mac(number), IPV6, advert)


def connections(number: int) -> Iterator[bytes]:
    """First packets of connections to other ports and addresses each, for ever."""
    for count in cycle(range(1 << 24)):
        data = udp(1024 + count % 50_000, 1024 + count // 50_000, b"x")
        yield from_a(ipv4(FOUR[number], FOUR[B], data), number)


FLOODS = {"fragments": begun, "neighbours": neighbours, "connections": connections}


@contextmanager
def flooding(wire: Wire, frames: Iterator[bytes]) -> Iterator[list[int]]:
    """Send frames as fast as can be; give how many were sent."""
    ended, sent = threading.Event(), [0]

    def send() -> None:
        wire.end.setblocking(True)
        while not ended.is_set():
            wire.end.send(next(frames))
            sent[0] += 1

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield sent
    finally:
        ended.set()
        thread.join()


async def conversation(tenants: Tenants, seconds: float = 10) -> tuple[socket.socket, socket.socket]:
    """Connect BLUE's A to its B; give both ends."""
    loop = asyncio.get_running_loop()
    ends = {}
    for number in (A, B):
        make = partial(socket.socket, socket.AF_INET, socket.SOCK_STREAM)
        ends[number] = within(tenants.guests[BLUE, number].namespace, make)
        ends[number].setblocking(False)
        tenants.stack.callback(ends[number].close)
    ends[B].bind((str(FOUR[B]), 0))
    ends[B].listen()
    async with asyncio.timeout(seconds):
        await loop.sock_connect(ends[A], ends[B].getsockname())
        server, _ = await loop.sock_accept(ends[B])
    tenants.stack.callback(server.close)
    return ends[A], server


async def echoed(ends: tuple[socket.socket, socket.socket], times: int) -> int:
    """Send words there and back; give how many came back."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(20):
        for number in range(times):
            await loop.sock_sendall(ends[0], b"%08d" % number)
            assert await loop.sock_recv(ends[1], 64) == b"%08d" % number
            await loop.sock_sendall(ends[1], b"%08d" % number)
            assert await loop.sock_recv(ends[0], 64) == b"%08d" % number
    return times


async def told(guest) -> bytes:
    """Ask the metadata service for the guest's user data."""
    handle = within(guest.namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    handle.setblocking(False)
    async with asyncio.timeout(10):
        await asyncio.get_running_loop().sock_connect(handle, ("169.254.169.254", 80))
        reader, writer = await asyncio.open_connection(sock=handle)
        writer.write(b"GET /latest/user-data HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
    writer.close()
    return answer


def table_fulls() -> int:
    """Give how often somebody on this machine found no room in the kernel's table of IPv4 neighbours."""
    names, *by_cpu = [line.split() for line in Path("/proc/net/stat/arp_cache").read_text().splitlines()]
    return sum(int(line[names.index("table_fulls")], 16) for line in by_cpu)


@pytest.mark.parametrize("kind", FLOODS)
async def test_all_goes_on_while_another_tenant_floods(tenants, kind):
    """While one floods, the other's connection, new ones, DHCP, names, metadata and large pings are as ever: all of it.

    What floods goes on all the while, and much of it is more than the port may.
    """
    blue, full = tenants.guests[BLUE, A], table_fulls()
    ends = await conversation(tenants)
    ask = ("busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-f", "-t", "3", "-T", "1", "-s", "/bin/true")
    await blue.run("ip", "route", "add", "169.254.169.254", "via", str(FOUR[254]))
    with flooding(tenants.wire(RED, A), FLOODS[kind](A)) as sent:
        for _ in range(2):
            assert await tenants.large_pings(10) == (10, 10)
            assert await echoed(ends, 100) == 100
            for _ in range(20):
                assert await echoed(await conversation(tenants), 1) == 1
            try:
                await blue.run(*ask)
            except CommandFailed as error:
                # Before it answers, a DHCP server has its client in a table of the whole machine, which others fill.
                error.add_note(f"meanwhile the table of neighbours was full {table_fulls() - full} times")
                raise
            assert f"of i-{BLUE:x}-{A}".encode() in await told(blue)
    assert sent[0] > 2000
    for host in tenants.hosts:
        listed = await run((*entering(host.namespace), "conntrack", "--count"))
        assert int(listed) < 2 * limits.CONNECTIONS + 2000
