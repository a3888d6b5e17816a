"""A load balancer that two hosts share, on a real kernel with real HAProxy and keepalived."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from ipaddress import IPv4Address

import pytest

from kumulus_agent.failover.notices import Role
from kumulus_agent.network.command import run
from kumulus_agent.network.errors import NetworkError
from kumulus_lab.testing.routed import eventually
from kumulus_lab.testing.shared_balancers import BALANCER_ID, VIP, VIP6, SharedBalancer, shared_balancer

RED1, RED2 = "red1", "red2"
FIP = IPv4Address("203.0.113.10")
LIMIT = 10.0
"""Seconds within which the standby serves."""
BACK = 3.0
"""Seconds within which a host that comes back waits, and draws nothing to itself."""
UP = {"one": "Up", "two": "Up"}


@pytest.fixture
def hosts(three_hosts):
    """The networks are on three hosts."""
    return three_hosts


@pytest.fixture
async def balancer(cloud) -> AsyncIterator[SharedBalancer]:
    """What of the hosts' agents knows of load balancers."""
    async with shared_balancer(cloud) as made:
        yield made


async def cables(cloud, host, state) -> None:
    """Cut a host off from all others, or let it back."""
    node = cloud.node(host).host
    for link in ("under", "phys"):
        for namespace in (node.name, node.namespace):
            if link in (await run(("ip", "-netns", namespace, "-brief", "link"))).decode():
                await run(("ip", "-netns", namespace, "link", "set", link, state))


async def served(balancer, hosts="a/b", gateway=None) -> str:
    """Have it served by the first of two hosts, with a member behind a router and one beside; both check them.

    Give the id of the router.
    """
    cloud = balancer.cloud
    router_id = cloud.router("r", RED1, RED2, gateway=gateway)
    await balancer.serve(await cloud.boot("one", "c", RED2, "10.0.2.21"))
    await balancer.serve(await cloud.boot("two", "b", RED1, "10.0.1.22"))
    balancer.balance(RED1, hosts)
    first, second = (balancer.nodes[host] for host in hosts.split("/"))
    await eventually(first.serves)

    async def checked() -> bool:
        return [await item.checked() for item in (first, second)] == [UP, UP]

    await eventually(checked, seconds=20)
    assert not await second.serves()
    return router_id


async def test_the_standby_serves_without_agents_and_api(cloud, balancer):
    """When the host is cut off that serves, clients anywhere are answered by the other one, and nobody tells them so.

    Those in the network on a third host and on the standby, behind a router on either, and outside by a floating
    address. What has come back waits.
    """
    router_id = await served(balancer, gateway="a/b")
    cloud.floating("f", str(FIP), router_id, "a/b", fixed=str(VIP))
    behind = await cloud.boot("behind", "c", RED2, "10.0.2.13")
    near = await cloud.boot("near", "b", RED1, "10.0.1.12")
    near_behind = await cloud.boot("nearbehind", "b", RED2, "10.0.2.12")
    far = await cloud.boot("far", "a", RED1, "10.0.1.11")
    await cloud.settled()
    clients = [behind, near, near_behind]
    for client in (*clients, far):
        assert {await balancer.answers(client) for _ in range(4)} == {"one", "two"}, client
    await balancer.answers_within(cloud.outside, LIMIT, FIP)
    assert set(balancer.sources) == {str(VIP)}
    for node in (*cloud.nodes, *balancer.nodes.values()):
        await node.stop()
    begun = asyncio.get_running_loop().time()
    await cables(cloud, "a", "down")
    lasted = [await balancer.answers_within(client, LIMIT) for client in clients]
    lasted.append(await balancer.answers_within(cloud.outside, LIMIT, FIP))
    print(f"served again after {asyncio.get_running_loop().time() - begun:.1f} s: {lasted}")
    assert asyncio.get_running_loop().time() - begun < LIMIT
    assert set(balancer.sources) == {str(VIP)}

    await cables(cloud, "a", "up")
    await gives_way(balancer, "a")
    assert await balancer.nodes["b"].serves()
    for client in (*clients, far):
        await balancer.answers_within(client, BACK)
    assert all([await balancer.answers(client) for _ in range(5) for client in (*clients, far)])
    assert not await balancer.nodes["a"].serves()


