"""What ports may use besides their own, of IPv6 and towards the network's own servers, on a real kernel."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest

from kumulus_agent.network import limits
from kumulus_agent.network.command import run
from kumulus_agent.network.groups import GroupRule, SecurityGroup
from kumulus_agent.network.namespace import entering, within
from kumulus_agent.network.state import AddressPair, NetworkDesired, PortDesired, SubnetDesired
from kumulus_api.addresses import eui64, link_local
from kumulus_lab.testing.frames import (
    ARP,
    BROADCAST,
    IPV4,
    IPV6,
    Wire,
    arp,
    ethernet,
    icmpv6,
    ipv4,
    mac_bytes,
    udp,
    udp6,
    vlan,
)

VNI = 0x6D
PREFIX = IPv6Network("fd00:1::/64")
V4 = SubnetDesired(IPv4Network("10.0.0.0/24"), IPv4Address("10.0.0.2"))
V6 = SubnetDesired(PREFIX, IPv6Address("fd00:1::2"), mode="DHCPv6Stateful")
SOLICIT, ADVERTISE, ROUTER = 135, 136, 134
EVERYBODY, ALL_NODES, ANY = "33:33:00:00:00:01", IPv6Address("ff02::1"), IPv6Address("::")
VRRP6 = "00:00:5e:00:02:32"
VIP, VIP6 = IPv4Address("10.0.0.50"), IPv6Address("fd00:1::50")
STOLEN_MAC, STOLEN = "02:00:00:00:00:99", IPv6Address("fd00:1::99")


def make_port(number: int, **overrides) -> PortDesired:
    """A port with an address of each family."""
    mac = f"02:00:00:00:00:{number:02x}"
    addresses = (IPv4Address(f"10.0.0.{number}"), eui64(PREFIX, mac))
    return replace(PortDesired(f"kt6d{number:09x}", mac, addresses, f"i{number}"), **overrides)


def pairs(*items: tuple[str, str] | str) -> frozenset[AddressPair]:
    """Pairs of addresses, and MACs where they have one."""
    found = (item if isinstance(item, tuple) else (item, "") for item in items)
    return frozenset(AddressPair(IPv6Network(text) if ":" in text else IPv4Network(text), mac) for text, mac in found)


@dataclass
class Site:
    """A (11) and C (13) on the first host, B (12) on the second, with a wire each."""

    hosts: tuple
    ports: dict[int, PortDesired]
    subnets: tuple[SubnetDesired, ...] = ()
    groups: dict | None = None
    sent: int = 0

    def __post_init__(self) -> None:
        self.guests: dict = {}
        self.wires: dict[int, Wire] = {}

    async def change(self, number: int = 0, **changes) -> list:
        """Give a port other settings; return the steps that this took."""
        if number:
            self.ports[number] = replace(self.ports[number], **changes)
        done = []
        peers = frozenset(host.address for host in self.hosts)
        for host, own in zip(self.hosts, ((11, 13), (12,)), strict=True):
            ports = tuple(self.ports[item] for item in own)
            network = NetworkDesired(VNI, 1450, host.address, peers, ports=ports, groups=self.groups or {})
            done += await host.datapath.ensure_network(replace(network, subnets=self.subnets))
        return done

    def mac(self, number: int) -> str:
        """Give a port's MAC."""
        return self.ports[number].mac

    def ends(self, source: int, target: int) -> tuple[IPv6Address, IPv6Address]:
        """Give two ports' addresses of IPv6."""
        return self.ports[source].addresses[1], self.ports[target].addresses[1]

    async def heard(self, sender: int, frames: dict[str, bytes], *listeners: Wire) -> list[set[str]]:
        """Send frames, each with a payload of its own, and then one that all hear; give who heard which."""
        self.sent += 1
        last = b"the last of %d;" % self.sent
        own, mac = self.ports[sender].addresses[1], self.mac(sender)
        end = ethernet(EVERYBODY, mac, IPV6, udp6((own, ALL_NODES), (9, 9), last))
        await self.wires[sender].send(*frames.values(), end)
        found = []
        for wire in listeners:
            frames_heard = await wire.until(last)
            found.append({name for name, sent in frames.items() if any(sent[14:] in frame for frame in frames_heard)})
            frames_heard.clear()
        return found


@pytest.fixture
async def site(hosts) -> AsyncIterator[Site]:
    """Three guests that say nothing by themselves."""
    async with AsyncExitStack() as stack:
        made = Site(hosts, {number: make_port(number) for number in (11, 12, 13)})
        await made.change()
        for number, host in ((11, hosts[0]), (13, hosts[0]), (12, hosts[1])):
            made.guests[number] = guest = await host.boot(made.ports[number], VNI)
            await guest.run("sysctl", "-q", "-w", "net.ipv6.conf.all.disable_ipv6=1")
            made.wires[number] = wire = Wire.open(partial(within, guest.namespace))
            stack.callback(wire.close)
        yield made


