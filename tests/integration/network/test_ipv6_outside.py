"""IPv6 by a router's gateway, on a real kernel: two hosts, guests, and the world outside with a route or without."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network

import pytest

from kumulus_lab.testing.routed import OUTSIDE, OUTSIDE6, RoutedCloud, captured, eventually, gateway_mac, routed_cloud

RED1, RED2 = "red1", "red2"
SIX1, SIX2 = "2001:db8:1::/64", "fd00:2::/64"
OWN = IPv6Address("2001:db8:77::2")
IPV6 = b"\x86\xdd"
ECHO, ADVERTISEMENT = 128, 136


@pytest.fixture
async def cloud(prefix, hosts) -> AsyncIterator[RoutedCloud]:
    """Two networks with both families; the outside routes the first one's prefix to the router."""
    async with routed_cloud(prefix, hosts) as cloud:
        await dual_stack(cloud)
        yield cloud


async def dual_stack(cloud: RoutedCloud) -> None:
    """Make the networks, and the route outside."""
    for number, (name, cidr) in enumerate(((RED1, SIX1), (RED2, SIX2)), 1):
        cloud.network(name, 0x100 + number, f"10.0.{number}.0/24")
        cloud.networks[f"{name}-v6"] = (cloud.networks[name][0], cidr)
    cloud.external_subnets({"name": "v6", "cidr": "2001:db8:77::/64", "gateway": str(OUTSIDE6), "enableDHCP": False})
    for cidr in (SIX1, SIX2):
        await cloud.outside.run("ip", "-6", "route", "add", cidr, "via", str(OWN))


def make_router(cloud: RoutedCloud, gateway: str = "a", **overrides) -> str:
    """A router of both networks, which leads out in both families."""
    given = {"address6": str(OWN), "routed": (SIX1,)} | overrides
    return cloud.router("r", RED1, RED2, f"{RED1}-v6", f"{RED2}-v6", gateway=gateway, **given)


async def boot(cloud: RoutedCloud, name: str, host: str, network: str, number: int):
    """Start a guest with an address of each family."""
    third, six = ("1", SIX1) if network == RED1 else ("2", SIX2)
    return await cloud.boot(name, host, network, f"10.0.{third}.{number + 10}", str(IPv6Network(six)[0x10 + number]))


async def routes_learned(*guests) -> None:
    """Wait until guests have heard of their routers."""
    for guest in guests:

        async def learned(guest=guest) -> bool:
            return "default via fe80::" in await guest.run("ip", "-6", "route", "show")

        await eventually(learned)


def sources_of(frames: list[bytes]) -> set[IPv6Address]:
    """Who asks for an echo in these frames."""
    asked = [frame for frame in frames if frame[12:14] == IPV6 and frame[54] == ECHO]
    return {IPv6Address(frame[22:38]) for frame in asked} - {OUTSIDE6}


async def seen_outside(cloud, guest) -> set[IPv6Address]:
    """The addresses that the outside sees while the guest asks it."""
    with captured(cloud.outside.namespace, "switch") as frames:
        assert await guest.reaches(OUTSIDE6)
        return sources_of(frames(0.1))


async def test_what_is_routed_goes_out_and_is_reached_as_it_is(cloud):
    """From the gateway's host and from another; packets of the network's MTU, too; IPv4 as before."""
    guests = [await boot(cloud, host, host, RED1, number) for number, host in enumerate(("a", "b"), 1)]
    make_router(cloud)
    await cloud.settled()
    await routes_learned(*guests)
    for guest in guests:
        assert await seen_outside(cloud, guest) == {guest.address6}
        assert await guest.reaches(OUTSIDE6, "-s", "1400")
        assert await guest.reaches(OUTSIDE)
        assert await cloud.outside.reaches(guest.address6)
        assert await cloud.outside.reaches(OWN)


