"""A gateway that two hosts share, on a real kernel with real keepalived: who leads out, without API and agents."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest

from kumulus_agent.failover.notices import Role
from kumulus_agent.network.command import run
from kumulus_agent.network.namespace import within
from kumulus_agent.routers import pair
from kumulus_agent.routers.announce import frames as frames_of_gratuitous_arp
from kumulus_lab.testing.routed import OUTSIDE, OUTSIDE6, captured, eventually

RED1, RED2 = "red1", "red2"
OWN, FIP = IPv4Address("203.0.113.2"), IPv4Address("203.0.113.10")
ARP = b"\x08\x06"
LIMIT = 10.0
"""Seconds within which the standby leads out."""


@pytest.fixture
def hosts(three_hosts):
    """The networks are on three hosts."""
    return three_hosts


async def leads(cloud, host) -> bool:
    """Whether a host has the router's address."""
    return str(OWN) in str([kept["addresses"] for kept in (await cloud.node(host).shown()).values()])


async def shared(cloud) -> str:
    """A router of two networks that host a leads out, and b may; c is none of them. Give its id."""
    router_id = cloud.router("r", RED1, RED2, gateway="a/b")
    await cloud.settled()
    await eventually(lambda: leads(cloud, "a"))
    assert not await leads(cloud, "b")
    # A standby that has just started waits, so that a gateway which led out before has time to lead by VRRP.
    await asyncio.sleep(pair.STANDBY_DELAY)
    return router_id


async def cables(cloud, host, state) -> None:
    """Cut a host off from all others, or let it back."""
    for link in ("under", "phys"):
        await run(("ip", "-netns", await where(cloud, host, link), "link", "set", link, state))


async def where(cloud, host, link) -> str:
    """The namespace that a cable of a host is in: a flat network takes its interface."""
    node = cloud.node(host).host
    for namespace in (node.name, node.namespace):
        if link in (await run(("ip", "-netns", namespace, "-brief", "link"))).decode():
            return namespace
    raise AssertionError(f"no {link} on {host}")


@asynccontextmanager
async def without_agents(cloud):
    """Nothing but kernels and host services."""
    held = {node.host.name: {n: g.port for n, g in cloud.guests.items() if g.node is node} for node in cloud.nodes}
    for node in cloud.nodes:
        await node.stop()
    yield
    for node in cloud.nodes:
        node.start(held[node.host.name])
        await node.networks.ensure({port.network for port in held[node.host.name].values()})
    await cloud.settled()


async def reaches_within(guest, target, seconds=LIMIT) -> float:
    """Give after how long a guest reaches an address again."""
    begun = time.monotonic()
    async with asyncio.timeout(seconds):
        while not await guest.reaches(target):
            pass
    return time.monotonic() - begun


async def test_the_standby_leads_out_without_agents_and_api(cloud):
    """When the gateway's host is cut off, guests of all others are led out by the standby, and nobody tells them so.

    Those on the standby, on a third host in the first network, and on a third host that has no port in the first.
    """
    guests = [
        await cloud.boot("near", "b", RED1, "10.0.1.12"),
        await cloud.boot("third", "c", RED2, "10.0.2.13"),
    ]
    web = await cloud.boot("web", "c", RED2, "10.0.2.14")
    router_id = await shared(cloud)
    cloud.floating("f", str(FIP), router_id, "c", fixed="10.0.2.14")
    await cloud.settled()
    untouched = await cloud.outside.connect(web, FIP, 8080)
    for guest in guests:
        assert await guest.reaches(OUTSIDE)
    async with without_agents(cloud):
        await cables(cloud, "a", "down")
        lasted = [await reaches_within(guest, OUTSIDE) for guest in guests]
        assert await untouched.carries()
        assert await untouched.carries(back=True)
        assert await leads(cloud, "b")
        print(f"led out again after {max(lasted):.1f} s")

        # What comes back finds itself taken over: one master, and nobody is interrupted.
        await cables(cloud, "a", "up")
        lost = 0
        async with asyncio.timeout(LIMIT):
            while await leads(cloud, "a"):
                lost += not await guests[1].reaches(OUTSIDE)
        assert not lost
        assert all([await guest.reaches(OUTSIDE) for guest in guests for _ in range(3)])
        assert await leads(cloud, "b")
        assert await untouched.carries()
    assert cloud.node("b").routers.taken_over == (router_id,)
    assert cloud.node("a").routers.taken_over == ()


