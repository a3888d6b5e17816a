"""Traces to and from what two hosts share: they lead to the one that has it now, and say where nobody has."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from ipaddress import IPv4Address
from typing import Any

import pytest

from kumulus_agent.failover.notices import Role
from kumulus_api.network_trace import HopKind, LegStart, TracedPacket, TraceLeg, TraceVerdict
from kumulus_lab.testing.packet_traces import There, follow, told
from kumulus_lab.testing.routed import OUTSIDE, RoutedCloud, eventually
from kumulus_lab.testing.shared_balancers import VIP, SharedBalancer, shared_balancer
from kumulus_operator.traces.world import Asked

RED1, RED2 = "red1", "red2"
FIP = "203.0.113.10"
FIP_ADDRESS = IPv4Address(FIP)
PASSED, DROPPED = TraceVerdict.PASSED, TraceVerdict.DROPPED


@pytest.fixture
def hosts(three_hosts):
    """The networks are on three hosts."""
    return three_hosts


@pytest.fixture
async def balancer(cloud) -> AsyncIterator[SharedBalancer]:
    """A load balancer of hosts a and b, with a member on c, and a router that a leads out."""
    async with shared_balancer(cloud) as made:
        cloud.router("r", RED1, RED2, gateway="a/b")
        await made.serve(await cloud.boot("one", "c", RED2, "10.0.2.21"))
        made.balance(RED1, "a/b")
        await eventually(made.nodes["a"].serves)
        yield made


def places(balancer: SharedBalancer) -> dict[str, Any]:
    """Give where load balancers are on each host."""
    return {name: node.balancers._places._name for name, node in balancer.nodes.items()}


async def from_vip(balancer: SharedBalancer, *hosts: str) -> There:
    """Trace what the load balancer sends to its member; the first of the hosts is asked first."""
    cloud = balancer.cloud
    first, *others = (cloud.node(name).host.name for name in hosts)
    packet = TracedPacket(source=str(VIP), destination="10.0.2.21", protocol=6, first=40000, second=8080)
    leg = TraceLeg(number=1, start=LegStart.PORT, port="lb-vip", packet=packet, first=packet, others=others)
    return await follow(cloud, Asked(first, leg), **places(balancer))


async def led_by(cloud: RoutedCloud, name: str) -> bool:
    """Tell whether a host leads the one router that it shares."""
    keepalived = cloud.node(name).keepalived
    return [keepalived.role(item) for item in keepalived.names()] == [Role.MASTER]


async def to_vip(balancer: SharedBalancer, source: str) -> There:
    """Trace a connection to the load balancer, and see that what is said is what a client hears."""
    there = await told(balancer.cloud, source, str(VIP), 80, **places(balancer))
    heard = await balancer.answers(balancer.cloud.guests[source])
    assert there.answered is (heard is not None), there
    return there


async def test_a_trace_follows_the_host_that_has_the_address(cloud, balancer):
    """From a third host, behind a router, from the host that serves and from the one that waits: there and back.

    After a takeover they lead to the other one, as do those that the load balancer sends; where both have lost it, it
    is said that nobody has it.
    """
    for number, (name, host, network) in enumerate(
        (("third", "c", RED1), ("behind", "c", RED2), ("far", "a", RED1), ("near", "b", RED1)), start=11
    ):
        await cloud.boot(name, host, network, f"10.0.{network[-1]}.{number}")
    await cloud.settled()
    clients = ("third", "behind", "far", "near")
    for serving, waiting in (("a", "b"), ("b", "a")):
        node = cloud.node(serving).host.name
        for name in clients:
            await balancer.answers_within(cloud.guests[name], 10)
            there = await to_vip(balancer, name)
            assert there.answered, there
            held = [hop for hop in there.hops if "this one has 10.0.1.30 now" in hop.message]
            assert [(hop.host, hop.what, hop.name) for hop in held] == [
                (node, HopKind.DESTINATION_PORT, "red/lb-vip")
            ], there
        for hosts in ((serving, waiting), (waiting, serving)):
            there = await from_vip(balancer, *hosts)
            assert there.answered, there
            assert there.hops[-1].host == cloud.node("c").host.name
            waits = [hop.host for hop in there.hops if "waits to take it over" in hop.message]
            assert waits == ([cloud.node(waiting).host.name] if hosts[0] == waiting else [])
        if serving == "a":
            await ended(balancer, "a")
            await eventually(balancer.nodes["b"].serves, 15)
    await ended(balancer, "b")
    there = await from_vip(balancer, "a", "b")
    assert (there.verdict, there.last.what) == (DROPPED, HopKind.SOURCE_PORT), there
    assert "nor is it anywhere else" in there.last.message
    there = await to_vip(balancer, "third")
    assert (there.verdict, there.last.what) == (DROPPED, HopKind.DESTINATION_PORT), there
    assert "has it not" in there.last.message


async def ended(balancer: SharedBalancer, host: str) -> None:
    """End keepalived on a host for good, with the agent that would begin it again."""
    node = balancer.nodes[host]
    await node.stop()
    for name in node.keepalived.names():
        await node.keepalived.absent(name)

    async def without() -> bool:
        return not await node.serves()

    await eventually(without)


async def test_answers_from_outside_come_to_the_host_that_leads_out_now(cloud, balancer):
    """Where the standby has taken over the gateway, answers and what is sent to a floating address come by it."""
    router_id = "00000000-0000-4000-8000-000000000114"
    client = await cloud.boot("client", "c", RED1, "10.0.1.11")
    cloud.floating("f", FIP, router_id, "a/b", fixed=str(VIP))
    await cloud.settled()
    for leads in ("a", "b"):
        node = cloud.node(leads).host.name

        await eventually(lambda: client.reaches(OUTSIDE), 15)
        there = await told(cloud, "client", str(OUTSIDE), 80, **places(balancer))
        assert there.answered, there
        came = [hop.host for hop in there.back if "from the physical network" in hop.message]
        assert came == [node], there
        there = await told(cloud, "client", FIP, 80, **places(balancer))
        heard = await balancer.answers(client, FIP_ADDRESS)
        assert there.answered is (heard is not None), there
        if leads == "a":
            keepalived = cloud.node("a").keepalived
            await cloud.node("a").stop()
            for name in keepalived.names():
                await keepalived.absent(name)


async def test_a_centralised_router_is_followed_to_the_host_that_has_it(cloud):
    """Before the API knows of a takeover, packets and answers are led to the router where it is, as guests find it."""
    rules = [{"name": "any", "action": "Allow"}]
    cloud.firewalls = ({"group": "in", "interfaces": [RED1, RED2], "ingress": rules, "egress": rules},)
    cloud.router("r", RED1, RED2, gateway="a/b")
    client = await cloud.boot("client", "c", RED1, "10.0.1.11")
    server = await cloud.boot("server", "c", RED2, "10.0.2.12")
    await cloud.settled()
    for leads in ("a", "b"):
        # Guests that know its MAC are led on by a router that has given its addresses away, until another has them.
        await eventually(partial(led_by, cloud, leads), 20)
        await eventually(lambda: client.reaches(server.address), 20)
        there = await told(cloud, "client", str(server.address), protocol=1)
        assert there.answered, there
        for hops in (there.hops, there.back):
            routed = {hop.host for hop in hops if hop.what is HopKind.ROUTER}
            assert routed == {cloud.node(leads).host.name}, there
        keepalived = cloud.node(leads).keepalived
        await cloud.node(leads).stop()
        for name in keepalived.names():
            await keepalived.absent(name)
    assert not await client.reaches(server.address)
    there = await told(cloud, "client", str(server.address), protocol=1)
    assert (there.verdict, there.last.what) == (DROPPED, HopKind.NETWORK), there
    assert "nobody here who may have 10.0.1.1 answers for it, nor is it anywhere else" in there.last.message
