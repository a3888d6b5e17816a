"""What a port may send: rates, connections, and what is counted of what was dropped, on a real kernel."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from kumulus_agent.network import limits, shaping
from kumulus_agent.network.command import run
from kumulus_agent.network.datapath import Datapath
from kumulus_agent.network.groups import GroupRule, SecurityGroup
from kumulus_agent.network.limits import Dropped
from kumulus_agent.network.namespace import entering
from kumulus_agent.network.state import NetworkDesired, Rates
from kumulus_lab.testing.frames import ARP, BROADCAST, IPV4, arp, ethernet, ipv4, udp
from kumulus_lab.testing.port_site import VNI, A, B, C, D, PortSite, datagram, make_port, ports_of

FOREIGN = IPv4Address("10.9.1.2")


@pytest.fixture
async def site(hosts) -> AsyncIterator[PortSite]:
    """Four guests of one network on two hosts."""
    async with ports_of(hosts) as made:
        yield made


async def rate(site: PortSite, source: IPv4Address, target: IPv4Address, seconds: float = 5.0) -> float:
    """Send over TCP for some time; give the payload in kbit/s that came after the first two seconds.

    By then TCP has found out how fast it may be: it sends ever more until a burst is lost, and waits for that.
    """
    loop = asyncio.get_running_loop()
    listener, client = (site.socket(address, socket.SOCK_STREAM) for address in (target, source))
    listener.bind((str(target), 0))
    listener.listen()
    await loop.sock_connect(client, listener.getsockname())
    server, _ = await loop.sock_accept(listener)
    site.stack.callback(server.close)

    async def send() -> None:
        while True:
            await loop.sock_sendall(client, bytes(1 << 16))

    sending = asyncio.create_task(send())
    begun = counting = time.monotonic()
    came = 0
    while (now := time.monotonic()) < begun + seconds:
        size = len(await loop.sock_recv(server, 1 << 18))
        if now < begun + 2.0:
            counting = now
        else:
            came += size
    sending.cancel()
    client.close()
    server.close()
    return came * 8 / 1000 / (time.monotonic() - counting)


async def test_a_port_is_as_fast_as_its_rates_say(site):
    """Both directions keep to their own rate within a tenth, also a changed one; without it all is as before."""
    await site.change(A, rates=Rates(ingress=20_000, egress=8_000))
    assert await rate(site, D, A) == pytest.approx(20_000, rel=0.1)
    assert await rate(site, A, D) == pytest.approx(8_000, rel=0.1)
    assert await site.change() == []
    await site.change(A, rates=Rates(egress=30_000, burst=4_000))
    assert await rate(site, A, C) == pytest.approx(30_000, rel=0.1)
    assert await rate(site, C, A, 3.0) > 60_000
    assert await site.guests[A].reaches(D)
    await site.change(A, rates=None)
    observed = await site.hosts[0].datapath.observe()
    assert not observed.buckets
    assert not observed.redirected
    assert not [name for name in observed.links if name.startswith("ki")]
    assert await rate(site, A, D, 3.0) > 60_000


async def test_a_rate_is_there_before_the_port_is(hosts):
    """A tap that comes after its network has been made is slow from its first frame on, and leaves nothing behind."""
    host = hosts[0]
    ports = tuple(replace(make_port(item), rates=Rates(5_000, 5_000)) for item in (A, C))
    desired = NetworkDesired(VNI, 1450, host.address, ports=ports)
    await host.datapath.ensure_network(desired)
    for port in ports:
        await host.boot(port, VNI)
    assert await host.datapath.ensure_network(desired) == []
    found = await host.datapath.observe()
    assert set(found.buckets) == {"kt3d0b0000000", "ki3d0b0000000", "kt3d0d0000000", "ki3d0d0000000"}
    await host.datapath.unplug(ports[0].tap)
    assert set((await host.datapath.observe()).buckets) == {"kt3d0d0000000", "ki3d0d0000000"}
    await host.datapath.remove_network(VNI)
    assert not [name for name in (await host.datapath.observe()).links if name[:2] in ("kt", "ki")]


async def test_a_kernel_that_cannot_slow_down_is_named(hosts, monkeypatch: pytest.MonkeyPatch):
    """On a host whose kernel lacks what rates need, networks are made without, and the host says what is missing."""
    host = hosts[0]
    assert not host.datapath.unlimited
    # A kind that this kernel has not: it answers as one without the module.
    monkeypatch.setattr(shaping, "QUEUE_KIND", "kumulus")
    datapath = Datapath(host.services, host.directory / "dns", namespace=host.namespace, host_namespace=host.name)
    try:
        await datapath.start()
        assert datapath.unlimited == "the host's kernel lacks an interface of type ifb (module ifb)"
        port = replace(make_port(A), rates=Rates(5_000, 5_000))
        desired = NetworkDesired(VNI, 1450, host.address, ports=(port,))
        await datapath.ensure_network(desired)
        await host.boot(port, VNI)
        assert await datapath.ensure_network(desired) == []
        assert not datapath.differs(desired, await datapath.observe())
        assert not (await datapath.observe()).buckets
    finally:
        await datapath.close()


async def test_a_rate_that_somebody_removed_is_put_right(site):
    """Rates that were changed behind our back differ from what is desired, and are made again."""
    await site.change(A, rates=Rates(10_000, 10_000))
    host = site.hosts[0]
    inside, tap, queue = entering(host.namespace), site.ports[A].tap, site.ports[A].tap.replace("kt", "ki")
    for command in (
        ("tc", "qdisc", "del", "dev", tap, "root"),
        ("tc", "qdisc", "del", "dev", tap, "ingress"),
        ("ip", "link", "del", queue),
        ("tc", "qdisc", "replace", "dev", queue, "root", "tbf", "rate", "1mbit", "burst", "64k", "latency", "50ms"),
    ):
        await run((*inside, *command))
        assert await site.change(), command
        assert await site.change() == []
    assert await rate(site, A, D) == pytest.approx(10_000, rel=0.1)


async def flood(site: PortSite, source: IPv4Address, target: IPv4Address, packets: int) -> None:
    """Begin so many connections: each packet goes to another port."""
    wire = site.wire(source)
    for number in range(packets):
        data = udp(1024 + number // 50_000, 1024 + number % 50_000, b"x")
        await wire.send(ethernet(site.mac(target), site.mac(source), IPV4, ipv4(source, target, data)))
        if number % 256 == 0:
            await asyncio.sleep(0)
    wire.close()


async def tracked(host, *options: str) -> int:
    """Give the number of connections that a host tracks."""
    listed = await run((*entering(host.namespace), "conntrack", "--dump", *options))
    return len(listed.splitlines())


@pytest.fixture
def few_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a port have so few connections that a test can see it."""
    monkeypatch.setattr(limits, "CONNECTIONS", 300)
    monkeypatch.setattr(limits, "CONNECTIONS_PER_SECOND", 2000)


