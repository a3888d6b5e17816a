"""What ports have besides addresses and groups, on a real kernel: pairs, security off, rates, bounds, counts."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv4Address, IPv4Network, ip_address
from pathlib import Path
from typing import Any

import pytest

from kumulus_agent.network import limits, shaping
from kumulus_agent.network.command import run
from kumulus_agent.network.datapath import Datapath
from kumulus_agent.network.errors import CommandFailed
from kumulus_agent.network.groups import GroupRule, SecurityGroup
from kumulus_agent.network.limits import Dropped
from kumulus_agent.network.namespace import entering, within
from kumulus_agent.network.state import AddressPair, NetworkDesired, PortDesired, Rates
from kumulus_agent.networks.carried import CarriedNetworks
from kumulus_agent.networks.plan import Here
from kumulus_agent.networks.port_settings import PortsHere
from kumulus_agent.servers.desired import DesiredPort, NetworkKey
from kumulus_lab.testing.frames import ARP, BROADCAST, IPV4, IPV6, VLAN, Wire, arp, ethernet, ipv4, udp, vlan
from kumulus_runtime.store import Store

VNI = 0x3D
VIP = IPv4Address("10.0.0.50")
VRRP = "00:00:5e:00:01:32"
A, B, C, D = (IPv4Address(f"10.0.0.{number}") for number in (11, 12, 13, 14))
FOREIGN = IPv4Address("10.9.1.2")
PAIR = frozenset({AddressPair(IPv4Network(f"{VIP}/32"))})


@dataclass
class Site:
    """A and C on the first host, B and D on the second."""

    hosts: tuple
    guests: dict
    ports: dict
    groups: dict
    stack: AsyncExitStack

    async def change(self, address: IPv4Address | None = None, **changes) -> list:
        """Give a port other settings; return the steps that this took on its host."""
        if address is not None:
            self.ports[address] = replace(self.ports[address], **changes)
        done = []
        for host, own in zip(self.hosts, ((A, C), (B, D)), strict=True):
            done += await host.datapath.ensure_network(
                NetworkDesired(
                    VNI,
                    1450,
                    host.address,
                    peers=frozenset(other.address for other in self.hosts),
                    ports=tuple(self.ports[item] for item in own if item in self.ports),
                    groups=self.groups,
                )
            )
        return done

    def wire(self, address: IPv4Address) -> Wire:
        """Open the guest's end of its cable."""
        opened = Wire.open(partial(within, self.guests[address].namespace))
        self.stack.callback(opened.close)
        return opened

    def socket(self, address: IPv4Address, kind: socket.SocketKind) -> socket.socket:
        """Open a socket in a guest."""
        made = within(self.guests[address].namespace, lambda: socket.socket(socket.AF_INET, kind))
        made.setblocking(False)
        self.stack.callback(made.close)
        return made

    def mac(self, address: IPv4Address) -> str:
        """Give a port's MAC."""
        return self.ports[address].mac


def make_port(address: IPv4Address) -> PortDesired:
    number = address.packed[-1]
    return PortDesired(f"kt3d{number:02x}0000000", f"02:00:00:00:00:{number:02x}", (address,), f"i{number}")


@pytest.fixture
async def site(hosts) -> AsyncIterator[Site]:
    """Four guests of one network on two hosts."""
    async with AsyncExitStack() as stack:
        made = Site(hosts, {}, {address: make_port(address) for address in (A, B, C, D)}, {}, stack)
        await made.change()
        for host, own in zip(hosts, ((A, C), (B, D)), strict=True):
            for address in own:
                made.guests[address] = guest = await host.boot(made.ports[address], VNI)
                await guest.configure()
        yield made


async def take(site: Site, address: IPv4Address, taken: IPv4Address) -> None:
    """Let a guest take an address over, as keepalived does: it configures it and tells everybody."""
    await site.guests[address].configure(taken)
    announce = ("busybox", "arping", "-U", "-c", "2", "-w", "1", "-I", "eth0", "-s", str(taken), str(taken))
    await site.guests[address].run(*announce, allowed=(0, 1))


async def leave(site: Site, address: IPv4Address, left: IPv4Address) -> None:
    await site.guests[address].run("ip", "address", "del", f"{left}/24", "dev", "eth0")


async def known_mac(site: Site, asker: IPv4Address, address: IPv4Address) -> str:
    """Give the MAC that a guest knows for an address."""
    words = (await site.guests[asker].run("ip", "neigh", "show", str(address))).split()
    return words[words.index("lladdr") + 1]


async def test_an_address_moves_between_two_ports_that_share_it(site):
    """An address that two ports on two hosts may use is reached where it was announced last, by guests of both."""
    await site.change(A, pairs=PAIR)
    await site.change(B, pairs=PAIR)
    for holder, former in ((A, None), (B, A), (A, B)):
        if former is not None:
            await leave(site, former, VIP)
        await take(site, holder, VIP)
        for asker in (C, D):
            assert await site.guests[asker].reaches(VIP)
            assert await known_mac(site, asker, VIP) == site.mac(holder)


