"""IPv6 between guests on two hosts: what passes, and what a guest may not claim to be."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest

from kumulus_agent.network.namespace import within
from kumulus_agent.network.state import NetworkDesired, PortDesired, SubnetDesired
from kumulus_api.addresses import eui64, link_local
from kumulus_lab.testing import frames

VNI = 0x66
SUBNET = IPv6Network("fd00:1::/64")
STOLEN = IPv6Address("fd00:1::77")
ALL_NODES, ALL_ROUTERS, ANY = IPv6Address("ff02::1"), IPv6Address("ff02::2"), IPv6Address("::")
ROUTER_SOLICIT, ROUTER, SOLICIT, ADVERTISE, REDIRECT = 133, 134, 135, 136, 137
MTU = 1450


def make_port(number: int, **overrides) -> PortDesired:
    """A port with an IPv4 address, and an IPv6 one that follows from its MAC."""
    mac = f"02:00:00:00:00:{number:02x}"
    addresses = (IPv4Address(f"10.0.0.{number}"), eui64(SUBNET, mac))
    return replace(PortDesired(f"kt66{number:09x}", mac, addresses, f"i{number}", f"web-{number}"), **overrides)


def address(port: PortDesired) -> IPv6Address:
    """A port's IPv6 address."""
    return port.addresses[1]


@dataclass
class Pair:
    """A on the first host, B on the second; a wire of each."""

    hosts: tuple
    desired: list[NetworkDesired]
    guests: list
    wires: list[frames.Wire]
    ports: list[PortDesired]
    sent: int = 0

    def frame(self, packet: bytes, *, source: str = "") -> bytes:
        """A frame from A to B."""
        a, b = self.ports
        return frames.ethernet(b.mac, source or a.mac, frames.IPV6, packet)

    async def passes(self, *packets: bytes, marker: bytes) -> bool:
        """Whether B hears the marker, when A sends the packets and then one that is let through."""
        a, b = self.ports
        # The kernel there answers with an error that quotes it: each has a number of its own.
        self.sent += 1
        mark = b"this is the last of %d;" % self.sent
        await self.wires[0].send(
            *map(self.frame, packets), self.frame(frames.udp6((address(a), address(b)), (9, 9), mark))
        )
        heard = await self.wires[1].until(mark)
        found = any(marker in frame for frame in heard)
        heard.clear()
        return found


@pytest.fixture
async def pair(hosts) -> AsyncIterator[Pair]:
    """Two guests with IPv6."""
    ports = [make_port(11), make_port(12)]
    desired = []
    for number, host in enumerate(hosts):
        other = hosts[1 - number]
        network = NetworkDesired(
            VNI,
            MTU,
            host.address,
            peers=frozenset({host.address, other.address}),
            neighbours=frozenset({(ports[1 - number].mac, other.address)}),
            ports=(ports[number],),
        )
        await host.datapath.ensure_network(network)
        desired.append(network)
    guests = [await host.boot(port, VNI) for host, port in zip(hosts, ports, strict=True)]
    for guest in guests:
        for given in guest.port.addresses:
            await guest.configure(given)
        await guest.settled()
    wires = [frames.Wire.open(lambda make, guest=guest: within(guest.namespace, make)) for guest in guests]
    yield Pair(hosts, desired, guests, wires, ports)
    for wire in wires:
        wire.close()


async def test_guests_reach_each_other(pair):
    """Packets of IPv6 pass up to the network's MTU, and larger ones in fragments; link-local addresses too."""
    (a, b), (first, second) = pair.guests, pair.ports
    assert await a.reaches(address(second))
    assert await b.reaches(address(first), "-s", str(MTU - 48))
    assert await a.reaches(address(second), "-s", "4000")
    assert await a.reaches(link_local(second.mac), "-I", "eth0")
    assert await a.reaches(second.addresses[0])


async def test_applying_again_changes_nothing(pair):
    """A second apply finds nothing to do, also by a datapath that was started anew; removing leaves nothing."""
    for host, desired in zip(pair.hosts, pair.desired, strict=True):
        assert await host.datapath.ensure_network(desired) == []
        await host.datapath.close()
        await host.datapath.start()
        assert await host.datapath.ensure_network(desired) == []
        await host.datapath.remove_network(VNI)
        left = (await host.datapath.observe()).firewall
        assert (left.elements, left.chains, left.zones) == (frozenset(), frozenset(), frozenset())