async def test_a_flood_leaves_room_for_others(few_connections, site):
    """A guest that begins connections without end has no more than a port may have; others begin theirs as ever."""
    await flood(site, A, D, 30_000)
    for host in site.hosts:
        assert 200 <= await tracked(host) <= 310
    assert not await site.guests[A].reaches(B)
    assert await site.guests[C].reaches(D)
    assert await site.guests[D].reaches(A)
    counted = (await site.hosts[0].datapath.dropped())[site.ports[A].tap]
    assert counted.excess > 25_000
    await run((*entering(site.hosts[0].namespace), "conntrack", "--flush"))
    assert await site.guests[A].reaches(B)


async def test_a_burst_is_bounded_in_time(site):
    """So many connections as a port may begin at once, and in a second, it begins, and no more."""
    begun = time.monotonic()
    await flood(site, A, D, 20_000)
    seconds = time.monotonic() - begun
    most = limits.CONNECTIONS_BURST + limits.CONNECTIONS_PER_SECOND * (seconds + 0.5)
    assert limits.CONNECTIONS_BURST <= await tracked(site.hosts[0]) <= most
    assert await site.guests[C].reaches(D)


async def test_what_is_dropped_is_counted_by_port_and_reason(site):
    """Each dropped packet is counted once, under its port and why; another port that gets the number begins at none."""
    keys = frozenset({("red", "web")})
    site.groups = {("red", "web"): SecurityGroup(frozenset({GroupRule("egress", 17, (53, 53))}))}
    await site.change(B, groups=keys)
    wires = {address: site.wire(address) for address in (A, B, D)}
    # What guests say by themselves is counted too.
    for guest in site.guests.values():
        await guest.run("sysctl", "-q", "-w", "net.ipv6.conf.all.disable_ipv6=1")
    before = (await site.hosts[0].datapath.dropped()).get(site.ports[A].tap, Dropped()).spoofed
    for _ in range(3):
        await wires[A].send(ethernet(site.mac(D), site.mac(A), IPV4, datagram(FOREIGN, D, b"x")))
    await wires[B].send(*(ethernet(site.mac(D), site.mac(B), IPV4, datagram(B, D, b"%d" % n)) for n in range(5)))
    await wires[D].send(*(ethernet(site.mac(B), site.mac(D), IPV4, datagram(D, B, b"%d" % n)) for n in range(7)))
    # What is judged on this host has been when the next frame on the same way has come.
    await wires[A].send(ethernet(site.mac(D), site.mac(A), IPV4, datagram(A, D, b"end of A")))
    await wires[B].send(ethernet(BROADCAST, site.mac(B), ARP, arp(site.mac(B), B, D) + b"end of B"))
    await wires[D].until(b"end of A")
    await wires[D].until(b"end of B")
    first, second = [await host.datapath.dropped() for host in site.hosts]
    assert first[site.ports[A].tap] == Dropped(spoofed=before + 3)
    assert replace(second[site.ports[B].tap], spoofed=0) == Dropped(egress=5, ingress=7)
    assert replace(second.get(site.ports[D].tap, Dropped()), spoofed=0) == Dropped()
    # The number of a port that goes is free for the next one.
    marks = (await site.hosts[1].datapath.observe()).firewall.marks()
    former = site.ports.pop(B)
    await site.change()
    site.ports[B] = replace(former, tap="kt3dff0000000", groups=keys)
    await site.change()
    again = (await site.hosts[1].datapath.observe()).firewall.marks()
    assert again["kt3dff0000000"] == marks[former.tap]
    assert not (await site.hosts[1].datapath.dropped()).keys() & {"kt3dff0000000", former.tap}