async def test_an_address_is_not_taken_by_a_port_without_it(site):
    """A port without the pair, or without it any more, neither sends from the address nor turns others to itself."""
    await site.change(A, pairs=PAIR)
    await take(site, A, VIP)
    assert await site.guests[D].reaches(VIP)
    await take(site, C, VIP)
    assert await site.guests[D].reaches(VIP)
    assert await known_mac(site, D, VIP) == site.mac(A)
    assert not await site.guests[C].reaches(D, "-I", str(VIP))
    await site.change(A, pairs=frozenset())
    await site.guests[D].run("ip", "neigh", "flush", "all")
    assert not await site.guests[D].reaches(VIP)
    assert await site.guests[D].reaches(A)


def datagram(source: IPv4Address, destination: IPv4Address, data: bytes) -> bytes:
    return ipv4(source, destination, udp(4000, 4000, data))


async def test_a_shared_mac_goes_where_it_spoke_last(site):
    """Frames to a MAC that two ports may use go to the one that has spoken as it last, and only there."""
    pair = frozenset({AddressPair(IPv4Network(f"{VIP}/32"), VRRP)})
    await site.change(A, pairs=pair)
    await site.change(B, pairs=pair)
    wires = {address: site.wire(address) for address in (A, B, C, D)}
    for number, (holder, other) in enumerate(((A, B), (B, A), (A, B))):
        tell, ask = b"told %d" % number, b"asked %d" % number
        await wires[holder].send(ethernet(BROADCAST, VRRP, ARP, arp(VRRP, VIP, VIP) + tell))
        for asker in (C, D):
            await wires[asker].until(tell)
            packet = datagram(asker, VIP, ask + str(asker).encode())
            await wires[asker].send(ethernet(VRRP, site.mac(asker), IPV4, packet))
            await wires[holder].until(ask + str(asker).encode())
        await wires[C].send(ethernet(site.mac(other), site.mac(C), IPV4, datagram(C, other, b"last %d" % number)))
        await wires[other].until(b"last %d" % number)
        assert not wires[other].has(ask + str(C).encode())


async def test_a_range_is_for_its_addresses_and_its_port_alone(site):
    """A port whose pair is a range sends and asks as any address of it, up to its ends; others do not."""
    ranges = ("10.9.0.0/16", "10.9.1.0/24", "10.9.1.2/32", "172.16.0.0/12")
    await site.change(A, pairs=frozenset(AddressPair(IPv4Network(item)) for item in ranges))
    assert await site.change() == []
    wires = {address: site.wire(address) for address in (A, C, D)}
    inside = ("10.9.0.0", "10.9.255.255", "172.16.0.1", "172.31.255.255")
    outside = ("10.8.255.255", "10.10.0.0", "172.15.255.255", "172.32.0.0", str(VIP))
    for sender, passes in ((A, True), (C, False)):
        for text in (*inside, *outside):
            source, data = IPv4Address(text), f"{sender} as {text};".encode()
            await wires[sender].send(
                ethernet(site.mac(D), site.mac(sender), IPV4, datagram(source, D, data)),
                ethernet(BROADCAST, site.mac(sender), ARP, arp(site.mac(sender), source, D) + data),
                ethernet(site.mac(D), site.mac(sender), IPV4, datagram(sender, D, b"end " + data)),
            )
            heard = await wires[D].until(b"end " + data)
            found = sum(data in frame and b"end" not in frame for frame in heard)
            assert found == (2 if passes and text in inside else 0), (sender, text)
    await site.change(A, pairs=frozenset({AddressPair(IPv4Network("10.9.0.0/17"))}))
    await site.change(A, pairs=frozenset({AddressPair(IPv4Network("0.0.0.0/0"))}))
    await site.change(A, pairs=frozenset())
    assert await site.change() == []


BAD = b"this must not arrive"
ASKED = b"?" * len(BAD)
"""To be replaced by something as long."""
STOLEN_MAC = "02:00:00:00:00:99"


