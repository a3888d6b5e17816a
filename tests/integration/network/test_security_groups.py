"""Security groups on a real kernel: what a port takes and makes, and what becomes of connections when rules change."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest

from kumulus_agent.network.groups import Flow, GroupRule, SecurityGroup, permits
from kumulus_agent.network.namespace import within
from kumulus_agent.network.state import NetworkDesired, PortDesired

VNI = 0x3C
WEB, CLIENTS = ("red", "web"), ("red", "clients")
A, B, C = ENDS = tuple(IPv4Address(f"10.0.0.{number}") for number in (11, 12, 13))
A6, B6, C6 = ENDS6 = tuple(IPv6Address(f"fd00::{number}") for number in (11, 12, 13))
OUT = (GroupRule("egress"), GroupRule("egress", family=6))
Address = IPv4Address | IPv6Address
SECONDS = 1.0


def tcp(first: int, last: int | None = None, remote=None, family=4) -> GroupRule:
    return GroupRule("ingress", 6, (first, last or first), remote=remote, family=family)


@dataclass
class Site:
    """Guests of a network with groups; A and B on the first host, C on the second."""

    hosts: tuple
    guests: dict
    desired: tuple[NetworkDesired, NetworkDesired]
    sockets: list[socket.socket]
    ends: tuple[Address, Address, Address]

    async def rules(self, *rules: GroupRule, members: frozenset[Address] | None = None) -> None:
        """Give group web these rules besides that all may go out; A and C are members of clients."""
        a, b, c = self.ends
        groups = {
            WEB: SecurityGroup(frozenset({*OUT, *rules}), frozenset({b})),
            CLIENTS: SecurityGroup(frozenset(OUT), frozenset({a, c}) if members is None else members),
        }
        self.desired = tuple(replace(desired, groups=groups) for desired in self.desired)
        for host, desired in zip(self.hosts, self.desired, strict=True):
            await host.datapath.ensure_network(desired)

    def socket(self, address: Address, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
        """Open a socket in a guest."""
        family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
        made = within(self.guests[address].namespace, lambda: socket.socket(family, kind))
        made.setblocking(False)
        self.sockets.append(made)
        return made


@dataclass
class Stream:
    """A TCP connection between two guests."""

    client: socket.socket
    server: socket.socket

    async def carries(self, *, back: bool = False, seconds: float = SECONDS) -> bool:
        """Whether a byte that is sent now comes (from the server, if back); what was sent before may come too."""
        loop = asyncio.get_running_loop()
        source, target = (self.server, self.client) if back else (self.client, self.server)
        await loop.sock_sendall(source, b"x")
        try:
            async with asyncio.timeout(seconds):
                return bool(await loop.sock_recv(target, 1 << 16))
        except TimeoutError:
            return False


async def connect(site: Site, source: Address, target: Address, port: int, seconds: float = SECONDS) -> Stream | None:
    """Connect; None if it is not answered in time."""
    loop = asyncio.get_running_loop()
    listener, client = site.socket(target), site.socket(source)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((str(target), port))
    listener.listen()
    try:
        async with asyncio.timeout(seconds):
            await loop.sock_connect(client, (str(target), port))
            server, _ = await loop.sock_accept(listener)
    except TimeoutError:
        return None
    finally:
        listener.close()
    site.sockets.append(server)
    return Stream(client, server)


@pytest.fixture
async def site(hosts) -> AsyncIterator[Site]:
    """Three guests: B is in group web, A and C are in group clients."""
    async with _site(hosts, ENDS) as made:
        yield made


@pytest.fixture
async def site6(hosts) -> AsyncIterator[Site]:
    """The same with IPv6."""
    async with _site(hosts, ENDS6) as made:
        yield made


@asynccontextmanager
async def _site(hosts, ends: tuple[Address, Address, Address]) -> AsyncIterator[Site]:
    ports = [
        PortDesired(
            f"kt3c{address.packed[-1]:02x}0000000",
            f"02:00:00:00:00:{address.packed[-1]:02x}",
            (address,),
            f"i{address.packed[-1]}",
            groups=frozenset({WEB if address == ends[1] else CLIENTS}),
        )
        for address in ends
    ]
    peers = frozenset(host.address for host in hosts)
    desired = tuple(
        NetworkDesired(VNI, 1450, host.address, peers=peers, ports=tuple(own))
        for host, own in zip(hosts, (ports[:2], ports[2:]), strict=True)
    )
    made = Site(hosts, {}, desired, [], ends)
    await made.rules()
    for host, own in zip(hosts, (ports[:2], ports[2:]), strict=True):
        for port in own:
            made.guests[port.addresses[0]] = guest = await host.boot(port, VNI)
            await guest.configure()
    yield made
    for found in made.sockets:
        found.close()


async def test_nothing_comes_in_that_no_rule_lets_in(site):
    """Without a rule for it a connection is not answered, on one host or between two; with it, its port alone is."""
    assert await connect(site, A, B, 80, 0.5) is None
    assert await connect(site, C, B, 80, 0.5) is None
    await site.rules(tcp(80))
    for source in (A, C):
        stream = await connect(site, source, B, 80)
        assert stream
        assert await stream.carries()
        assert await stream.carries(back=True)
    assert await connect(site, A, B, 81, 0.5) is None
    assert await connect(site, B, A, 80, 0.5) is None
    assert not await site.guests[A].reaches(B)
    await site.rules(GroupRule("ingress", 1, icmp=(8, 0)))
    assert await site.guests[A].reaches(B)


async def test_a_rule_that_goes_ends_its_connections_alone(site):
    """When a rule goes, its connections carry nothing either way, whoever speaks, until it is back; others go on."""
    await site.rules(tcp(80), tcp(443))
    kept, lost = await connect(site, A, B, 443), await connect(site, A, B, 80)
    assert kept
    assert lost
    assert await lost.carries()
    await site.rules(tcp(443))
    assert not await lost.carries()
    assert not await lost.carries(back=True)
    assert not await lost.carries()
    assert await kept.carries()
    assert await kept.carries(back=True)
    await site.rules(tcp(80), tcp(443))
    assert await lost.carries(seconds=20)


async def test_rules_of_ipv6_hold_for_its_connections(site6):
    """As with IPv4: what a rule lets in is answered, ends when it goes, and goes on when it is back."""
    assert await connect(site6, A6, B6, 80, 0.5) is None
    assert await connect(site6, C6, B6, 80, 0.5) is None
    await site6.rules(tcp(80, family=6), tcp(443, family=6))
    kept, lost = await connect(site6, C6, B6, 443), await connect(site6, C6, B6, 80)
    assert kept
    assert lost
    assert await lost.carries()
    await site6.rules(tcp(443, family=6))
    assert not await lost.carries()
    assert not await lost.carries(back=True)
    assert await kept.carries()
    await site6.rules(tcp(80, family=6), tcp(443, family=6))
    assert await lost.carries(seconds=20)
    assert not await site6.guests[A6].reaches(B6)
    await site6.rules(GroupRule("ingress", 58, icmp=(128, 0), family=6))
    assert await site6.guests[A6].reaches(B6)


async def test_a_group_lets_its_members_in(site):
    """A rule for a remote group is for its members alone, wherever they are, and follows who is one."""
    await site.rules(tcp(80, remote=CLIENTS), members=frozenset({C}))
    assert await connect(site, A, B, 80, 0.5) is None
    assert await connect(site, C, B, 80)
    await site.rules(tcp(80, remote=CLIENTS), members=frozenset({A}))
    assert await connect(site, C, B, 80, 0.5) is None
    assert await connect(site, A, B, 80)


async def test_addresses_and_ports_are_ranges(site):
    """A rule's prefix and its range of ports hold at their ends, and not beyond."""
    await site.rules(tcp(8000, 8002, IPv4Network("10.0.0.8/30")))
    assert await connect(site, A, B, 7999, 0.5) is None
    assert await connect(site, A, B, 8000)
    assert await connect(site, A, B, 8002)
    assert await connect(site, A, B, 8003, 0.5) is None
    assert await connect(site, C, B, 8000, 0.5) is None