async def test_a_spoofed_source_is_dropped(pair):
    """A guest sends from the addresses of its port alone, be it in a datagram, an echo or a fragment."""
    a, b = pair.ports
    stolen, echo = (STOLEN, address(b)), struct.pack("!HH", 1, 1) + b"the stolen one"
    assert not await pair.passes(frames.udp6(stolen, (9, 9), b"the stolen one"), marker=b"the stolen one")
    assert not await pair.passes(frames.icmpv6(stolen, 128, echo), marker=b"the stolen one")
    message = frames.icmpv6_message(stolen, 128, echo + bytes(40))
    assert not await pair.passes(*frames.fragments6(stolen, message, 58, 24), marker=b"the stolen one")
    other = (link_local("02:00:00:00:00:77"), link_local(b.mac))
    assert not await pair.passes(frames.udp6(other, (9, 9), b"the stolen one"), marker=b"the stolen one")
    own = (link_local(a.mac), link_local(b.mac))
    assert await pair.passes(frames.udp6(own, (9, 9), b"the honest one"), marker=b"the honest one")


def advertisement(pair: Pair, target: IPv6Address, mac: str, **ends: IPv6Address) -> bytes:
    """What A says of an address: that it is at the MAC."""
    a, b = pair.ports
    body = struct.pack("!I", 0x20000000) + target.packed + b"\x02\x01" + frames.mac_bytes(mac)
    return frames.icmpv6((ends.get("source", address(a)), address(b)), ADVERTISE, body)


async def test_a_neighbour_that_it_is_not_is_dropped(pair):
    """A guest says of its own addresses alone where they are, and that they are at its own MAC."""
    a, b = pair.ports
    other = "02:00:00:00:00:77"
    assert await pair.passes(advertisement(pair, address(a), a.mac), marker=address(a).packed + b"\x02\x01")
    assert not await pair.passes(advertisement(pair, STOLEN, a.mac), marker=STOLEN.packed)
    assert not await pair.passes(advertisement(pair, address(b), a.mac), marker=address(b).packed + b"\x02\x01")
    assert not await pair.passes(advertisement(pair, address(a), other), marker=frames.mac_bytes(other))
    assert not await pair.passes(advertisement(pair, STOLEN, a.mac, source=STOLEN), marker=STOLEN.packed)
    neighbours = await pair.guests[1].run("ip", "-6", "neighbour", "show")
    assert str(STOLEN) not in neighbours
    assert other not in neighbours


async def test_a_solicitation_says_who_asks(pair):
    """A question for a neighbour says its own MAC; a probe (from ::) is for an address of the port."""
    a, b = pair.ports

    def ask(target: IPv6Address, source: IPv6Address, mac: str = "") -> bytes:
        option = b"\x01\x01" + frames.mac_bytes(mac) if mac else b""
        return frames.icmpv6((source, address(b)), SOLICIT, bytes(4) + target.packed + option)

    mark = b"\x00" * 4 + address(b).packed + b"\x01\x01"
    assert await pair.passes(ask(address(b), address(a), a.mac), marker=mark)
    assert not await pair.passes(ask(address(b), address(a), "02:00:00:00:00:77"), marker=mark)
    assert not await pair.passes(ask(address(b), STOLEN, a.mac), marker=mark)
    assert await pair.passes(ask(address(a), ANY), marker=b"\x00" * 4 + address(a).packed)
    assert not await pair.passes(ask(address(b), ANY), marker=b"\x00" * 4 + address(b).packed)