async def test_the_assignment_follows_without_a_second_interruption(cloud):
    """When the operator makes the standby the gateway's host, and another the standby, who leads out stays."""
    near = await cloud.boot("near", "b", RED1, "10.0.1.12")
    third = await cloud.boot("third", "c", RED2, "10.0.2.13")
    await shared(cloud)
    await cables(cloud, "a", "down")
    await reaches_within(third, OUTSIDE)
    streams = [await guest.connect(cloud.outside, OUTSIDE, port) for guest, port in ((near, 8081), (third, 8082))]
    assert cloud.node("b").routers.taken_over
    for gateway, cloud.priority in (("b/a", 101), ("b/c", 103)):
        with captured(cloud.outside.namespace, "switch") as frames:
            cloud.router("r", RED1, RED2, gateway=gateway)
            await cloud.settled()
            told = {frame[22:28] for frame in frames(1.0) if frame[12:14] == ARP and frame[28:32] == OWN.packed}
        assert len(told) <= 1
        assert await leads(cloud, "b")
        assert not await leads(cloud, gateway[-1]) or gateway[-1] == "a"
        for stream in streams:
            assert await stream.carries()
            assert await stream.carries(back=True)
    assert cloud.node("b").routers.taken_over == ()
    assert await third.reaches(OUTSIDE)


async def test_port_forwardings_come_along(cloud):
    """An address whose ports lead to servers is where the router leads out, and is translated there alone."""
    web = await cloud.boot("web", "c", RED2, "10.0.2.14")
    near = await cloud.boot("near", "b", RED1, "10.0.1.12")
    router_id = await shared(cloud)
    cloud.floating("f", str(FIP), router_id, "a/b", forwardings=(("TCP", 80, "10.0.2.14", 8080),))
    await cloud.settled()

    async def answers(guest) -> bool:
        return await guest.connect(web, FIP, 80, at=8080) is not None

    await eventually(lambda: answers(cloud.outside))
    # The waiting host has the same translation: it leaves it to the other.
    assert await answers(near)
    await cables(cloud, "a", "down")
    await eventually(lambda: answers(cloud.outside), seconds=LIMIT)
    assert await answers(near)
    # The places change: in between each watch shows the address gone.
    stream = await cloud.outside.connect(web, FIP, 80, at=8080)
    cloud.router("r", RED1, RED2, gateway="b/a")
    cloud.floating("f", str(FIP), router_id, "b/a", forwardings=(("TCP", 80, "10.0.2.14", 8080),))
    await cloud.settled()
    assert await stream.carries()
    assert await stream.carries(back=True)


async def test_another_agent_finds_all_as_it_should_be(cloud):
    """Agents that begin anew change nothing on either host, and what others break is put right."""
    await cloud.boot("a", "a", RED1, "10.0.1.11")
    await cloud.boot("b", "b", RED1, "10.0.1.12")
    await shared(cloud)
    made = {host: await cloud.node(host).shown() for host in ("a", "b")}
    async with without_agents(cloud):
        pass
    for node in cloud.nodes:
        await node.routers.sweep()
        await node.networks.sweep()
    assert {host: await cloud.node(host).shown() for host in ("a", "b")} == made
    assert [cloud.node(host).keepalived.role(name) for host, name in names(cloud)] == [Role.MASTER, Role.BACKUP]
    cloud.api.delete("Router", "r")
    await cloud.settled()
    for host in ("a", "b"):
        shown = await cloud.node(host).shown()
        assert not [name for name in shown if name.startswith(cloud.node(host).prefix)]
        assert "kx000000" not in str(shown)
    assert not names(cloud)