KINDS = (socket.SOCK_STREAM, socket.SOCK_DGRAM)
PORTS = (1, 79, 80, 81, 53, 65535)
RULES = [
    tcp(80),
    tcp(1, 80, IPv4Network("10.0.0.13/32")),
    tcp(1, 65535, CLIENTS),
    GroupRule("ingress", 17, (53, 80), remote=IPv4Network("10.0.0.0/29")),
    GroupRule("ingress", 17, (80, 81), remote=IPv4Network("10.0.0.8/30")),
    GroupRule("ingress", 17),
    GroupRule("ingress", remote=IPv4Network("10.0.0.13/32")),
    GroupRule("ingress", 1),
]
RULES6 = [
    tcp(1, 80, IPv6Network("fd00::13/128"), family=6),
    tcp(1, 65535, CLIENTS, family=6),
    GroupRule("ingress", 17, (80, 81), remote=IPv6Network("fd00::12/127"), family=6),
    GroupRule("ingress", family=6),
    GroupRule("ingress", 58, family=6),
    tcp(80),
    GroupRule("ingress"),
]


async def test_the_kernel_says_what_permits_says(site):
    """Of every rule, the kernel lets in the connections that `permits` does, which decides over those that exist."""
    await _agrees(site, RULES)


async def test_the_kernel_says_what_permits_says_of_ipv6(site6):
    """So it is with IPv6, for which rules about IPv4 let nothing in."""
    await _agrees(site6, RULES6)


