"""IPv6 on a provider network: what comes in from the physical network, and what only a router there may say."""

from __future__ import annotations

import struct
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from kumulus_agent.network.command import run
from kumulus_agent.network.namespace import entering, within
from kumulus_agent.network.state import NetworkDesired, PortDesired, SubnetDesired, Uplink
from kumulus_api.addresses import eui64, link_local
from kumulus_lab.testing import frames

VNI = 0x78
PREFIX = IPv6Network("fd00:7::/64")
ROUTER = IPv6Address("fd00:7::1")
V4 = SubnetDesired(IPv4Network("10.0.0.0/24"), IPv4Address("10.0.0.254"))
SLAAC = SubnetDesired(PREFIX, PREFIX[-1], mode="SLAAC")
MAC = "02:00:00:00:00:21"
PORT = PortDesired("kt78000000021", MAC, (IPv4Address("10.0.0.33"), eui64(PREFIX, MAC)), "i", "web")


def make_network(host, *subnets: SubnetDesired) -> NetworkDesired:
    """The provider network on the host's interface `phys`."""
    return NetworkDesired(VNI, 1500, host.address, ports=(PORT,), subnets=subnets, provider=True, uplink=Uplink("phys"))


def advertisement(mac: str) -> bytes:
    """What a router outside says: that it is one."""
    source = IPv6Address("fe80::1")
    body = struct.pack("!BBHII", 64, 0, 1800, 0, 0) + b"\x01\x01" + frames.mac_bytes(mac)
    packet = frames.icmpv6((source, IPv6Address("ff02::1")), 134, body)
    return frames.ethernet("33:33:00:00:00:01", mac, frames.IPV6, packet)


async def test_ipv6_comes_in_where_a_subnet_has_it(hosts, outside):
    """A machine outside is reached by IPv6 if the network has an IPv6 subnet, and hears nothing of it else."""
    host = hosts[0]
    await outside.run("ip", "address", "add", f"{ROUTER}/64", "dev", "switch", "nodad")
    await host.datapath.ensure_network(make_network(host, V4, SLAAC))
    guest = await host.boot(PORT, VNI)
    for address in PORT.addresses:
        await guest.configure(address)
    await guest.settled()
    assert await guest.reaches(ROUTER)
    assert await outside.reaches(PORT.addresses[1])
    await host.datapath.ensure_network(make_network(host, V4))
    assert not await guest.reaches(ROUTER)
    assert await guest.reaches(IPv4Address("10.0.0.1"))


async def test_a_router_outside_is_heard_where_the_subnet_has_a_gateway(hosts, outside):
    """Its advertisement makes a default route if the subnet has a gateway or is not told by us; else it is dropped."""
    host, mac = hosts[0], "02:00:00:00:07:01"
    wire = frames.Wire.open(lambda make: within(outside.namespace, make), "switch")
    await host.datapath.ensure_network(make_network(host, V4, SLAAC))
    guest = await host.boot(PORT, VNI)
    await guest.settled()
    heard = frames.Wire.open(lambda make: within(guest.namespace, make))
    last = frames.ethernet(MAC, mac, frames.IPV4, frames.ipv4(IPv4Address("10.0.0.1"), PORT.addresses[0], b"the last"))
    try:
        for subnet, passes in (
            (SLAAC, False),
            (replace(SLAAC, gateway=ROUTER), True),
            (replace(SLAAC, served=False, mode=None), True),
            (SLAAC, False),
        ):
            await host.datapath.ensure_network(make_network(host, V4, subnet))
            heard.has(b"")
            heard.heard.clear()
            await wire.send(advertisement(mac), last)
            await heard.until(b"the last")
            assert heard.has(frames.mac_bytes(mac) + b"\x86\xdd") is passes, subnet
    finally:
        wire.close()
        heard.close()


async def test_each_family_is_asked_for_where_it_is_told(hosts, outside):
    """Where IPv4 is told by the physical network and IPv6 by us, or the other way round, each question goes there."""
    host = hosts[0]
    stateful, unserved = replace(SLAAC, mode="DHCPv6Stateful"), replace(SLAAC, served=False, mode=None)
    heard = frames.Wire.open(lambda make: within(outside.namespace, make), "switch")
    await host.datapath.ensure_network(make_network(host, V4, stateful))
    guest = await host.boot(PORT, VNI)
    await guest.settled()
    wire = frames.Wire.open(lambda make: within(guest.namespace, make))
    own, servers = link_local(MAC), IPv6Address("ff02::1:2")
    asked4 = frames.ipv4(IPv4Address(0), IPv4Address("255.255.255.255"), frames.udp(68, 67, b"a question of IPv4"))
    asked6 = frames.udp6((own, servers), (546, 547), b"a question of IPv6")
    last = frames.ipv4(PORT.addresses[0], IPv4Address("10.0.0.255"), frames.udp(9, 9, b"the last"))
    told = ((frames.IPV4, asked4), (frames.IPV6, asked6), (frames.IPV4, last))
    sent = [frames.ethernet(frames.BROADCAST, MAC, kind, packet) for kind, packet in told]
    try:
        for subnets, leaving in (
            ((V4, stateful), (False, False)),
            ((replace(V4, served=False), stateful), (True, False)),
            ((V4, unserved), (False, True)),
        ):
            await host.datapath.ensure_network(make_network(host, *subnets))
            heard.has(b"")
            heard.heard.clear()
            await wire.send(*sent)
            await heard.until(b"the last")
            assert (heard.has(b"a question of IPv4"), heard.has(b"a question of IPv6")) == leaving
    finally:
        wire.close()
        heard.close()


async def test_the_tables_of_an_earlier_version_are_replaced(hosts):
    """What an earlier version kept in a table of IPv4 alone goes with it, and no port loses its rules."""
    datapath, name = hosts[0].datapath, hosts[0].namespace
    network = replace(make_network(hosts[0], V4, SLAAC), provider=False, uplink=None)
    await datapath.ensure_network(network)
    before = (await datapath.observe()).firewall
    await run((*entering(name), "nft", f"delete chain bridge kumulus version-{before.base}; add table ip kumulus"))
    await datapath.close()
    await datapath.start()
    assert (await datapath.observe()).firewall == before
    assert "table ip kumulus" not in (await run((*entering(name), "nft", "list", "tables"))).decode()
