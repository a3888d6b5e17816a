"""Firewalls of centralised routers on a real kernel: where packets pass, what is judged, and which connections end."""

from __future__ import annotations

import asyncio
import difflib
import json
import re
from collections.abc import AsyncIterator
from ipaddress import IPv4Address

import pytest

from kumulus_agent.network.command import run
from kumulus_agent.routers import pair, tracked
from kumulus_agent.routers.firewall import Firewall, Guard, parse
from kumulus_lab.testing.questions import answered
from kumulus_lab.testing.routed import OUTSIDE, RoutedCloud, captured, eventually, routed_cloud

RED1, RED2 = "red1", "red2"
FIP = IPv4Address("203.0.113.10")
ANY = {"name": "any", "action": "Allow"}


def tcp(port: int, action: str = "Allow", **more) -> dict:
    """A rule about a TCP port."""
    return {"name": f"tcp-{port}", "action": action, "protocol": "TCP", "destinationPorts": [port, port], **more}


def group(*ingress: dict, egress: tuple[dict, ...] = (ANY,), on: tuple[str, ...] = (RED1, RED2), name="web") -> dict:
    """A group on interfaces of a router."""
    return {"group": name, "interfaces": list(on), "ingress": list(ingress), "egress": list(egress)}


def guarded(cloud, firewalls: tuple[dict, ...], *networks: str, gateway: str | None = None) -> str:
    """Make the router r, or change it: it is centralised, and these firewalls are on it."""
    cloud.firewalls = firewalls
    made = cloud.router(*networks, gateway=gateway)
    cloud.firewalls = ()
    return made


async def routers_on(cloud, host) -> list[str]:
    """The namespaces of routers on a host."""
    node = cloud.node(host)
    return [name for name in await node.shown() if name.startswith(node.prefix)]


async def test_all_packets_pass_the_gateways_host_and_are_judged_there(cloud):
    """East-west between hosts, and within a host that is not the gateway's, is denied and allowed on the gateway's."""
    near = await cloud.boot("near", "b", RED1, "10.0.1.11")
    same = await cloud.boot("same", "b", RED2, "10.0.2.12")
    far = await cloud.boot("far", "a", RED2, "10.0.2.13")
    guarded(cloud, (group(),), "r", RED1, RED2, gateway="a")
    await cloud.settled()
    assert await routers_on(cloud, "a")
    assert not await routers_on(cloud, "b")
    for target in (same, far):
        assert not await near.reaches(target.address)
        assert await near.connect(target, target.address, 80, seconds=0.5) is None
    guarded(cloud, (group(tcp(80)),), "r", RED1, RED2, gateway="a")
    await cloud.settled()
    with captured(cloud.node("a").host.namespace, "kx000101") as tunnel:
        for target in (same, far):
            stream = await near.connect(target, target.address, 80)
            assert stream is not None
            assert await stream.carries()
            assert await stream.carries(back=True)
            assert await near.connect(target, target.address, 81, seconds=0.5) is None
        seen = {(frame[26:30], frame[30:34]) for frame in tunnel(0.2) if frame[12:14] == b"\x08\x00"}
    # Both directions of what stays on host b are seen here.
    for target in (same, far):
        assert {(near.address.packed, target.address.packed), (target.address.packed, near.address.packed)} <= seen


async def test_a_changed_rule_ends_exactly_the_connections_that_it_no_longer_allows(cloud):
    """One that is denied now ends in both directions, whoever speaks first, until it is allowed again; others go on."""
    a = await cloud.boot("a", "a", RED1, "10.0.1.11")
    b = await cloud.boot("b", "b", RED2, "10.0.2.12")
    guarded(cloud, (group(tcp(80), tcp(81)),), "r", RED1, RED2, gateway="b")
    await cloud.settled()
    kept, ended = [await a.connect(b, b.address, port) for port in (80, 81)]
    for stream in (kept, ended):
        assert await stream.carries()
        assert await stream.carries(back=True)
    guarded(cloud, (group(tcp(80)),), "r", RED1, RED2, gateway="b")
    await cloud.settled()
    # The server's side would be allowed to begin one: it does not go on the other way round.
    assert not await ended.carries(back=True)
    assert not await ended.carries()
    assert await kept.carries()
    assert await kept.carries(back=True)
    guarded(cloud, (group(tcp(81), tcp(80)),), "r", RED1, RED2, gateway="b")
    await cloud.settled()
    assert await kept.carries()
    assert await ended.carries(seconds=8)


