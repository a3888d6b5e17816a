"""Routers that lead out on a real kernel: what they translate, and floating addresses that come, move and go."""

from __future__ import annotations

from ipaddress import IPv4Address

from kumulus_lab.testing.routed import OUTSIDE, captured, eventually, gateway_mac

RED1, RED2 = "red1", "red2"
ARP, IPV4, IPV6 = b"\x08\x06", b"\x08\x00", b"\x86\xdd"
FIP, OTHER = IPv4Address("203.0.113.10"), IPv4Address("203.0.113.11")


async def test_outside_sees_the_routers_address(cloud):
    """From the gateway's host and from another, a server reaches the outside, which sees the router's address only."""
    for number, host in enumerate(("a", "b"), 11):
        await cloud.boot(host, host, RED1, f"10.0.1.{number}")
    second = await cloud.boot("second", "b", RED2, "10.0.2.21")
    cloud.router("r", RED1, RED2, gateway="a")
    await cloud.settled()
    with captured(cloud.outside.namespace, "switch") as frames:
        for guest in (*(cloud.guests[host] for host in ("a", "b")), second):
            assert await guest.reaches(OUTSIDE, "-s", "1400"), guest
        sources = {frame[26:30] for frame in frames(0.1) if frame[12:14] == IPV4}
    assert sources == {OUTSIDE.packed, IPv4Address("203.0.113.2").packed}
    assert not await cloud.outside.reaches(IPv4Address("10.0.1.11"))


async def test_a_floating_address_leads_in_and_out_on_its_servers_host(cloud):
    """The server is reached under it and leaves under it, by its own host; others go on leaving by the gateway."""
    await cloud.boot("gw", "a", RED1, "10.0.1.12")
    web = await cloud.boot("web", "b", RED1, "10.0.1.11")
    plain = await cloud.boot("plain", "b", RED2, "10.0.2.13")
    router_id = cloud.router("r", RED1, RED2, gateway="a")
    cloud.floating("f", str(FIP), router_id, "b", fixed="10.0.1.11")
    await cloud.settled()
    with captured(cloud.node("a").host.namespace, "kx000101") as tunnel:
        assert await cloud.outside.reaches(FIP)
        assert await cloud.sources_outside(web) == {FIP.packed}
        assert not [frame for frame in tunnel(0.1) if OUTSIDE.packed in frame]
    assert await cloud.sources_outside(plain) == {IPv4Address("203.0.113.2").packed}
    assert await web.reaches(plain.address)


async def test_servers_find_each_other_by_floating_addresses(cloud):
    """By the floating address of another server, near or far, and by its own; with a floating address or without."""
    web = await cloud.boot("web", "b", RED1, "10.0.1.11")
    near = await cloud.boot("near", "b", RED1, "10.0.1.12")
    beside = await cloud.boot("beside", "b", RED2, "10.0.2.12")
    far = await cloud.boot("far", "a", RED1, "10.0.1.13")
    router_id = cloud.router("r", RED1, RED2, gateway="a")
    cloud.floating("f", str(FIP), router_id, "b", fixed="10.0.1.11")
    cloud.floating("g", str(OTHER), router_id, "a", fixed="10.0.1.13")
    await cloud.settled()
    for source in (web, near, beside, far):
        for target in (FIP, OTHER):
            assert await source.reaches(target), (source.namespace, target)


async def test_without_translation_servers_keep_their_addresses(cloud):
    """A router that does not translate lets the outside see and reach the servers' own addresses, from each host."""
    a = await cloud.boot("a", "a", RED1, "10.0.1.11")
    b = await cloud.boot("b", "b", RED1, "10.0.1.12")
    cloud.router("r", RED1, gateway="a", snat=False)
    await cloud.settled()
    await cloud.outside.run("ip", "route", "add", "10.0.1.0/24", "via", "203.0.113.2")
    for guest in (a, b):
        assert await cloud.sources_outside(guest) == {guest.address.packed}
        assert await cloud.outside.reaches(guest.address)


