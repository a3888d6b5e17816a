"""Routers on a real kernel: hosts, guests and the outside are namespaces; agents read what an operator would write."""

from __future__ import annotations

import json
import re
import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address

from kumulus_agent.network.command import run
from kumulus_agent.network.groups import GroupRule, SecurityGroup
from kumulus_agent.network.namespace import within
from kumulus_agent.routers.announce import frames as frames_of_gratuitous_arp
from kumulus_lab.testing.questions import answered
from kumulus_lab.testing.routed import OUTSIDE, captured, eventually, gateway_mac
from kumulus_lab.testing.speakers import Speaker

RED1, RED2 = "red1", "red2"
ARP, IPV4, IPV6 = b"\x08\x06", b"\x08\x00", b"\x86\xdd"


async def test_what_is_routed_passes_the_rules_of_both_ports(cloud):
    """Trap: a packet between two networks of one host, or of two, is judged as it leaves and as it arrives."""
    a = await cloud.boot("a", "a", RED1, "10.0.1.11")
    near = await cloud.boot("near", "a", RED2, "10.0.2.12")
    far = await cloud.boot("far", "b", RED2, "10.0.2.13")
    cloud.router("r", RED1, RED2)
    await cloud.settled()
    assert await a.reaches(near.address)
    assert await a.reaches(far.address)
    assert await far.reaches(a.address)
    every = GroupRule("egress")
    only_red2 = GroupRule("ingress", remote=IPv4Network("10.0.2.0/24"))
    closed, opened = ("red", "closed"), ("red", "open")
    for node in cloud.nodes:
        node.datapath.groups = {
            closed: SecurityGroup(frozenset({every, only_red2})),
            opened: SecurityGroup(frozenset({every, GroupRule("ingress")})),
        }
        node.datapath.of_port = {
            a.port.tap: frozenset({opened}),
            near.port.tap: frozenset({closed}),
            far.port.tap: frozenset({closed}),
        }
        for carried in node.networks._carried.values():
            carried.altered = True
            node.networks.queue.add(carried.key.vni)
    await cloud.settled()
    assert not await a.reaches(near.address)
    assert not await a.reaches(far.address)
    assert await near.reaches(a.address)
    assert await far.reaches(a.address)
    mute = SecurityGroup(frozenset({GroupRule("ingress")}))
    for node in cloud.nodes:
        node.datapath.groups = dict.fromkeys((closed, opened), mute)
        for carried in node.networks._carried.values():
            carried.altered = True
            node.networks.queue.add(carried.key.vni)
    await cloud.settled()
    assert not await a.reaches(near.address)
    assert not await far.reaches(a.address)


async def test_gateways_are_not_heard_by_other_hosts(cloud):
    """Trap: of a gateway, whose MAC is the same on all hosts, no frame and no ARP reaches another one."""
    a = await cloud.boot("a", "a", RED1, "10.0.1.11")
    far = await cloud.boot("far", "b", RED2, "10.0.2.13")
    beside = await cloud.boot("beside", "b", RED1, "10.0.1.14")
    cloud.router("r", RED1, RED2)
    await cloud.settled()
    macs = [bytes.fromhex(f"0e7200000{n:03x}") for n in (1, 2)]
    dp = [node.host.namespace for node in cloud.nodes]
    with captured(dp[1], "kx000101") as red1, captured(dp[1], "kx000102") as red2:
        assert await a.reaches(far.address)
        assert await far.reaches(a.address)
        assert await beside.reaches(far.address)
        assert not await a.reaches(IPv4Address("10.0.2.99"))
        tunnel = [*red1(0.2), *red2(0.2)]
    assert tunnel
    for mac in macs:
        assert not [frame for frame in tunnel if mac in frame[:12]]
        assert not [frame for frame in tunnel if frame[12:14] == ARP and mac in frame]
    for name in dp:
        fdb = await cloud.outside.run("ip", "netns", "exec", name, "bridge", "fdb", "show")
        for mac in ("0e:72:00:00:00:01", "0e:72:00:00:00:02"):
            lines = [line for line in fdb.splitlines() if mac in line]
            assert lines
            assert all(" dev kr" in line and "sticky" in line for line in lines), lines


async def test_routing_keeps_full_packets_and_is_seen_by_no_other_guest(cloud):
    """A packet of the network's MTU passes routed between hosts, and no other guest of either network sees it."""
    a = await cloud.boot("a", "a", RED1, "10.0.1.11")
    far = await cloud.boot("far", "b", RED2, "10.0.2.13")
    other = await cloud.boot("other", "a", RED2, "10.0.2.15")
    cloud.router("r", RED1, RED2)
    await cloud.settled()
    with captured(other.namespace, "eth0") as frames:
        assert await a.reaches(far.address, "-s", "1422")
        assert not [frame for frame in frames(0.1) if frame[12:14] == IPV4 and far.address.packed in frame]