def told(site: Site, source: IPv6Address, mac: str, what: str) -> bytes:
    """A datagram of A to all."""
    return ethernet(EVERYBODY, mac, IPV6, udp6((source, ALL_NODES), (9, 9), what.encode()))


def advertised(source: IPv6Address, target: IPv6Address, macs: tuple[str, str]) -> bytes:
    """That an address is at a MAC (the second), sent from another."""
    body = struct.pack("!I", 0x20000000) + target.packed + b"\x02\x01" + mac_bytes(macs[1])
    return ethernet(EVERYBODY, macs[0], IPV6, icmpv6((source, ALL_NODES), ADVERTISE, body))


def probed(target: IPv6Address, mac: str) -> bytes:
    """A probe whether an address is free."""
    body = bytes(4) + target.packed
    return ethernet(EVERYBODY, mac, IPV6, icmpv6((ANY, ALL_NODES), SOLICIT, body))


async def test_a_pair_of_ipv6_is_the_port_s_to_use(site):
    """A port sends, probes and answers as the addresses and MACs of its pairs up to their ends, and others do not."""
    shared = pairs("fd09::/64", (f"{VIP6}/128", VRRP6))
    inside = (IPv6Address("fd09::"), IPv6Address("fd09::ffff:ffff:ffff:ffff"), VIP6, link_local(VRRP6))
    outside = (IPv6Address("fd08:ffff::"), IPv6Address("fd09:0:0:1::"), STOLEN, link_local(STOLEN_MAC))
    await site.change(11, pairs=shared)
    assert await site.change() == []
    for sender, passes in ((11, True), (13, False)):
        mac, own = site.mac(sender), site.ports[sender].addresses[1]
        frames, wanted = {}, set()
        for text, addresses in (("in", inside), ("out", outside)):
            for number, address in enumerate(addresses):
                made = {
                    f"datagram {text} {number};": told(site, address, mac, f"datagram {text} {number};"),
                    f"probe {text} {number};": probed(address, mac),
                    f"word {text} {number};": advertised(own, address, (mac, mac)),
                    f"answer {text} {number};": advertised(address, address, (VRRP6, VRRP6)),
                }
                frames |= made
                wanted |= set(made) if passes and text == "in" else set()
        frames["foreign MAC;"] = told(site, VIP6, STOLEN_MAC, "foreign MAC;")
        frames["foreign link address;"] = advertised(VIP6, VIP6, (mac, STOLEN_MAC))
        assert await site.heard(sender, frames, site.wires[12]) == [wanted]
    for changed in (pairs("::/0"), pairs("fd00:1::/64", "10.0.0.0/8"), frozenset()):
        await site.change(11, pairs=changed)
        assert await site.change() == []
    frames = {"datagram;": told(site, VIP6, site.mac(11), "datagram;"), "probe;": probed(VIP6, site.mac(11))}
    assert await site.heard(11, frames, site.wires[12]) == [set()]


async def test_without_port_security_ipv6_passes_as_it_is(site):
    """Without port security a port speaks as any host and router of IPv6, on all hosts; but never with a tag."""
    mac, own = site.mac(11), site.ports[11].addresses[1]
    router = icmpv6((link_local(mac), ALL_NODES), ROUTER, struct.pack("!BBHII", 64, 0, 1800, 0, 0))
    frames = {
        "source;": told(site, STOLEN, mac, "source;"),
        "MAC;": told(site, own, STOLEN_MAC, "MAC;"),
        "answer;": advertised(STOLEN, STOLEN, (mac, STOLEN_MAC)),
        "router;": ethernet(EVERYBODY, mac, IPV6, router),
        "DHCPv6;": ethernet(EVERYBODY, mac, IPV6, udp6((link_local(mac), ALL_NODES), (547, 546), b"DHCPv6;")),
    }
    tagged = {"tag;": ethernet(EVERYBODY, mac, 0x8100, vlan(IPV6, udp6((own, ALL_NODES), (9, 9), b"tag;")))}
    assert await site.heard(11, frames | tagged, site.wires[12]) == [set()]
    await site.change(11, secured=False)
    assert await site.heard(11, frames | tagged, site.wires[12], site.wires[13]) == [set(frames)] * 2
    # A network that serves IPv6 has routers of its own, and other hosts hear of no others.
    site.subnets = (V6,)
    await site.change()
    assert await site.heard(11, frames, site.wires[12]) == [set(frames) - {"router;"}]
    site.subnets = ()
    await site.change(11, secured=True)
    assert await site.change() == []
    assert await site.heard(11, frames, site.wires[12]) == [set()]