async def test_a_floating_address_moves_live(cloud):
    """It moves to a server of another host: the outside hears of it, its connections end, and no others."""
    web = await cloud.boot("web", "b", RED1, "10.0.1.11")
    heir = await cloud.boot("heir", "a", RED1, "10.0.1.12")
    stays = await cloud.boot("stays", "b", RED1, "10.0.1.13")
    router_id = cloud.router("r", RED1, gateway="a")
    cloud.floating("f", str(FIP), router_id, "b", fixed="10.0.1.11")
    cloud.floating("g", str(OTHER), router_id, "b", fixed="10.0.1.13")
    await cloud.settled()
    moved = await cloud.outside.connect(web, FIP, 8080)
    out = await web.connect(cloud.outside, OUTSIDE, 8081)
    untouched = await cloud.outside.connect(stays, OTHER, 8080)
    assert await moved.carries()
    assert await out.carries()
    assert await untouched.carries()
    with captured(cloud.outside.namespace, "switch") as frames:
        cloud.floating("f", str(FIP), router_id, "a", fixed="10.0.1.12")
        await cloud.settled()
        to_all = [frame for frame in frames(0.1) if frame[:6] == b"\xff" * 6 and frame[28:32] == FIP.packed]
    assert gateway_mac("r") in {frame[22:28].hex(":") for frame in to_all}

    async def known() -> bool:
        return gateway_mac("r") in await cloud.outside.run("ip", "neighbour", "show", str(FIP))

    await eventually(known, 3.0)  # the last announcement comes after two
    assert await cloud.outside.reaches(FIP)
    anew = await cloud.outside.connect(heir, FIP, 8082)
    assert await anew.carries()
    assert not await moved.carries(back=True)
    assert not await out.carries()
    assert await untouched.carries()
    assert await untouched.carries(back=True)
    assert await cloud.sources_outside(web) == {IPv4Address("203.0.113.2").packed}


async def test_a_floating_address_changes_its_server_on_one_host(cloud):
    """Where it was, its former connections end, also when nothing but the rules tells what they were."""
    web = await cloud.boot("web", "a", RED1, "10.0.1.11")
    heir = await cloud.boot("heir", "a", RED1, "10.0.1.12")
    router_id = cloud.router("r", RED1, gateway="a")
    cloud.floating("f", str(FIP), router_id, "a", fixed="10.0.1.11")
    await cloud.settled()
    former = await cloud.outside.connect(web, FIP, 8080)
    plain = await heir.connect(cloud.outside, OUTSIDE, 8081)
    assert await former.carries()
    node = cloud.node("a")
    await node.stop()
    cloud.floating("f", str(FIP), router_id, "a", fixed="10.0.1.12")
    node.start({name: guest.port for name, guest in cloud.guests.items()})
    await node.routers.known.wait()
    await cloud.settled()
    assert not await former.carries()
    assert not await former.carries(back=True)
    assert await plain.carries()
    anew = await cloud.outside.connect(heir, FIP, 8080)
    assert await anew.carries()


async def test_ports_of_an_address_lead_to_servers(cloud):
    """Each port of a floating address leads to its server, wherever that is; one that is taken away ends, alone."""
    a = await cloud.boot("a", "a", RED1, "10.0.1.11")
    b = await cloud.boot("b", "b", RED1, "10.0.1.12")
    router_id = cloud.router("r", RED1, gateway="a")
    first, second = ("TCP", 80, "10.0.1.11", 8080), ("TCP", 81, "10.0.1.12", 8081)
    cloud.floating("f", str(FIP), router_id, "a", forwardings=(first, second))
    await cloud.settled()
    to_a = await cloud.outside.connect(a, FIP, 80, at=8080)
    to_b = await cloud.outside.connect(b, FIP, 81, at=8081)
    inside = await b.connect(a, FIP, 80, at=8080)
    assert await to_a.carries()
    assert await to_b.carries(back=True)
    assert await inside.carries()
    assert await cloud.sources_outside(a) == {IPv4Address("203.0.113.2").packed}
    cloud.floating("f", str(FIP), router_id, "a", forwardings=(second,))
    await cloud.settled()
    assert not await to_a.carries()
    assert await to_b.carries()
    assert await cloud.outside.connect(a, FIP, 80, at=8080) is None


async def test_the_gateway_moves_to_another_host(cloud):
    """The new host announces the router's address and leads out at once; the former one keeps nothing of it."""
    a = await cloud.boot("a", "a", RED1, "10.0.1.11")
    b = await cloud.boot("b", "b", RED2, "10.0.2.12")
    router_id = cloud.router("r", RED1, RED2, gateway="a")
    cloud.floating("f", str(FIP), router_id, "a", forwardings=(("TCP", 80, "10.0.2.12", 80),))
    await cloud.settled()
    for guest in (a, b):
        assert await guest.reaches(OUTSIDE)
    with captured(cloud.outside.namespace, "switch") as frames:
        cloud.router("r", RED1, RED2, gateway="b")
        cloud.floating("f", str(FIP), router_id, "b", forwardings=(("TCP", 80, "10.0.2.12", 80),))
        await cloud.settled()
        told = {frame[28:32] for frame in frames(0.1) if frame[:6] == b"\xff" * 6 and frame[12:14] == ARP}
    assert told >= {IPv4Address("203.0.113.2").packed, FIP.packed}
    for guest in (a, b):
        assert await cloud.sources_outside(guest) == {IPv4Address("203.0.113.2").packed}
    assert await cloud.outside.connect(b, FIP, 80) is not None
    former = await cloud.node("a").shown()
    assert not [name for name, kept in former.items() if "203.0.113." in str(kept)]
    assert "kb00007e" not in str(former)