async def test_applying_again_changes_nothing_and_removing_leaves_nothing(cloud):
    """A second agent finds nothing to do; when the last guest is gone, links, namespaces and rules are as before."""
    node = cloud.node("a")
    before = await node.shown()
    a = await cloud.boot("a", "a", RED1, "10.0.1.11")
    router_id = cloud.router("r", RED1, RED2, gateway="a")
    await cloud.boot("far", "b", RED2, "10.0.2.13")
    cloud.floating("f", "203.0.113.10", router_id, "a", fixed="10.0.1.11")
    await cloud.settled()
    assert await a.reaches(OUTSIDE)
    made = await node.shown()
    await node.stop()
    node.start({"a": a.port})
    await node.networks.ensure([a.port.network])
    await cloud.settled()
    await node.routers.sweep()
    await node.networks.sweep()
    assert await node.shown() == made
    cloud.api.delete("FloatingIP", "f")
    cloud.api.delete("Router", "r")
    await cloud.settled()
    await cloud.halt("a")
    await cloud.settled()
    after = await node.shown()
    assert {name: kept["links"] for name, kept in after.items()} == {
        name: kept["links"] for name, kept in before.items()
    }
    assert after == before or without_handles(after) == without_handles(before)


def without_handles(shown):
    return {
        name: {**kept, "nft": [line.partition(" # handle")[0] for line in kept["nft"].splitlines()]}
        for name, kept in shown.items()
    }


async def test_equal_addresses_of_two_routers_never_meet(cloud):
    """Two projects with the same range on one host each reach their own servers, and leave under their own address."""
    cloud.network("blue1", 0x201, "10.0.1.0/24")
    cloud.network("blue2", 0x202, "10.0.2.0/24")
    guests = {
        name: await cloud.boot(f"{name}-{host}", host, name, f"10.0.{name[-1]}.{number}")
        for name, host, number in ((RED1, "a", 11), ("blue1", "a", 11), (RED2, "a", 12), ("blue2", "b", 12))
    }
    cloud.router("r", RED1, RED2, gateway="a")
    cloud.router("blue", "blue1", "blue2", gateway="b", address="203.0.113.3")
    await cloud.settled()
    assert await cloud.sources_outside(guests[RED1]) == {IPv4Address("203.0.113.2").packed}
    assert await cloud.sources_outside(guests["blue1"]) == {IPv4Address("203.0.113.3").packed}
    with captured(guests["blue2"].namespace, "eth0") as blue:
        assert await guests[RED1].reaches(IPv4Address("10.0.2.12"))
        assert not [frame for frame in blue(0.1) if frame[12:14] == IPV4]
    assert await guests["blue1"].reaches(IPv4Address("10.0.2.12"))


async def test_static_routes_lead_to_servers_and_other_routers(cloud):
    """A range behind a server, and the networks of another router, are reached from every host."""
    cloud.network("red3", 0x103, "10.0.3.0/24")
    a = await cloud.boot("a", "a", RED1, "10.0.1.11")
    hop = await cloud.boot("hop", "b", RED2, "10.0.2.12")
    third = await cloud.boot("third", "b", "red3", "10.0.3.13")
    cloud.router("r", RED1, RED2, routes=(("10.0.3.0/24", "10.0.2.9"), ("192.168.7.0/24", "10.0.2.12")))
    cloud.router("s", RED2, "red3", hosts=(9, 1), routes=(("10.0.1.0/24", "10.0.2.1"),))
    await cloud.settled()
    assert await a.reaches(third.address)
    assert await third.reaches(a.address)
    with captured(hop.namespace, "eth0") as frames:
        await a.reaches(IPv4Address("192.168.7.7"))
        assert [frame for frame in frames(0.1) if IPv4Address("192.168.7.7").packed in frame]


async def test_a_router_that_changes_leaves_the_rest_alone(cloud):
    """An interface that is taken away is gone with its routes, and one that comes works; others are not interrupted."""
    cloud.network("red3", 0x103, "10.0.3.0/24")
    a = await cloud.boot("a", "a", RED1, "10.0.1.11")
    b = await cloud.boot("b", "b", RED2, "10.0.2.12")
    third = await cloud.boot("third", "b", "red3", "10.0.3.13")
    cloud.router("r", RED1, RED2)
    await cloud.settled()
    stream = await a.connect(b, b.address, 80)
    assert not await a.reaches(third.address)
    cloud.router("r", RED1, RED2, "red3")
    await cloud.settled()
    assert await a.reaches(third.address)
    assert await stream.carries()
    cloud.router("r", RED1, RED2)
    await cloud.settled()
    assert not await a.reaches(third.address)
    assert await stream.carries(back=True)
    assert "kb000103" not in str(await cloud.node("a").shown())