async def test_the_network_s_servers_hear_a_guest_as_itself_alone(site):
    """What a port may use besides its own is heard by guests, and never by the network's own servers."""
    site.subnets = (V4, V6)
    shared = pairs(f"{VIP}/32", (f"{VIP6}/128", VRRP6), "fd09::/64")
    await site.change()
    service = f"{site.hosts[0].name}-kd{VNI:06x}"
    servers = Wire.open(partial(within, service))
    mac, (own4, own6) = site.mac(11), site.ports[11].addresses

    def datagram(source: IPv4Address, sender: str, what: str) -> bytes:
        everyone = IPv4Address("255.255.255.255")
        return ethernet(BROADCAST, sender, IPV4, ipv4(source, everyone, udp(4000, 4000, what.encode())))

    own = {
        "own IPv4;": datagram(own4, mac, "own IPv4;"),
        "own IPv6;": told(site, own6, mac, "own IPv6;"),
        "own link-local;": told(site, link_local(mac), mac, "own link-local;"),
        "own ARP;": ethernet(BROADCAST, mac, ARP, arp(mac, own4, V4.service_address)) + b"own ARP;",
        "own answer;": advertised(own6, own6, (mac, mac)),
        "own probe;": probed(own6, mac),
    }
    others = {
        "other IPv4;": datagram(VIP, mac, "other IPv4;"),
        "other IPv6;": told(site, VIP6, mac, "other IPv6;"),
        "other MAC;": told(site, own6, VRRP6, "other MAC;"),
        "other ARP;": ethernet(BROADCAST, mac, ARP, arp(mac, VIP, V4.service_address)) + b"other ARP;",
        "other answer;": advertised(own6, VIP6, (mac, mac)),
        "other link address;": advertised(own6, own6, (mac, VRRP6)),
        "other probe;": probed(VIP6, mac),
        "other link-local;": told(site, link_local(VRRP6), VRRP6, "other link-local;"),
    }
    try:
        for changes in ({"pairs": shared}, {"pairs": frozenset(), "secured": False}):
            await site.change(11, **changes)
            assert await site.change() == []
            by_guest, by_servers = await site.heard(11, own | others, site.wires[13], servers)
            assert by_guest == own.keys() | others.keys(), changes
            assert by_servers == own.keys(), changes
    finally:
        servers.close()


async def test_addresses_of_pairs_are_members_of_the_port_s_groups(site):
    """A rule about a remote group lets in its members' pairs of both families, ranges too, and nobody else."""
    member, web = ("red", "member"), ("red", "web")
    rules = frozenset({GroupRule("ingress", remote=member), GroupRule("ingress", remote=member, family=6)})
    ranges = frozenset({IPv4Network("10.9.0.0/16"), IPv6Network("fd09::/64")})
    await site.change(11, pairs=pairs("10.9.0.0/16", "fd09::/64", f"{VIP6}/128"))
    site.groups = {
        web: SecurityGroup(rules),
        member: SecurityGroup(members=frozenset({site.ports[11].addresses[1], VIP6}), ranges=ranges),
    }
    await site.change(12, groups=frozenset({web}))
    assert await site.change() == []
    mac, target = site.mac(11), site.ports[12].addresses

    def packet(source: str, what: str) -> bytes:
        if ":" in source:
            data = udp6((IPv6Address(source), target[1]), (9, 9), what.encode())
            return ethernet(site.mac(12), mac, IPV6, data)
        return ethernet(site.mac(12), mac, IPV4, ipv4(IPv4Address(source), target[0], udp(9, 9, what.encode())))

    frames = {f"{text};": packet(text, f"{text};") for text in ("10.9.1.1", "fd09::5", str(VIP6), "10.0.0.11")}
    assert await site.heard(11, frames, site.wires[12]) == [set(frames) - {"10.0.0.11;"}]


@pytest.fixture
def few_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a port have so few connections that a test can see it."""
    monkeypatch.setattr(limits, "CONNECTIONS", 300)


async def test_a_flood_of_ipv6_is_bounded(few_connections, site):
    """What a port begins of IPv6 counts as what it begins of IPv4; what is too much is dropped and counted."""
    host, (source, target) = site.hosts[0], site.ends(11, 12)
    for number in range(5000):
        data = udp6((source, target), (1024, 1024 + number), b"x")
        await site.wires[11].send(ethernet(site.mac(12), site.mac(11), IPV6, data))
        if number % 256 == 0:
            await asyncio.sleep(0)
    listed = await run((*entering(host.namespace), "conntrack", "--dump", "--family", "ipv6"))
    assert 200 <= len(listed.splitlines()) <= 310
    assert (await host.datapath.dropped())[site.ports[11].tap].excess > 4000