def names(cloud):
    """The instances that hosts are members of."""
    return [(node.host.name[-1], name) for node in cloud.nodes for name in node.keepalived.names()]


async def test_a_killed_keepalived_gives_the_gateway_to_the_other_host(cloud):
    """Its host goes on by the other one, and what is started again waits."""
    guest = await cloud.boot("guest", "a", RED1, "10.0.1.11")
    await shared(cloud)
    assert await guest.reaches(OUTSIDE)
    (record,) = cloud.node("a").keepalived._services.observe().values()
    os.kill(record.process.pid, signal.SIGKILL)
    await eventually(lambda: leads(cloud, "b"))
    assert await reaches_within(guest, OUTSIDE) < LIMIT
    ((_, name),) = [item for item in names(cloud) if item[0] == "b"]

    async def waits() -> bool:
        return cloud.node("a").keepalived.role(name) is Role.BACKUP

    await eventually(waits)
    assert not await leads(cloud, "a")


async def test_a_guest_cannot_take_part(cloud):
    """A guest that may send what it likes neither ends the gateway's lead, nor draws to it what others send there."""
    spy = await cloud.boot("spy", "c", RED1, "10.0.1.66")
    third = await cloud.boot("third", "c", RED2, "10.0.2.13")
    beside = await cloud.boot("beside", "b", RED1, "10.0.1.12")
    held = cloud.node("c").networks._ports
    free = replace(held.of("spy")[spy.port.tap][1], secured=False, groups=None)
    held.put("spy", {spy.port.tap: (spy.port.network, free)})
    router_id = await shared(cloud)
    cloud.node("c").networks.queue.add(spy.port.network.vni)
    await cloud.settled()
    gateway = bytes.fromhex("0e72000000ee")
    own = bytes.fromhex(spy.port.mac.replace(":", ""))
    adverts = [advert(router_id, cloud.node(host).host.name, own, gateway) for host in ("a", "b")]
    stolen = [frame.replace(own, gateway) for frame in frames_of_gratuitous_arp(spy.port.mac, "169.254.0.1")]
    stolen.append(b"\xff" * 6 + gateway + b"\x88\xb5" + b"stolen" * 10)
    with captured(cloud.node("b").host.namespace, "kx000101") as tunnel, captured(spy.namespace, "eth0") as seen:
        for _ in range(8):
            send(spy.namespace, [*adverts, *stolen])
            assert await third.reaches(OUTSIDE)
            assert await beside.reaches(OUTSIDE)
        assert not [frame for frame in seen(0.1) if OUTSIDE.packed in frame]
        assert not [frame for frame in tunnel(0.1) if b"stolen" in frame]
    assert await leads(cloud, "a")
    assert not await leads(cloud, "b")


def advert(router_id, host, source, gateway):
    """A farewell of VRRP version 3, from nowhere near, to a host's address in the hosts' network."""
    target = IPv6Address(pair.link_local(pair.mac_of(router_id, host, "pair")))
    body = struct.pack("!BBBBHH", 0x31, 1, 0, 1, 100, 0) + target.packed
    header = struct.pack("!IHBB", 0x60000000, len(body), 112, 255) + IPv6Address("fe80::66").packed + target.packed
    return gateway + source + b"\x86\xdd" + header + body


def send(machine, frames):
    """Send frames from a guest as they are."""
    with within(machine, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)) as packets:
        within(machine, lambda: packets.bind(("eth0", 0)))
        for frame in frames:
            packets.send(frame)


OWN6, FIP6 = IPv6Address("2001:db8:77::2"), IPv6Address("2001:db8:77::10")