async def test_the_first_rule_decides_and_refusals_are_told(cloud):
    """Deny before Allow wins; Reject answers at once; an interface without group lets all pass."""
    a = await cloud.boot("a", "a", RED1, "10.0.1.11")
    b = await cloud.boot("b", "b", RED2, "10.0.2.12")
    rules = (tcp(80, "Deny", sourceCIDR="10.0.1.11/32"), tcp(81, "Reject"), ANY)
    guarded(cloud, (group(*rules, on=(RED2,)),), "r", RED1, RED2, gateway="b")
    await cloud.settled()
    assert await a.connect(b, b.address, 80, seconds=0.5) is None
    assert await a.connect(b, b.address, 82)
    assert await b.connect(a, a.address, 80)
    client = a.socket()
    with client:
        client.setblocking(True)
        client.settimeout(0.8)
        with pytest.raises(ConnectionRefusedError):
            client.connect((str(b.address), 81))


async def test_what_comes_from_outside_is_judged_behind_the_translation(cloud):
    """A floating address is translated on the gateway's host, and rules speak of the server's own address and port."""
    web = await cloud.boot("web", "b", RED1, "10.0.1.11")
    rules = (tcp(80, destinationCIDR="10.0.1.11/32"),)
    router_id = guarded(cloud, (group(*rules, on=(RED1,)),), "r", RED1, gateway="a")
    cloud.floating("f", str(FIP), router_id, "a", fixed="10.0.1.11")
    await cloud.settled()
    assert await cloud.outside.connect(web, FIP, 80)
    assert await cloud.outside.connect(web, FIP, 81, seconds=0.5) is None
    assert await web.reaches(OUTSIDE)
    closed = group(*rules, egress=(tcp(443),), on=(RED1,))
    guarded(cloud, (closed,), "r", RED1, gateway="a")
    await cloud.settled()
    assert not await web.reaches(OUTSIDE)
    stream = await cloud.outside.connect(web, FIP, 80)
    assert stream is not None
    # By the floating address, too, a connection ends that is no longer allowed, and it alone.
    guarded(cloud, (group(tcp(81), on=(RED1,)),), "r", RED1, gateway="a")
    await cloud.settled()
    assert not await stream.carries()
    assert not await stream.carries(back=True)
    assert await cloud.outside.connect(web, FIP, 81)


async def test_a_router_is_centralised_and_distributed_again_with_its_servers_running(cloud):
    """Servers go on with their former neighbours' entries: they are told of the other MAC on both hosts."""
    a = await cloud.boot("a", "a", RED1, "10.0.1.11")
    b = await cloud.boot("b", "b", RED2, "10.0.2.12")
    third = await cloud.boot("third", "b", RED1, "10.0.1.13")
    cloud.router("r", RED1, RED2, gateway="a")
    await cloud.settled()
    stream = await third.connect(b, b.address, 80)
    assert await a.reaches(b.address)
    guarded(cloud, (group(ANY),), "r", RED1, RED2, gateway="a")
    await cloud.settled()
    assert await stream.carries(seconds=3)
    assert await stream.carries(back=True)
    assert await a.reaches(b.address)
    cloud.router("r", RED1, RED2, gateway="a")
    await cloud.settled()
    assert await routers_on(cloud, "b")
    assert await stream.carries(seconds=3)
    assert await a.reaches(b.address)
    assert "firewall" not in str([kept["nft"] for kept in (await cloud.node("a").shown()).values()])