async def test_what_others_break_is_put_right_and_what_is_left_over_goes(cloud):
    """Links, addresses, neighbours, routes and rules that somebody removed are there again; a stray router is not."""
    a = await cloud.boot("a", "a", RED1, "10.0.1.11")
    far = await cloud.boot("far", "b", RED2, "10.0.2.13")
    router_id = cloud.router("r", RED1, RED2, gateway="a")
    cloud.floating("f", "203.0.113.10", router_id, "a", fixed="10.0.1.11")
    await cloud.settled()
    node = cloud.node("a")
    (name,) = [name for name in await node.shown() if name.startswith(node.prefix)]
    made = await stable(node)
    inside = Speaker(name)
    (first, *_) = [
        link["ifname"] for link in json.loads(await inside.run("ip", "-json", "link")) if link["ifname"] != "lo"
    ]
    for breaking in (
        ("ip", "link", "delete", first),
        ("ip", "link", "set", first, "down"),
        ("ip", "address", "flush", "scope", "global"),
        ("ip", "neighbour", "flush", "nud", "permanent"),
        ("ip", "route", "flush", "table", "10"),
        ("ip", "rule", "delete", "preference", "34000"),
        ("nft", "flush", "ruleset"),
        ("nsenter", f"--net=/run/netns/{node.host.namespace}", "ip", "link", "set", first, "nomaster"),
    ):
        await inside.run(*breaking)
        node.routers._applied.clear()
        node.routers.queue.add(router_id)
        await cloud.settled()
        assert await stable(node) == made, breaking
    assert await a.reaches(far.address)
    assert await a.reaches(OUTSIDE)
    foreign = f"{node.prefix}{'0' * 11}"
    await run(("ip", "netns", "add", foreign))
    await node.routers.sweep()
    assert foreign not in await node.shown()
    assert await stable(node) == made


async def stable(node):
    """What is in the routers' namespaces, without numbers that the kernel gives, and what is in which bridge."""
    shown = await node.shown()
    bridged = re.findall(r"'ifname': '[^']*'|'master': '[^']*'", str(shown.pop(node.host.namespace)["links"]))
    return re.sub(r"'ifindex': \d+|# handle \d+", "", str(shown)), sorted(bridged)


async def test_a_guest_cannot_be_the_gateway(cloud):
    """Neither the gateway's MAC nor its address can be claimed by a guest, of this host or of another."""
    a = await cloud.boot("a", "a", RED1, "10.0.1.11")
    far = await cloud.boot("far", "b", RED1, "10.0.1.12")
    near = await cloud.boot("near", "a", RED1, "10.0.1.13")
    b = await cloud.boot("b", "b", RED2, "10.0.2.13")
    cloud.router("r", RED1, RED2, gateway="b")
    await cloud.settled()
    for guest in (near, far):
        own, gateway = bytes.fromhex(guest.port.mac.replace(":", "")), bytes.fromhex("0e7200000001")
        claim = frames_of_gratuitous_arp(guest.port.mac, "10.0.1.1")
        stolen = [own_frame.replace(own, gateway) for own_frame in claim]
        plain = [b"\xff" * 6 + gateway + b"\x88\xb5" + b"stolen" * 10]
        with captured(a.namespace, "eth0") as frames:
            send(guest.namespace, [*claim, *stolen, *plain])
            assert not [frame for frame in frames(0.2) if b"stolen" in frame or frame[28:32] == bytes([10, 0, 1, 1])]
    assert await a.reaches(b.address)
    assert await far.reaches(OUTSIDE)


def send(machine, frames):
    """Send frames from a guest as they are."""
    with within(machine, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)) as packets:
        within(machine, lambda: packets.bind(("eth0", 0)))
        for frame in frames:
            packets.send(frame)


async def test_two_subnets_of_one_network_are_routed(cloud):
    """A router with an interface in each of two subnets of one network joins them, on one host and across two."""
    key, _ = cloud.networks[RED1]
    cloud.networks["second"] = (key, "10.0.9.0/24")
    a = await cloud.boot("a", "a", RED1, "10.0.1.11")
    guests = [await cloud.boot(f"o-{host}", host, "second", f"10.0.9.{n}") for host, n in (("a", 12), ("b", 13))]
    cloud.router("r", RED1, "second")
    await cloud.settled()
    for guest in guests:
        assert await a.reaches(guest.address)
        assert await guest.reaches(a.address)


