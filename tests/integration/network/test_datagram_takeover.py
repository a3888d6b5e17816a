"""UDP listeners of a load balancer that two hosts share, in both families, on a real kernel with real keepalived."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest

from kumulus_agent.network.command import run
from kumulus_lab.testing.datagrams import MEMBER_PORT, PORT, DatagramMembers, Sender
from kumulus_lab.testing.routed import RoutedCloud, eventually, routed_cloud
from kumulus_lab.testing.shared_balancers import BALANCER_ID, VIP, VIP6, SharedBalancer, shared_balancer

RED = "red1"
LIMIT = 10.0
CHECK = {"type": "UDPConnect", "intervalSeconds": 1, "timeoutSeconds": 1, "rise": 1, "fall": 1}


@pytest.fixture
async def cloud(prefix, three_hosts) -> AsyncIterator[RoutedCloud]:
    """A network on three hosts."""
    async with routed_cloud(prefix, three_hosts) as cloud:
        cloud.network(RED, 0x101, "10.0.1.0/24")
        yield cloud


@pytest.fixture
async def balancer(cloud) -> AsyncIterator[SharedBalancer]:
    """What of the hosts' agents knows of load balancers."""
    async with shared_balancer(cloud) as made:
        made.dual = True
        yield made


@pytest.fixture
async def members(cloud) -> AsyncIterator[DatagramMembers]:
    """Two guests with both families that take datagrams."""
    made = DatagramMembers()
    for number, name in enumerate(("one", "two"), 1):
        await made.serve(name, await cloud.boot(name, "bc"[number - 1], RED, f"10.0.1.2{number}", f"fd00:1::2{number}"))
    yield made
    made.close()


def balance(balancer: SharedBalancer, hosts: str) -> None:
    """Have the members get datagrams."""
    balancer.balance(RED, hosts)
    assignment = balancer.cloud.api.objects["LoadBalancer", "red", "lb"]["spec"]["assignment"]
    found = [
        {"name": name, "address": f"10.0.1.2{n}", "secondAddress": f"fd00:1::2{n}", "port": MEMBER_PORT}
        for n, name in enumerate(("one", "two"), 1)
    ]
    listener = {"name": "dns", "protocol": "UDP", "port": PORT, "algorithm": "RoundRobin", "healthCheck": CHECK}
    assignment["listeners"] = [listener | {"members": found}]
    balancer.cloud.api.put("LoadBalancer", "lb", {"assignment": assignment})


async def answering(client, address: object, count: int = 4) -> set[str]:
    """Who answers a client's ports at an address."""
    found = set()
    for _ in range(count):
        with Sender(client, (str(address), PORT)) as sender:
            found.add(await sender.asks())
    return found


async def cut_off(host) -> None:
    """Cut a host off from all others."""
    for namespace in (host.name, host.namespace):
        if "under" in (await run(("ip", "-netns", namespace, "-brief", "link"))).decode():
            await run(("ip", "-netns", namespace, "link", "set", "under", "down"))


async def ruled(balancer: SharedBalancer, host: str) -> str:
    """The rules of a host's namespace; empty while it is not there."""
    path = balancer.nodes[host].balancers._places.path(BALANCER_ID)
    return await balancer.nodes[host].inside("nft", "list", "ruleset") if path.exists() else ""


async def test_datagrams_of_both_families_go_over(cloud, balancer, members):
    """The standby has the rules and knows who is well; a client's port goes on there when the host is cut off.

    Members see the load balancer's address of the family in which a datagram came, and nobody else's.
    """
    client = await cloud.boot("client", "c", RED, "10.0.1.13", "fd00:1::13")
    balance(balancer, "a/b")
    await eventually(balancer.nodes["a"].serves)
    for address in (VIP, VIP6):
        with Sender(client, (str(address), PORT)) as sender:
            await sender.asks_until({"one", "two"})
        assert await answering(client, address) == {"one", "two"}
    assert {source for seen in members.seen.values() for source, _ in seen.sources} == {str(VIP), str(VIP6)}

    members.stop("two")

    async def known() -> bool:
        texts = [await ruled(balancer, host) for host in "ab"]
        return all("10.0.1.21" in text and "10.0.1.22" not in text for text in texts)

    await eventually(known)
    assert not await balancer.nodes["b"].serves()
    with Sender(client, (str(VIP), PORT)) as sender:
        assert await sender.asks_until({"one"})
        for node in (*cloud.nodes, *balancer.nodes.values()):
            await node.stop()
        await cut_off(cloud.node("a").host)
        assert await sender.asks_until({"one"}, LIMIT) == "one"
    assert await balancer.nodes["b"].serves()
    for address in (VIP, VIP6):
        assert await answering(client, address) == {"one"}
    assert {source for seen in members.seen.values() for source, _ in seen.sources} == {str(VIP), str(VIP6)}


async def test_datagrams_alone_need_no_haproxy(cloud, balancer, members):
    """A load balancer that takes datagrams alone stays where it is when HAProxy ends there."""
    client = await cloud.boot("client", "c", RED, "10.0.1.13", "fd00:1::13")
    balance(balancer, "a/b")
    await eventually(balancer.nodes["a"].serves)
    with Sender(client, (str(VIP), PORT)) as sender:
        await sender.asks_until({"one", "two"})
    for node in (*cloud.nodes, *balancer.nodes.values()):
        await node.stop()
    services = balancer.nodes["a"].services.observe().items()
    (record,) = [item for unit, item in services if unit.startswith("kumulus-lb-")]
    os.kill(record.process.pid, signal.SIGKILL)
    pause = asyncio.get_running_loop().time() + 4
    while asyncio.get_running_loop().time() < pause:
        assert await answering(client, VIP, 2)
    assert await balancer.nodes["a"].serves()
