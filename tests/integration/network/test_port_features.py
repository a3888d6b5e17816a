"""What ports have besides addresses and groups, on a real kernel: pairs, security off, servers of their own."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from functools import partial
from ipaddress import IPv4Address, IPv4Network, ip_address
from pathlib import Path

import pytest

from kumulus_agent.network.errors import CommandFailed
from kumulus_agent.network.namespace import within
from kumulus_agent.network.state import AddressPair, NetworkDesired, PortDesired
from kumulus_lab.testing.frames import ARP, BROADCAST, IPV4, IPV6, VLAN, Wire, arp, ethernet, ipv4, udp, vlan
from kumulus_lab.testing.port_site import VNI, A, B, C, D, PortSite, datagram, ports_of

VIP = IPv4Address("10.0.0.50")
VRRP = "00:00:5e:00:01:32"
PAIR = frozenset({AddressPair(IPv4Network(f"{VIP}/32"))})
FOREIGN = IPv4Address("10.9.1.2")


@pytest.fixture
async def site(hosts) -> AsyncIterator[PortSite]:
    """Four guests of one network on two hosts."""
    async with ports_of(hosts) as made:
        yield made


async def take(site: PortSite, address: IPv4Address, taken: IPv4Address) -> None:
    """Let a guest take an address over, as keepalived does: it configures it and tells everybody."""
    await site.guests[address].configure(taken)
    announce = ("busybox", "arping", "-U", "-c", "2", "-w", "1", "-I", "eth0", "-s", str(taken), str(taken))
    await site.guests[address].run(*announce, allowed=(0, 1))


async def leave(site: PortSite, address: IPv4Address, left: IPv4Address) -> None:
    await site.guests[address].run("ip", "address", "del", f"{left}/24", "dev", "eth0")


async def known_mac(site: PortSite, asker: IPv4Address, address: IPv4Address) -> str:
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