async def test_what_is_not_routed_stays_inside_and_is_told_so(cloud):
    """A network that the outside does not route here neither sends nor receives, by any host; its guest is told."""
    guests = [await boot(cloud, host, host, RED2, number) for number, host in enumerate(("a", "b"), 1)]
    make_router(cloud)
    await cloud.settled()
    await routes_learned(*guests)
    with captured(cloud.outside.namespace, "switch") as frames:
        for guest in guests:
            with captured(guest.namespace, "eth0") as heard:
                assert not await guest.reaches(OUTSIDE6)
                # Destination unreachable, for the source's sake (RFC 4443).
                assert [frame for frame in heard(0.1) if frame[12:14] == IPV6 and frame[54:56] == b"\x01\x05"]
                assert await guest.reaches(OUTSIDE)
        assert not sources_of(frames(0.1))
    for guest in guests:
        with captured(guest.namespace, "eth0") as heard:
            assert not await cloud.outside.reaches(guest.address6)
            assert not [frame for frame in heard(0.1) if OUTSIDE6.packed in frame]
    assert await guests[0].reaches(guests[1].address6)


async def test_under_the_routers_address_where_it_is_asked_for(cloud):
    """What is not routed goes out under the router's address, and is reached by answers alone; what is routed stays."""
    plain = [await boot(cloud, host, host, RED2, number) for number, host in enumerate(("a", "b"), 1)]
    routed = await boot(cloud, "routed", "b", RED1, 3)
    make_router(cloud, snat6=True)
    await cloud.settled()
    await routes_learned(*plain, routed)
    for guest in plain:
        assert await seen_outside(cloud, guest) == {OWN}
        assert not await cloud.outside.reaches(guest.address6)
    assert await seen_outside(cloud, routed) == {routed.address6}
    streams = [await guest.connect(cloud.outside, OUTSIDE6, 8081) for guest in (*plain, routed)]
    assert all([await stream.carries() and await stream.carries(back=True) for stream in streams])
    # What is translated ends with its translation, and nothing else does.
    make_router(cloud)
    await cloud.settled()
    assert [await stream.carries() for stream in streams] == [False, False, True]


async def test_a_router_without_ipv6_outside_lets_none_pass(cloud):
    """Where the external network has no IPv6, none of its links speaks it: nobody there is led in."""
    guest = await boot(cloud, "a", "a", RED1, 1)
    make_router(cloud, address6=None)
    await cloud.settled()
    await routes_learned(guest)
    assert not await guest.reaches(OUTSIDE6)
    assert await guest.reaches(OUTSIDE)
    shown = await cloud.node("a").shown()
    (router,) = [kept for name, kept in shown.items() if name.startswith(cloud.node("a").prefix)]
    assert "chain unrouted" not in router["nft"]
    make_router(cloud)
    await cloud.settled()
    assert await guest.reaches(OUTSIDE6)
    make_router(cloud, address6=None)
    await cloud.settled()
    assert (await cloud.node("a").shown()).keys() == shown.keys()
    assert not await guest.reaches(OUTSIDE6)


async def test_applying_again_changes_nothing(cloud):
    """An agent that begins anew finds nothing to do on either host."""
    guests = {host: await boot(cloud, host, host, RED1, number) for number, host in enumerate(("a", "b"), 1)}
    router_id = make_router(cloud, snat6=True)
    cloud.floating("six", "2001:db8:77::10", router_id, "b", fixed=str(guests["b"].address6))
    await cloud.settled()
    await routes_learned(*guests.values())
    assert all([await guest.reaches(OUTSIDE6) for guest in guests.values()])
    for host, guest in guests.items():
        node = cloud.node(host)
        made = await node.shown()
        await node.stop()
        node.start({host: guest.port})
        await node.networks.ensure([guest.port.network])
        await cloud.settled()
        assert await node.shown() == made


async def test_the_gateways_other_link_says_nothing(cloud):
    """Trap: two hosts may have the gateway's MAC; one that leads nobody must not draw the others' packets by it."""
    await boot(cloud, "b", "b", RED1, 1)
    gateway = bytes.fromhex("0e72000000ee")
    with captured(cloud.node("b").host.namespace, "kx000101") as tunnel:
        make_router(cloud)
        await cloud.settled()
        await asyncio.sleep(1)
        assert not [frame for frame in tunnel(0.1) if frame[6:12] == gateway]


FIP, OTHER = IPv6Address("2001:db8:77::10"), IPv6Address("2001:db8:77::11")