async def test_ipv6_is_routed_between_networks(cloud):
    """Guests learn their route from the router of their own host, and reach others by IPv6, near and far, judged."""
    for name, network, cidr in (("six1", RED1, "fd00:1::/64"), ("six2", RED2, "fd00:2::/64")):
        cloud.networks[name] = (cloud.networks[network][0], cidr)
    a = await cloud.boot("a", "a", RED1, "10.0.1.11", "fd00:1::11")
    near = await cloud.boot("near", "a", RED2, "10.0.2.12", "fd00:2::12")
    far = await cloud.boot("far", "b", RED2, "10.0.2.13", "fd00:2::13")
    beside = await cloud.boot("beside", "b", RED1, "10.0.1.14", "fd00:1::14")
    dp = cloud.node("b").host.namespace
    with captured(dp, "kx000101") as red1, captured(dp, "kx000102") as red2:
        cloud.router("r", RED1, RED2, "six1", "six2")
        await cloud.settled()
        for guest in (a, near, far):
            await eventually(lambda guest=guest: has_route(guest))
        assert await a.reaches(near.address6)
        assert await a.reaches(far.address6)
        assert await far.reaches(a.address6)
        assert await near.reaches(IPv6Address("fd00:1::1"))
        tunnel = [*red1(0.2), *red2(0.2)]
    gateways = [bytes.fromhex(f"0e7200000{n:03x}") for n in (3, 4)]
    assert [frame for frame in tunnel if frame[12:14] == IPV6 and far.address6.packed in frame]
    assert not [frame for frame in tunnel if any(mac in frame for mac in gateways)]
    node = cloud.node("b")
    made = await node.shown()
    await node.stop()
    node.start({"far": far.port, "beside": beside.port})
    await node.networks.ensure([far.port.network, beside.port.network])
    await cloud.settled()
    assert await node.shown() == made
    assert await a.reaches(far.address6)
    cloud.api.delete("Router", "r")
    await cloud.settled()
    assert not [name for name in await node.shown() if name.startswith(node.prefix)]
    assert not await a.reaches(far.address6)


async def has_route(guest) -> bool:
    """Whether the guest has heard of a router."""
    return "default via fe80::" in await guest.run("ip", "-6", "route", "show")


async def test_a_guest_that_asks_is_told_its_router_at_once(cloud):
    """A guest that starts when all has been announced hears of its router when it asks, and other hosts do not."""
    cloud.networks["six1"] = (cloud.networks[RED1][0], "fd00:1::/64")
    await cloud.boot("a", "a", RED1, "10.0.1.11", "fd00:1::11")
    far = await cloud.boot("far", "b", RED1, "10.0.1.12", "fd00:1::12")
    cloud.router("r", RED1, "six1")
    await cloud.settled()
    await eventually(lambda: has_route(far))
    late = await cloud.boot("late", "a", RED1, "10.0.1.13", "fd00:1::13")
    with captured(cloud.node("b").host.namespace, "kx000101") as frames:
        await late.run("ip", "link", "set", "eth0", "down")
        await late.run("ip", "link", "set", "eth0", "up")
        await eventually(lambda: has_route(late), seconds=6)
        assert not [frame for frame in frames(0.1) if frame[12:14] == IPV6 and frame[54:55] == b"\x86"]


async def test_services_of_a_network_answer_its_own_guests_alone(cloud):
    """Its DNS server is asked by guests of the network, and by nobody from behind a router."""
    said = await answered(cloud, RED1, lambda *networks: cloud.router("r", *networks))
    assert said == (True, False)


async def test_an_external_network_may_be_an_overlay(cloud):
    """What leaves, and floating addresses on either host, are reached from servers of an overlay on either host."""
    cloud.external = cloud.network("lake", 0x300, "198.51.100.0/24")
    outsiders = [await cloud.boot(f"out-{host}", host, "lake", f"198.51.100.{n}") for host, n in (("a", 11), ("b", 12))]
    a = await cloud.boot("a", "a", RED1, "10.0.1.11")
    b = await cloud.boot("b", "b", RED1, "10.0.1.12")
    router_id = cloud.router("r", RED1, gateway="b", address="198.51.100.2")
    cloud.told("b", gateway_mac("r"), "198.51.100.2")
    for host, fixed, address in (("a", "10.0.1.11", "198.51.100.21"), ("b", "10.0.1.12", "198.51.100.22")):
        cloud.floating(f"f-{host}", address, router_id, host, fixed=fixed)
        cloud.told(host, f"0e:00:00:00:01:{address[-2:]}", address)
    plain = await cloud.boot("plain", "a", RED1, "10.0.1.13")
    await cloud.settled()
    for outsider in outsiders:
        for address in ("198.51.100.21", "198.51.100.22"):
            assert await outsider.reaches(IPv4Address(address)), (outsider.namespace, address)
        for guest in (a, b, plain):
            assert await guest.reaches(outsider.address), (guest.namespace, outsider.namespace)