async def test_without_port_security_all_but_tags_and_servers_macs_pass(site):
    """Without port security a port sends as whom it likes, but not with tags or a server's MAC; others are held."""
    await site.change(A, secured=False)
    mac = site.mac(A)
    passes = {
        "source MAC": ethernet(site.mac(D), STOLEN_MAC, IPV4, datagram(A, D, ASKED)),
        "source address": ethernet(site.mac(D), mac, IPV4, datagram(FOREIGN, D, ASKED)),
        "ARP": ethernet(BROADCAST, mac, ARP, arp(mac, FOREIGN, D) + ASKED),
        "DHCP server": ethernet(site.mac(D), mac, IPV4, ipv4(A, D, udp(67, 68, ASKED))),
        "frame of PPPoE": ethernet(site.mac(D), mac, 0x8864, ASKED),
    }
    stops = {
        "VLAN tag": ethernet(site.mac(D), mac, VLAN, vlan(IPV4, datagram(A, D, BAD))),
        "two tags": ethernet(site.mac(D), mac, 0x88A8, vlan(VLAN, vlan(IPV4, datagram(A, D, BAD)))),
        "a server's MAC": ethernet(site.mac(D), "0e:6b:6d:00:00:3d", IPV4, datagram(A, D, BAD)),
    }
    wires = {address: site.wire(address) for address in (A, C, D)}
    for number, (what, frame) in enumerate((passes | stops).items()):
        mark, end = (b"%s %03d" % (word, number) for word in (b"whatever goes on", b"marker"))
        sent = frame.replace(ASKED, mark) if what in passes else frame
        await wires[A].send(sent, ethernet(site.mac(D), mac, IPV4, datagram(A, D, end)))
        heard = await wires[D].until(end)
        assert any(mark in item for item in heard) == (what in passes), what
        assert not any(BAD in item for item in heard), what
    for frame in (passes["source address"], ethernet(site.mac(D), STOLEN_MAC, IPV4, datagram(C, D, ASKED))):
        own = frame.replace(bytes.fromhex(mac.replace(":", "")), bytes.fromhex(site.mac(C).replace(":", "")))
        await wires[C].send(own.replace(ASKED, BAD), ethernet(site.mac(D), site.mac(C), IPV4, datagram(C, D, b"of C")))
    assert not any(BAD in item for item in await wires[D].until(b"of C"))
    await site.change(A, secured=True)
    await wires[A].send(
        ethernet(site.mac(D), mac, IPV4, datagram(FOREIGN, D, BAD)),
        ethernet(site.mac(D), mac, IPV4, datagram(A, D, b"secured")),
    )
    assert not any(BAD in item for item in await wires[D].until(b"secured"))


async def test_ipv6_of_a_port_without_security_stays_in_its_network(site):
    """What a port without port security sends of other protocols is heard in its own network, and in no other."""
    await site.change(A, secured=False)
    other = PortDesired("kt3e990000000", "02:00:00:00:00:0b", (A,), "i99")
    await site.hosts[0].datapath.ensure_network(NetworkDesired(VNI + 1, 1450, site.hosts[0].address, ports=(other,)))
    stranger = await site.hosts[0].boot(other, VNI + 1)
    outside = Wire.open(partial(within, stranger.namespace))
    site.stack.callback(outside.close)
    wires = {address: site.wire(address) for address in (A, C)}
    mac = site.mac(A)
    ends = ip_address("fe80::1").packed + ip_address("ff02::1").packed
    head = struct.pack("!IHBB", 6 << 28, len(BAD), 59, 255) + ends
    await wires[A].send(
        ethernet("33:33:00:00:00:01", mac, IPV6, head + BAD),
        ethernet(BROADCAST, mac, IPV4, datagram(FOREIGN, IPv4Address("255.255.255.255"), b"the last")),
    )
    await wires[C].until(b"the last")
    assert wires[C].has(BAD)
    assert not outside.has(BAD)
    assert not outside.has(b"the last")


async def rate(site: Site, source: IPv4Address, target: IPv4Address, seconds: float = 3.0) -> float:
    """Send over TCP for some time; give the payload in kbit/s that came after the first half second."""
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
        if now < begun + 0.5:
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
    assert await rate(site, C, A, 1.0) > 60_000
    assert await site.guests[A].reaches(D)
    await site.change(A, rates=None)
    observed = await site.hosts[0].datapath.observe()
    assert not observed.buckets
    assert not observed.redirected
    assert not [name for name in observed.links if name.startswith("ki")]
    assert await rate(site, A, D, 1.0) > 60_000


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


async def test_a_guest_may_be_the_network_s_dhcp_server(site, tmp_path: Path):
    """Without port security a guest gives guests on other hosts addresses, where the network itself gives none."""
    await site.change(A, secured=False)
    config, leases = tmp_path / "udhcpd.conf", tmp_path / "leases"
    leases.touch()
    config.write_text(
        f"start {D}\nend {D}\ninterface eth0\nlease_file {leases}\npidfile {tmp_path}/pid\nopt subnet 255.255.255.0\n"
        f"static_lease {site.mac(D)} {D}\n"
    )
    serve = ("ip", "netns", "exec", site.guests[A].namespace, "busybox", "udhcpd", "-f", str(config))
    server = await asyncio.create_subprocess_exec(*serve, stderr=asyncio.subprocess.PIPE)
    try:
        assert b"started" in await server.stderr.readline()
        ask = ("busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-f", "-t", "5", "-T", "1", "-s", "/bin/true")
        await site.guests[D].run("ip", "address", "flush", "dev", "eth0")
        await site.guests[D].run(*ask)
        await site.change(A, secured=True)
        with pytest.raises(CommandFailed):
            await site.guests[D].run(*ask[:8], "1", *ask[9:])
    finally:
        server.terminate()
        await server.wait()


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