async def test_what_routers_say_is_dropped(pair):
    """No guest advertises a router or redirects, whatever headers are before it and however it is cut in pieces."""
    a, _ = pair.ports
    ends, evil = (link_local(a.mac), ALL_NODES), IPv6Network("fd00:666::/64")
    prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 86400, 86400, 0) + evil.network_address.packed
    body = struct.pack("!BBHII", 64, 0, 1800, 0, 0) + prefix
    mark, options = evil.network_address.packed[:6], struct.pack("!BB", 58, 0) + b"\x01\x04" + bytes(4)
    message = frames.icmpv6_message(ends, ROUTER, body)
    attempts = [
        (frames.icmpv6(ends, ROUTER, body),),
        (frames.icmpv6(ends, ROUTER, body, options),),
        frames.fragments6(ends, message, 58, 16),
        frames.fragments6(ends, options + message, 60, 8),
        (frames.icmpv6(ends, REDIRECT, bytes(4) + evil.network_address.packed * 2),),
    ]
    for packets in attempts:
        assert not await pair.passes(*packets, marker=mark)
    assert "fd00:666" not in await pair.guests[1].run("ip", "-6", "address", "show")
    solicit = frames.icmpv6(
        (link_local(a.mac), ALL_ROUTERS), ROUTER_SOLICIT, bytes(4) + b"\x01\x01" + frames.mac_bytes(a.mac)
    )
    assert await pair.passes(solicit, marker=ALL_ROUTERS.packed)


async def test_a_guest_is_no_dhcp_server(pair):
    """Nothing reaches the port of DHCPv6 clients from a guest; no question leaves a host whose network serves IPv6."""
    a, b = pair.ports
    ends = (link_local(a.mac), link_local(b.mac))
    for ports in ((547, 546), (9, 546)):
        assert not await pair.passes(frames.udp6(ends, ports, b"an offer of mine"), marker=b"an offer of mine")
    message = frames.udp6(ends, (547, 546), b"an offer of mine")[40:]
    assert not await pair.passes(*frames.fragments6(ends, message, 17, 8), marker=b"an offer of mine")
    asked = frames.udp6((link_local(a.mac), IPv6Address("ff02::1:2")), (546, 547), b"who is there")
    # Where the network tells nobody of addresses, a guest without port security may.
    assert await pair.passes(asked, marker=b"who is there")
    served = (SubnetDesired(SUBNET, IPv6Address("fd00:1::2"), mode="DHCPv6Stateful"),)
    for host, desired in zip(pair.hosts, pair.desired, strict=True):
        await host.datapath.ensure_network(replace(desired, subnets=served))
    assert not await pair.passes(asked, marker=b"who is there")


async def test_duplicates_are_found_and_groups_joined(pair):
    """A guest's kernel finds nobody who has its address, and multicast of the link passes."""
    a, b = pair.guests
    for guest in (a, b):
        await guest.run("ip", "address", "flush", "dev", "eth0", "scope", "global")
        await guest.run("ip", "address", "add", f"{address(guest.port)}/64", "dev", "eth0")
        await guest.settled()
    states = [await guest.run("ip", "-6", "address", "show", "dev", "eth0") for guest in (a, b)]
    assert not any("dadfailed" in state for state in states)
    assert await a.reaches(address(b.port))


async def test_a_port_without_ipv6_sends_none(pair):
    """IPv6 of a port that has no IPv6 address is dropped, its link-local address included."""
    host, (a, b) = pair.hosts[0], pair.ports
    await host.datapath.ensure_network(replace(pair.desired[0], ports=(replace(a, addresses=a.addresses[:1]),)))
    assert not await pair.guests[0].reaches(address(b))
    assert not await pair.guests[0].reaches(link_local(b.mac), "-I", "eth0")
    assert await pair.guests[0].reaches(b.addresses[0])


async def test_tenants_with_equal_addresses_do_not_meet(pair):
    """Fragments of two networks with the same addresses are put together each in its own network."""
    ports = [replace(port, tap=port.tap[:-3] + "f" + port.tap[-2:]) for port in pair.ports]
    guests = []
    for number, host in enumerate(pair.hosts):
        await host.datapath.ensure_network(replace(pair.desired[number], vni=VNI + 1, ports=(ports[number],)))
        guests.append(await host.boot(ports[number], VNI + 1))
        await guests[-1].configure(address(ports[number]))
    for one, other in (pair.guests, guests):
        assert await one.reaches(address(other.port), "-s", "4000")