async def test_the_assignment_follows_without_a_second_interruption(cloud, balancer):
    """When the operator makes the standby the host, and another the standby, who serves stays, and its talks go on.

    The client is on a host without any port in the network. Status and members' states are told by the one that
    serves, and by nobody else.
    """
    await served(balancer)
    third = await cloud.boot("third", "c", RED2, "10.0.2.13")
    await eventually(lambda: told_by(balancer, "a"))
    assert balancer.nodes["a"].balancers.taken_over == balancer.nodes["b"].balancers.taken_over == ()
    await cables(cloud, "a", "down")
    await balancer.answers_within(third, LIMIT)
    await eventually(lambda: told_by(balancer, "b"))
    assert balancer.nodes["b"].balancers.taken_over == (BALANCER_ID,)
    await cables(cloud, "a", "up")
    await gives_way(balancer, "a")
    await balancer.answers_within(third, BACK)
    for hosts, balancer.priority in (("b/a", 101), ("b/c", 103)):
        balancer.balance(RED1, hosts)
        waiting = balancer.nodes[hosts[-1]]

        async def checked(waiting=waiting) -> bool:
            return await waiting.checked() == UP

        lost = 0
        async with asyncio.timeout(20):
            while not await there(checked):
                lost += await balancer.answers(third) is None
                assert not await balancer.nodes["a"].serves()
        assert not lost
        await cloud.settled()
        assert await balancer.nodes["b"].serves()
        assert not await waiting.serves()
    assert balancer.nodes["b"].balancers.taken_over == ()
    await eventually(lambda: left(balancer, "a"))
    assert await told_by(balancer, "b")
    # Alone it goes on with the addresses for good.
    balancer.balance(RED1, "b")
    await eventually(lambda: left(balancer, "c"))
    assert await balancer.answers_within(third, LIMIT) < 3
    assert set(balancer.sources) <= {str(VIP)}


async def gives_way(balancer, host) -> None:
    """Wait until a host that is back has heard of the other, and has the address no more."""

    async def waits() -> bool:
        return not await balancer.nodes[host].serves()

    await eventually(waits, seconds=BACK)


async def there(holds) -> bool:
    """Whether something holds that may not be there yet."""
    try:
        return await holds()
    except NetworkError:
        return False


async def told_by(balancer, host) -> bool:
    """Whether a host told last that it serves, and that all members are well."""
    status = balancer.status()
    serving = [item["status"] for item in status.get("conditions", []) if item["type"] == "Serving"]
    states = {item["name"]: item["state"] for item in status.get("members", [])}
    name = balancer.cloud.node(host).host.name
    return (status.get("host"), serving, states) == (name, ["True"], UP)


async def left(balancer, host) -> bool:
    """Whether nothing of the load balancer is on a host."""
    node = balancer.nodes[host]
    units = [unit for unit in node.services.observe() if unit.startswith("kumulus-lb-")]
    path = node.balancers._places.path(BALANCER_ID)
    return not (units or node.keepalived.names() or path.exists())


async def test_a_killed_keepalived_gives_it_to_the_other_host(cloud, balancer):
    """Its host goes on by the other one; what is started again waits, and has the address no more."""
    await served(balancer)
    far = await cloud.boot("far", "a", RED1, "10.0.1.11")
    assert await balancer.answers(far)
    (record,) = balancer.nodes["a"].keepalived._services.observe().values()
    os.kill(record.process.pid, signal.SIGKILL)
    await eventually(balancer.nodes["b"].serves)

    async def waits() -> bool:
        role = balancer.nodes["a"].balancers._members.role(BALANCER_ID)
        return role is Role.BACKUP and not await balancer.nodes["a"].serves()

    await eventually(waits)
    assert await balancer.answers_within(far, LIMIT) < LIMIT