async def test_a_floating_address_leads_in_and_out_on_its_servers_host(cloud):
    """The server is reached under it and leaves under it, by its own host, though its network stays inside."""
    await boot(cloud, "gw", "a", RED2, 1)
    web = await boot(cloud, "web", "b", RED2, 2)
    plain = await boot(cloud, "plain", "b", RED1, 3)
    router_id = make_router(cloud)
    cloud.floating("f", str(FIP), router_id, "b", fixed=str(web.address6))
    cloud.floating("four", "203.0.113.10", router_id, "b", fixed=str(web.address))
    await cloud.settled()
    await routes_learned(web, plain)
    with captured(cloud.node("a").host.namespace, "kx000101") as tunnel:
        assert await cloud.outside.reaches(FIP)
        assert await seen_outside(cloud, web) == {FIP}
        assert not [frame for frame in tunnel(0.1) if OUTSIDE6.packed in frame]
    assert await seen_outside(cloud, plain) == {plain.address6}
    assert await web.reaches(plain.address6)
    assert await web.reaches(OUTSIDE)
    stream = await cloud.outside.connect(web, FIP, 8080)
    assert await stream.carries()
    assert await stream.carries(back=True)


@pytest.mark.parametrize("snat6", [False, True])
async def test_servers_find_each_other_by_floating_addresses(cloud, snat6):
    """By the floating address of another server, near or far, and by its own; with a floating address or without.

    From a network that stays inside they do so where that is translated, and else not, wherever they are.
    """
    web = await boot(cloud, "web", "b", RED1, 1)
    near = await boot(cloud, "near", "b", RED1, 2)
    beside = await boot(cloud, "beside", "b", RED2, 2)
    far = await boot(cloud, "far", "a", RED1, 3)
    plain = await boot(cloud, "plain", "a", RED1, 4)
    router_id = make_router(cloud, snat6=snat6)
    cloud.floating("f", str(FIP), router_id, "b", fixed=str(web.address6))
    cloud.floating("g", str(OTHER), router_id, "a", fixed=str(far.address6))
    await cloud.settled()
    await routes_learned(web, near, beside, far, plain)
    for source in (web, near, far, plain):
        for target, server in ((FIP, web), (OTHER, far)):
            assert await source.reaches(target), (source.namespace, target)
            stream = await source.connect(server, target, 8080)
            assert stream is not None, (source.namespace, target)
            assert await stream.carries()
            assert await stream.carries(back=True)
    for target in (FIP, OTHER):
        assert await beside.reaches(target) is snat6


async def test_a_floating_address_moves_live(cloud):
    """It moves to a server of another host: the outside hears of it, its connections end, and no others."""
    web = await boot(cloud, "web", "b", RED1, 1)
    heir = await boot(cloud, "heir", "a", RED1, 2)
    stays = await boot(cloud, "stays", "b", RED1, 3)
    router_id = make_router(cloud)
    cloud.floating("f", str(FIP), router_id, "b", fixed=str(web.address6))
    cloud.floating("g", str(OTHER), router_id, "b", fixed=str(stays.address6))
    cloud.floating("four", "203.0.113.10", router_id, "b", fixed=str(web.address))
    await cloud.settled()
    await routes_learned(web, heir, stays)
    moved = await cloud.outside.connect(web, FIP, 8080)
    out = await web.connect(cloud.outside, OUTSIDE6, 8081)
    untouched = [
        await cloud.outside.connect(stays, OTHER, 8080),
        await stays.connect(cloud.outside, OUTSIDE6, 8083),
        await web.connect(cloud.outside, OUTSIDE, 8084),
    ]
    assert all([await stream.carries() for stream in (moved, out, *untouched)])
    with captured(cloud.outside.namespace, "switch") as frames:
        cloud.floating("f", str(FIP), router_id, "a", fixed=str(heir.address6))
        await cloud.settled()
        told = {frame[6:12].hex(":") for frame in told_of(FIP, frames(0.1))}
    assert gateway_mac("r") in told

    async def known() -> bool:
        return gateway_mac("r") in await cloud.outside.run("ip", "-6", "neighbour", "show", str(FIP))

    await eventually(known, 3.0)  # the last announcement comes after two
    assert await cloud.outside.reaches(FIP)
    anew = await cloud.outside.connect(heir, FIP, 8082)
    assert await anew.carries()
    assert not await moved.carries(back=True)
    assert not await out.carries()
    assert all([await stream.carries() and await stream.carries(back=True) for stream in untouched])
    assert await seen_outside(cloud, web) == {web.address6}