async def flood(site: Site, source: IPv4Address, target: IPv4Address, packets: int) -> None:
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


KEY = NetworkKey("team", "blue", VNI)


class PortsOfUsers:
    """An API server that shows one Network without endpoints, and the Ports that a test has put there."""

    def __init__(self) -> None:
        metadata = {"name": KEY.name, "namespace": KEY.namespace}
        network = {"metadata": metadata, "spec": {"subnets": [{"name": "v4", "cidr": "10.0.0.0/24"}]}}
        slices = {"metadata": metadata, "spec": {"network": {"name": KEY.name}, "vni": VNI, "endpoints": []}}
        rules = [{"etherType": "IPv4"}]
        group = {
            "metadata": {"name": "open", "namespace": "red"},
            "spec": {"ingress": rules, "egress": rules},
        }
        self._bodies = {"Network": network, "NetworkEndpoints": slices, "SecurityGroup": group}
        self.ports: dict[str, dict[str, Any]] = {}
        self.asked = 0

    async def watch(self, kind: Any, **_: Any) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Show what is there; wait forever."""
        yield "ADDED", self._bodies[kind.__name__]
        yield "SYNCED", {}
        await asyncio.Event().wait()

    async def get(self, _kind: Any, name: str, _namespace: str) -> dict[str, Any] | None:
        """Give a Port."""
        self.asked += 1
        return self.ports.get(name)


def written(port: DesiredPort, version: int, **spec: Any) -> dict[str, Any]:
    """Give a Port as its user has written it."""
    given = {"portID": "11111111-2222-4333-8444-555555555555", "mac": port.mac, "addresses": list(port.addresses)}
    metadata = {"name": port.port, "namespace": port.namespace, "resourceVersion": str(version)}
    return {"kind": "Port", "metadata": metadata, "spec": {"network": {"name": "blue"}, "assignment": given, **spec}}


async def test_what_is_written_into_a_port_holds_at_once(hosts):
    """A Port's settings hold from the port's first frame on, though no watch has shown it; each change is applied."""
    api, store, host = PortsOfUsers(), Store(), hosts[0]
    settings = PortsHere(api, store)
    networks = CarriedNetworks(api, host.datapath, Here(host.name, host.address, 1450), nothing_mapped, settings)
    ports = [
        DesiredPort(
            "a",
            f"p{n}",
            KEY,
            f"02:00:00:00:00:{n:02x}",
            (f"10.0.0.{n}",),
            make_port(address).tap,
            groups=(("red", "open"),),
            namespace="red",
        )
        for address, n in ((A, 11), (C, 13))
    ]
    api.ports["p11"] = written(ports[0], 1, allowedAddressPairs=[{"address": str(VIP)}], dnsName="www")
    worker = asyncio.create_task(networks.queue.run(networks.reconcile, 1))
    try:
        networks.hold("i1", "web", ports)
        await networks.ensure([KEY])
        assert api.asked == 2
        a, c = [await host.boot(make_port(IPv4Address(port.addresses[0])), VNI) for port in ports]
        for guest in (a, c):
            await guest.configure()
        await a.configure(VIP)
        assert await c.reaches(A, "-I", "10.0.0.13")
        assert await c.reaches(VIP)
        resolved = await c.run("busybox", "nslookup", "-type=a", "www", "10.0.0.254")
        assert str(A) in resolved

        async def change(version: int, **spec: Any) -> None:
            applied = host.datapath.ensure_network
            done = asyncio.Event()

            async def seen(desired: NetworkDesired) -> Any:
                steps = await applied(desired)
                done.set()
                return steps

            host.datapath.ensure_network = seen
            store.apply("MODIFIED", written(ports[0], version, **spec))
            networks.port_changed("red", "p11")
            async with asyncio.timeout(10):
                await done.wait()
            host.datapath.ensure_network = applied

        await change(2)
        await c.run("ip", "neigh", "flush", "all")
        assert not await c.reaches(VIP)
        await change(3, portSecurityEnabled=False, qos={"egressKbps": 5000})
        await c.run("ip", "neigh", "flush", "all")
        assert await c.reaches(VIP)
        assert (await host.datapath.observe()).buckets
        networks.port_changed("red", "p11")
        assert not len(networks.queue)
        assert api.asked == 2
    finally:
        networks.queue.stop()
        await worker
        await networks.close()


async def nothing_mapped() -> None:
    """Look for physical networks on a host that has none."""