async def _agrees(site: Site, rules: list[GroupRule]) -> None:
    a, b, c = site.ends
    flows = [(kind, source, port) for source in (a, c) for kind in KINDS for port in PORTS]
    for rule in rules:
        await site.rules(rule, members=frozenset({c}))
        groups = site.desired[0].groups
        asked = [Flow(6 if kind == socket.SOCK_STREAM else 17, source, b, 40000, port) for kind, source, port in flows]
        wanted = [permits({WEB}, groups, "ingress", flow) for flow in asked]
        found = []
        for source in (a, c):
            # Of one source only: a port is listened on once.
            own = [_arrives(site, *flow) for flow in flows if flow[1] == source]
            found += await asyncio.gather(*own)
        assert found == wanted, rule


async def _arrives(site: Site, kind: socket.SocketKind, source: Address, port: int) -> bool:
    target = site.ends[1]
    if kind == socket.SOCK_STREAM:
        return await connect(site, source, target, port, 0.4) is not None
    loop = asyncio.get_running_loop()
    sender, receiver = site.socket(source, kind), site.socket(target, kind)
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    receiver.bind((str(target), port))
    sender.bind((str(source), 0))
    await loop.sock_sendto(sender, b"x", (str(target), port))
    me = sender.getsockname()
    try:
        async with asyncio.timeout(0.4):
            while (await loop.sock_recvfrom(receiver, 8))[1] != me:
                pass
    except TimeoutError:
        return False
    finally:
        receiver.close()
    return True


async def test_nothing_passes_while_rules_change(site):
    """While rules are changed over and over, nothing comes in that none of them lets in, and what all let in does."""
    await site.rules(tcp(80), GroupRule("ingress", 17, (53, 53)))
    loop = asyncio.get_running_loop()
    sender, good, bad = (site.socket(address, socket.SOCK_DGRAM) for address in (A, B, B))
    good.bind((str(B), 53))
    bad.bind((str(B), 54))
    ended = asyncio.Event()
    came = 0

    def receive() -> None:
        # Not by `sock_recv` under a timeout: what has been read as the time is up is thrown away with it.
        nonlocal came
        with contextlib.suppress(BlockingIOError):
            while good.recv(8):
                came += 1

    async def send() -> int:
        count = 0
        while not ended.is_set():
            for port in (53, 54):
                await loop.sock_sendto(sender, b"x", (str(B), port))
            count += 1
            await asyncio.sleep(0)
        return count

    loop.add_reader(good, receive)
    sending = asyncio.create_task(send())
    for number in range(20):
        await site.rules(tcp(80 + number % 3), GroupRule("ingress", 17, (53, 53)))
    ended.set()
    sent = await sending
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(10):
            while came < sent:  # noqa: ASYNC110 - the last are on their way, and it tells nobody
                await asyncio.sleep(0.01)
    loop.remove_reader(good)
    assert sent > 1000
    assert came == sent
    # What was sent to the other port was sent before the last that came.
    with pytest.raises(BlockingIOError):
        bad.recv(8)