async def test_all_are_told_of_an_address_three_times_while_it_is_there(cloud):
    """What the host before has said last may arrive after the first; of one that has gone nothing is told any more."""
    web = await boot(cloud, "web", "a", RED1, 1)
    router_id = make_router(cloud)
    with captured(cloud.outside.namespace, "switch") as frames:
        for name, address in (("f", FIP), ("g", OTHER)):
            cloud.floating(name, str(address), router_id, "a", fixed=str(web.address6))
        await cloud.settled()
        cloud.api.delete("FloatingIP", "g")
        await cloud.settled()
        seen = await asyncio.to_thread(frames, 2.5)
    assert [len(told_of(address, seen)) for address in (FIP, OTHER)] == [3, 1]


def told_of(address: IPv6Address, frames: list[bytes]) -> list[bytes]:
    """The frames that tell all nodes of an address: neighbour advertisements."""
    to_all = (frame for frame in frames if frame[:6] == bytes.fromhex("333300000001") and frame[12:14] == IPV6)
    return [frame for frame in to_all if frame[54] == ADVERTISEMENT and frame[62:78] == address.packed]


async def test_ports_of_an_address_lead_to_servers(cloud):
    """Each port of a floating address leads to its server, wherever that is; one that is taken away ends, alone."""
    web, far = await boot(cloud, "web", "a", RED2, 1), await boot(cloud, "far", "b", RED2, 2)
    router_id = make_router(cloud)
    both = [("TCP", 80, str(web.address6), 8080), ("TCP", 81, str(far.address6), 8081)]
    cloud.floating("f", str(FIP), router_id, "a", forwardings=tuple(both))
    await cloud.settled()
    await routes_learned(web, far)
    streams = [
        await cloud.outside.connect(server, FIP, port, at=8000 + port) for server, port in ((web, 80), (far, 81))
    ]
    assert all([await stream.carries() and await stream.carries(back=True) for stream in streams])
    cloud.floating("f", str(FIP), router_id, "a", forwardings=(both[0],))
    await cloud.settled()
    assert [await stream.carries() for stream in streams] == [True, False]


async def test_a_guest_sends_from_no_network_of_others(cloud):
    """One that may send what it likes gets nothing out but from networks that are routed to its router."""
    guest = await boot(cloud, "free", "b", RED1, 1)
    held = cloud.node("b").networks._ports
    network, port = held.of("free")[guest.port.tap]
    held.put("free", {guest.port.tap: (network, replace(port, secured=False, groups=None))})
    make_router(cloud)
    cloud.node("b").networks.queue.add(network.vni)
    await cloud.settled()
    await routes_learned(guest)
    await guest.run("ip", "address", "add", "2001:db8:5::5/128", "dev", "eth0", "nodad")
    with captured(cloud.outside.namespace, "switch") as frames:
        assert await guest.reaches(OUTSIDE6, "-I", str(guest.address6))
        assert not await guest.reaches(OUTSIDE6, "-I", "2001:db8:5::5")
        assert sources_of(frames(0.1)) == {guest.address6}


async def test_an_external_network_may_be_an_overlay(cloud):
    """What leaves, and floating addresses on either host, are reached from servers of an overlay on either host."""
    cloud.external = cloud.network("lake", 0x300, "198.51.100.0/24")
    outsiders = [
        await cloud.boot(f"out-{host}", host, "lake", f"198.51.100.1{n}", f"2001:db8:88::1{n}")
        for n, host in enumerate(("a", "b"), 1)
    ]
    a, b = [await boot(cloud, host, host, RED2, number) for number, host in enumerate(("a", "b"), 1)]
    router_id = make_router(cloud, "b", address="198.51.100.2", address6="2001:db8:88::2", snat6=True)
    cloud.told("b", gateway_mac("r"), "2001:db8:88::2")
    led = {host: IPv6Address(f"2001:db8:88::2{n}") for n, host in enumerate(("a", "b"), 1)}
    for host, guest in (("a", a), ("b", b)):
        cloud.floating(f"f-{host}", str(led[host]), router_id, host, fixed=str(guest.address6))
        cloud.told(host, f"0e:00:00:00:01:{led[host].packed[-1]:02x}", str(led[host]))
    plain = await boot(cloud, "plain", "a", RED2, 3)
    await cloud.settled()
    await routes_learned(a, b, plain)
    for outsider in outsiders:
        for address in led.values():
            assert await outsider.reaches(address), (outsider.namespace, address)
        for guest in (a, b, plain):
            assert await guest.reaches(outsider.address6), (guest.namespace, outsider.namespace)