async def test_connections_outside_go_on_when_a_first_group_comes_that_allows_them(cloud):
    """Those by the router's own address and by a floating one, of servers on any host, whoever speaks next.

    Those that the group does not allow end. Nobody outside is told that there is no such connection.
    """
    near = await cloud.boot("near", "a", RED1, "10.0.1.11")
    far = await cloud.boot("far", "b", RED1, "10.0.1.12")
    web = await cloud.boot("web", "a", RED1, "10.0.1.13")
    router_id = cloud.router("r", RED1, gateway="a")
    cloud.floating("f", str(FIP), router_id, "a", fixed="10.0.1.13")
    await cloud.settled()
    kept = [await guest.connect(cloud.outside, OUTSIDE, 8080 + n) for n, guest in enumerate((near, far, near, far))]
    kept += [await cloud.outside.connect(web, FIP, 80), await cloud.outside.connect(web, FIP, 80)]
    ended = [await near.connect(cloud.outside, OUTSIDE, 9000), await cloud.outside.connect(web, FIP, 81)]
    for stream in (*kept, *ended):
        assert await stream.carries()
        assert await stream.carries(back=True)
    with captured(cloud.outside.namespace, "switch") as frames:
        allowed = {**tcp(8080), "destinationPorts": [8080, 8089]}
        guarded(cloud, (group(tcp(80), egress=(allowed,), on=(RED1,)),), "r", RED1, gateway="a")
        await cloud.settled()
        # The side that answers speaks first in every other one: by its packet nothing could begin.
        for number, stream in enumerate(kept):
            assert await stream.carries(back=bool(number % 2), seconds=3), number
            assert await stream.carries(back=not number % 2), number
        for stream in ended:
            assert not await stream.carries()
            assert not await stream.carries(back=True)
        resets = [frame for frame in frames(0.1) if frame[12:14] == b"\x08\x00" and frame[23] == 6 and frame[47] & 4]
    assert resets == []


async def test_without_gateway_a_centralised_router_routes_nothing(cloud):
    """Where nobody can judge, nothing passes."""
    a = await cloud.boot("a", "a", RED1, "10.0.1.11")
    b = await cloud.boot("b", "b", RED2, "10.0.2.12")
    near = await cloud.boot("near", "a", RED2, "10.0.2.14")
    cloud.router("r", RED1, RED2)
    await cloud.settled()
    assert await a.reaches(b.address)
    guarded(cloud, (group(ANY),), "r", RED1, RED2)
    await cloud.settled()
    assert not await a.reaches(b.address)
    assert not await a.reaches(near.address)
    assert not await routers_on(cloud, "a")


async def test_another_agent_changes_nothing_and_what_others_break_is_put_right(cloud):
    """An agent that begins anew finds rules and connections as they should be; rules that are gone are there again."""
    a = await cloud.boot("a", "a", RED1, "10.0.1.11")
    b = await cloud.boot("b", "b", RED2, "10.0.2.12")
    router_id = guarded(cloud, (group(tcp(80)),), "r", RED1, RED2, gateway="a")
    await cloud.settled()
    stream = await a.connect(b, b.address, 80)
    node = cloud.node("a")
    made = await stable(cloud)
    await node.stop()
    node.start({"a": a.port})
    await node.networks.ensure([a.port.network])
    await cloud.settled()
    found = await stable(cloud)
    assert found == made, differing(made, found)
    assert await stream.carries()
    (name,) = await routers_on(cloud, "a")
    await run(("ip", "netns", "exec", name, "nft", "flush", "ruleset"))
    node.routers._applied.clear()
    node.routers.queue.add(router_id)
    await cloud.settled()
    assert await a.connect(b, b.address, 81, seconds=0.5) is None
    assert await stream.carries()


async def test_an_agent_that_ended_in_between_holds_connections_to_the_rules(cloud):
    """Rules without the note that connections were held to them are applied again, and what they deny ends."""
    a = await cloud.boot("a", "a", RED1, "10.0.1.11")
    b = await cloud.boot("b", "b", RED2, "10.0.2.12")
    router_id = guarded(cloud, (group(tcp(80)),), "r", RED1, RED2, gateway="a")
    await cloud.settled()
    (name,) = await routers_on(cloud, "a")
    stream = await a.connect(b, b.address, 80)
    closed = Firewall((Guard("web", ("all",)),), (("0.0.0.0/0", "all"),))
    assert await tracked.hold(name, closed) == 1
    inside = ("ip", "netns", "exec", name, "nft")
    listed = parse(json.loads(await run((*inside, "--json", "list", "ruleset")))["nftables"])
    await run((*inside, "delete", "chain", "inet", "firewall", f"version-{listed}"))
    assert not await stream.carries(seconds=0.5)
    node = cloud.node("a")
    node.routers._applied.clear()
    node.routers.queue.add(router_id)
    await cloud.settled()
    assert await stream.carries(seconds=8)