async def test_ipv6_is_taken_over_with_the_rest(cloud):
    """Guests of all hosts are led out by the standby, addresses move, what is not translated goes on as it was."""
    for number, network in ((1, RED1), (2, RED2)):
        cloud.networks[f"{network}-v6"] = (cloud.networks[network][0], f"2001:db8:{number}::/64")
        await cloud.outside.run("ip", "-6", "route", "add", f"2001:db8:{number}::/64", "via", str(OWN6))
    cloud.external_subnets({"name": "v6", "cidr": "2001:db8:77::/64", "gateway": str(OUTSIDE6), "enableDHCP": False})
    near = await cloud.boot("near", "b", RED1, "10.0.1.12", "2001:db8:1::12")
    third = await cloud.boot("third", "c", RED2, "10.0.2.13", "2001:db8:2::13")
    beside = await cloud.boot("beside", "c", RED1, "10.0.1.14", "2001:db8:1::14")
    routed = ("2001:db8:1::/64", "2001:db8:2::/64")
    given = {"gateway": "a/b", "address6": str(OWN6), "routed": routed}
    router_id = cloud.router("r", RED1, RED2, f"{RED1}-v6", f"{RED2}-v6", **given)
    cloud.floating("f", str(FIP6), router_id, "a/b", forwardings=(("TCP", 80, str(third.address6), 8080),))
    cloud.floating("g", "2001:db8:77::11", router_id, "c", fixed=str(beside.address6))
    await cloud.settled()
    guests = (near, third, beside)
    for guest in guests:
        await eventually(lambda guest=guest: heard_of_router(guest))
        await eventually(lambda guest=guest: guest.reaches(OUTSIDE6))
    await asyncio.sleep(pair.STANDBY_DELAY)
    assert not await shows(cloud, "b", OWN6)
    streams = [await guest.connect(cloud.outside, OUTSIDE6, 8081 + n) for n, guest in enumerate(guests)]
    assert await cloud.outside.connect(third, FIP6, 80, at=8080)
    assert all([await stream.carries() for stream in streams])
    async with without_agents(cloud):
        await cables(cloud, "a", "down")
        lasted = [await reaches_within(guest, target) for guest in guests for target in (OUTSIDE6, OUTSIDE)]
        print(f"led out again after {max(lasted):.1f} s")
        assert await shows(cloud, "b", OWN6)
        assert await cloud.outside.reaches(OWN6)
        assert await cloud.outside.reaches(third.address6)
        assert await cloud.outside.connect(third, FIP6, 80, at=8080)
        # A byte that was lost meanwhile is sent again at once when there is a newer one.
        assert all([await stream.carries(seconds=5) and await stream.carries(back=True) for stream in streams])
        with captured(cloud.outside.namespace, "switch") as frames:
            await cables(cloud, "a", "up")
            lost = 0
            async with asyncio.timeout(LIMIT):
                while await shows(cloud, "a", OWN6):
                    lost += not await third.reaches(OUTSIDE6)
            assert not lost
            told = [frame for frame in frames(6) if frame[12:14] == b"\x86\xdd" and frame[54] == 136]
        macs = [frame[6:12] for frame in told if frame[62:78] == OWN6.packed]
        assert macs
        assert macs[-1] == bytes.fromhex(pair.mac_of(router_id, cloud.node("b").host.name).replace(":", ""))
        assert all([await guest.reaches(OUTSIDE6) for guest in guests for _ in range(3)])
    assert cloud.node("b").routers.taken_over == (router_id,)
    assert all([await stream.carries() for stream in streams])


async def heard_of_router(guest) -> bool:
    """Whether a guest has its IPv6 default route."""
    return "default via fe80::" in await guest.run("ip", "-6", "route", "show")


async def shows(cloud, host, address) -> bool:
    """Whether a host has an address."""
    return str(address) in str([kept["addresses"] for kept in (await cloud.node(host).shown()).values()])