async def test_another_agent_finds_all_as_it_should_be(cloud, balancer):
    """Agents that begin anew change nothing, and nobody is interrupted; a deleted load balancer leaves nothing."""
    await served(balancer, gateway="a/b")
    third = await cloud.boot("third", "c", RED1, "10.0.1.13")
    await cloud.settled()
    made = {host: await shown(node) for host, node in balancer.nodes.items() if host != "c"}
    held = {node.host.name: {n: g.port for n, g in cloud.guests.items() if g.node is node} for node in cloud.nodes}
    for node in (*cloud.nodes, *balancer.nodes.values()):
        await node.stop()
    for node in balancer.nodes.values():
        node.node.start(held[node.node.host.name])
        node.start()
        await node.node.networks.ensure({port.network for port in held[node.node.host.name].values()})
    async with asyncio.timeout(10):
        for node in balancer.nodes.values():
            await node.balancers.known.wait()
    lost = 0
    for _ in range(20):
        lost += await balancer.answers(third) is None
        await asyncio.sleep(0.1)
    await cloud.settled()
    for node in balancer.nodes.values():
        await node.balancers.sweep()
        await node.node.routers.sweep()
        await node.node.networks.sweep()
    assert not lost
    assert {host: await shown(node) for host, node in balancer.nodes.items() if host != "c"} == made
    assert await balancer.nodes["a"].serves()
    assert not await balancer.nodes["b"].serves()
    cloud.api.delete("LoadBalancer", "lb")
    for host in "ab":
        await eventually(lambda host=host: left(balancer, host))


async def shown(node) -> dict[str, str]:
    """What is in a load balancer's namespace."""
    commands = ("link", "address", "rule", "route show table all", "-6 rule", "neighbour show nud permanent")
    return {command: await node.inside("ip", *command.split()) for command in commands}


async def test_both_families_go_over(cloud, balancer):
    """An IPv6 address is where the IPv4 address is, and its members see it and no other."""
    balancer.dual = True
    guest = await cloud.boot("one", "c", RED1, "10.0.1.21", "fd00:1::21")
    await balancer.serve(guest)
    client = await cloud.boot("client", "b", RED1, "10.0.1.12", "fd00:1::12")
    balancer.balance(RED1, "a/b")
    await balancer.answers_within(client, LIMIT, VIP6)
    balancer.sources.clear()
    assert await balancer.answers(client, VIP6)
    await cables(cloud, "a", "down")
    await balancer.answers_within(client, LIMIT, VIP6)
    assert await balancer.answers(client)
    others = [node for host, node in balancer.nodes.items() if host == "b"]
    assert f"inet6 {VIP6}/128" in await others[0].inside("ip", "address", "show", "dev", "eth0")


async def test_a_host_whose_haproxy_is_gone_gives_it_away_without_agents(cloud, balancer):
    """Where HAProxy and agents have ended, and keepalived lives, the other host serves; HAProxy back, the host waits.

    A change of the load balancer, by which HAProxy begins a new worker, costs no takeover.
    """
    await served(balancer)
    third = await cloud.boot("third", "c", RED1, "10.0.1.13")
    await cloud.settled()
    assert await balancer.answers(third)
    await balancer.serve(await cloud.boot("three", "c", RED1, "10.0.1.23"))
    balancer.balance(RED1, "a/b")

    async def all_three() -> bool:
        return [len(await balancer.nodes[host].checked()) for host in "ab"] == [3, 3]

    await eventually(lambda: there(all_three), seconds=20)
    pause = asyncio.get_running_loop().time() + 3 * 2  # two looks in a row, and more
    while asyncio.get_running_loop().time() < pause:
        assert await balancer.answers(third)
        assert await balancer.nodes["a"].serves()
    for node in (*cloud.nodes, *balancer.nodes.values()):
        await node.stop()
    services = balancer.nodes["a"].services.observe().items()
    (record,) = [item for unit, item in services if unit.startswith("kumulus-lb-")]
    workers = (await run(("pgrep", "--parent", str(record.process.pid)))).split()
    begun = asyncio.get_running_loop().time()
    for number in (record.process.pid, *map(int, workers)):
        os.kill(number, signal.SIGKILL)
    lasted = await balancer.answers_within(third, LIMIT)
    print(f"served again after {asyncio.get_running_loop().time() - begun:.1f} s")
    assert lasted < LIMIT
    assert await balancer.nodes["b"].serves()
    await eventually(lambda: gone_from(balancer, "a"))
    await balancer.nodes["a"].services.ensure(record.spec)
    pause = asyncio.get_running_loop().time() + 3
    while asyncio.get_running_loop().time() < pause:
        assert await balancer.answers(third)
        assert not await balancer.nodes["a"].serves()


async def gone_from(balancer, host) -> bool:
    """Whether a host does not have the address."""
    return not await balancer.nodes[host].serves()