async def test_services_of_a_network_answer_its_own_guests_alone(cloud):
    """A network's own DNS server is asked by its guests, and by nobody from behind a centralised router."""
    rules = (group(ANY, on=("served", RED1)),)
    said = await answered(cloud, RED1, lambda *networks: guarded(cloud, rules, "r", *networks, gateway="a"))
    assert said == (True, False)


async def test_ipv6_is_judged_too(cloud):
    """Guests on both hosts learn of the one router, and what they send each other by IPv6 passes its firewall."""
    for name, network, cidr in (("six1", RED1, "fd00:1::/64"), ("six2", RED2, "fd00:2::/64")):
        cloud.networks[name] = (cloud.networks[network][0], cidr)
    a = await cloud.boot("a", "a", RED1, "10.0.1.11", "fd00:1::11")
    b = await cloud.boot("b", "b", RED2, "10.0.2.12", "fd00:2::12")
    names = (RED1, RED2, "six1", "six2")
    icmp = {"name": "echo", "action": "Allow", "protocol": "ICMP", "ipVersion": 6, "sourceCIDR": "fd00:1::/64"}
    guarded(cloud, (group(icmp, on=names),), "r", *names, gateway="a")
    await cloud.settled()

    async def reaches() -> bool:
        return await a.reaches(b.address6)

    await eventually(reaches)
    assert not await b.reaches(a.address6)
    assert not await a.reaches(b.address)


@pytest.fixture
async def shared(prefix, three_hosts) -> AsyncIterator[RoutedCloud]:
    """Two networks on three hosts, two of which share the gateway."""
    async with routed_cloud(prefix, three_hosts) as cloud:
        cloud.network(RED1, 0x101, "10.0.1.0/24")
        cloud.network(RED2, 0x102, "10.0.2.0/24")
        yield cloud


async def has_gateway(cloud, host) -> bool:
    """Whether a host has the routers' addresses in its networks."""
    shown = [kept["addresses"] for name, kept in (await cloud.node(host).shown()).items() if "-kr" in name]
    return all(f"'10.0.{number}.1'" in str(shown) for number in (1, 2))


async def cut_off(cloud, host) -> None:
    """Cut a host off from all others."""
    node = cloud.node(host).host
    for link in ("under", "phys"):
        for namespace in (node.name, node.namespace):
            if link in (await run(("ip", "-netns", namespace, "-brief", "link"))).decode():
                await run(("ip", "-netns", namespace, "link", "set", link, "down"))


async def test_the_host_that_takes_over_judges(shared):
    """Without agents and API the standby judges, for its guests and a third host's; connections are learned again."""
    cloud = shared
    near = await cloud.boot("near", "b", RED1, "10.0.1.11")
    third = await cloud.boot("third", "c", RED2, "10.0.2.12")
    guarded(cloud, (group(tcp(80), {**ANY, "protocol": "ICMP"}),), "r", RED1, RED2, gateway="a/b")
    await cloud.settled()
    await eventually(lambda: has_gateway(cloud, "a"))
    assert not await has_gateway(cloud, "b")
    await asyncio.sleep(pair.STANDBY_DELAY)
    stream = await near.connect(third, third.address, 80)
    assert stream is not None
    assert await near.connect(third, third.address, 81, seconds=0.5) is None
    for node in cloud.nodes:
        await node.stop()
    await cut_off(cloud, "a")

    async def reaches() -> bool:
        return await third.reaches(near.address)

    await eventually(lambda: has_gateway(cloud, "b"))
    await eventually(reaches)
    assert await near.connect(third, third.address, 80)
    assert await third.connect(near, near.address, 81, seconds=0.5) is None
    assert await stream.carries(seconds=8)
    assert await stream.carries(back=True)


async def test_two_hosts_that_share_a_gateway_are_found_as_they_should_be(shared):
    """Agents that begin anew change nothing; one address and no second router answers guests of all hosts."""
    cloud = shared
    guests = [await cloud.boot(host, host, RED1, f"10.0.1.{number}") for number, host in enumerate("abc", 11)]
    target = await cloud.boot("target", "c", RED2, "10.0.2.12")
    guarded(cloud, (group(ANY),), "r", RED1, RED2, gateway="a/b")
    await cloud.settled()
    await eventually(lambda: has_gateway(cloud, "a"))
    for guest in guests:
        assert await guest.reaches(target.address)
        assert await guest.reaches(OUTSIDE)
    made = await stable(cloud)
    for node in cloud.nodes:
        held = {name: guest.port for name, guest in cloud.guests.items() if guest.node is node}
        await node.stop()
        node.start(held)
        await node.networks.ensure({port.network for port in held.values()})
    await cloud.settled()
    found = await stable(cloud)
    assert found == made, differing(made, found)


async def stable(cloud) -> dict[str, str]:
    """What is in the routers' namespaces of each host, but for how links settle by themselves."""
    shown = {
        name: str(kept)
        for node in cloud.nodes
        for name, kept in (await node.shown()).items()
        if name.startswith(node.prefix)
    }
    return {name: re.sub(r"'operstate': '\w+'", "", text) for name, text in shown.items()}


async def test_another_routers_static_route_leads_to_a_centralised_one(cloud):
    """A distributed router on a host without the centralised one sends it what its static route says, judged there."""
    cloud.network("red3", 0x103, "10.0.3.0/24")
    source = await cloud.boot("source", "b", RED1, "10.0.1.11")
    target = await cloud.boot("target", "b", "red3", "10.0.3.13")
    cloud.router("s", RED1, RED2, hosts=(1, 9), routes=(("10.0.3.0/24", "10.0.2.1"),))
    cloud.firewalls = (group(tcp(80), on=("red3",)),)
    cloud.router("r", RED2, "red3", gateway="a", routes=(("10.0.1.0/24", "10.0.2.9"),))
    await cloud.settled()
    stream = await source.connect(target, target.address, 80)
    assert stream is not None
    assert await stream.carries(back=True)
    assert await source.connect(target, target.address, 81, seconds=0.5) is None


async def test_members_of_groups_are_known_behind_a_centralised_router(cloud):
    """A rule of a security group about a group's members lets those in of networks behind the router, on any host."""
    rule = {"protocol": "TCP", "port": 80, "remoteGroup": {"name": "clients"}}
    cloud.api.put("SecurityGroup", "clients", {"ingress": [], "egress": [{"etherType": "IPv4"}]}, "red")
    cloud.api.put("SecurityGroup", "servers", {"ingress": [rule], "egress": []}, "red")
    client = await cloud.boot("client", "b", RED1, "10.0.1.11", groups=("clients",))
    server = await cloud.boot("server", "b", RED2, "10.0.2.12", groups=("servers",))
    stranger = await cloud.boot("stranger", "b", RED1, "10.0.1.13")
    guarded(cloud, (group(ANY),), "r", RED1, RED2, gateway="a")
    await cloud.settled()
    assert await client.connect(server, server.address, 80)
    assert await stranger.connect(server, server.address, 80, seconds=0.5) is None


async def test_an_agent_that_cannot_have_the_external_network_leaves_the_router_as_it_is(cloud):
    """A centralised router whose way out is not known to a new agent is neither removed nor opened."""
    a = await cloud.boot("a", "a", RED1, "10.0.1.11")
    b = await cloud.boot("b", "b", RED2, "10.0.2.12")
    guarded(cloud, (group(tcp(80)),), "r", RED1, RED2, gateway="a")
    await cloud.settled()
    stream = await a.connect(b, b.address, 80)
    node = cloud.node("a")
    await node.stop()
    cloud.api.delete("Network", cloud.external.name, cloud.external.namespace)
    node.start({"a": a.port})
    await node.networks.ensure([a.port.network])
    await node.routers.known.wait()
    await cloud.settled()
    assert await stream.carries()
    assert await stream.carries(back=True)
    assert await b.connect(a, a.address, 81, seconds=0.5) is None


def differing(made: dict[str, str], found: dict[str, str]) -> list[str]:
    """The lines of namespaces that are not as they were."""
    lines = (text.replace("\\n", "\n").replace("', '", "\n").splitlines() for text in (str(made), str(found)))
    return list(difflib.unified_diff(*lines, lineterm="", n=0))
