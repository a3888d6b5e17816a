"""UDP listeners of load balancers on hosts: real rules in real namespaces, between guests whose ports are judged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from kumulus_agent.load_balancers.udp import rules
from kumulus_agent.network.command import run
from kumulus_lab.testing.balanced import VIP, BalancedCloud, balanced_cloud
from kumulus_lab.testing.datagrams import MEMBER_PORT, PORT, DatagramMembers, Sender, tally

CHECK = {"type": "UDPConnect", "intervalSeconds": 1, "timeoutSeconds": 1, "rise": 1, "fall": 1}
UP = {"one": "Up", "two": "Up", "three": "Up"}
UNCHECKED = dict.fromkeys(UP, "NotChecked")


@pytest.fixture
async def cloud(hosts) -> AsyncIterator[BalancedCloud]:
    """Two hosts with three machines and a client."""
    async with balanced_cloud(hosts) as made:
        yield made


@pytest.fixture
async def members(cloud) -> AsyncIterator[DatagramMembers]:
    """The three take datagrams."""
    made = DatagramMembers()
    for name in UP:
        await made.serve(name, cloud.members[name])
    yield made
    made.close()


def balance(cloud: BalancedCloud, *names: str, weights: dict[str, int] | None = None, **listener) -> None:
    """Have datagrams led to members, or be changed."""
    found = [
        {
            "name": name,
            "address": str(cloud.members[name].port.addresses[0]),
            "port": MEMBER_PORT,
            "weight": (weights or {}).get(name, 1),
        }
        for name in names
    ]
    cloud.balance(*names, **{"name": "dns", "protocol": "UDP", "port": PORT, "members": found} | listener)


def namespace_of(cloud: BalancedCloud) -> str:
    """The load balancer's namespace."""
    return cloud.nodes[cloud.at].balancers._places.path("00000000-0000-4000-8000-0000000000b1").name


async def inside(cloud: BalancedCloud, *argv: str) -> str:
    """Run a command in the load balancer's namespace."""
    return (await run(("ip", "netns", "exec", namespace_of(cloud), *argv))).decode()


async def flows(cloud: BalancedCloud) -> list[str]:
    """What is tracked in the load balancer's namespace."""
    return sorted((await inside(cloud, "conntrack", "--dump")).splitlines())


async def test_datagrams_go_to_members_in_turn(cloud, members):
    """Each client's port goes to the next member, in proportion to weights; members see the load balancer's address.

    Only datagrams are tracked, and nothing is open but the port that is listened on.
    """
    balance(cloud, "one", "two", "three")
    await cloud.until_states(**UNCHECKED)
    client = cloud.members["client"]
    assert await tally(client, 12) == {"one": 4, "two": 4, "three": 4}
    assert {source for seen in members.seen.values() for source, _ in seen.sources} == {VIP}
    assert all(port >= 10240 for seen in members.seen.values() for _, port in seen.sources)
    balance(cloud, "one", "two", weights={"one": 3})
    await cloud.until_states(one="NotChecked", two="NotChecked")
    assert await tally(client, 12) == {"one": 9, "two": 3}
    balance(cloud, "one", "two", weights={"two": 0})
    await until_chosen(cloud, {"one"})
    with Sender(client, (VIP, PORT + 1)) as other, pytest.raises(TimeoutError):
        await other.asks(1)
    assert {line.split()[0] for line in await flows(cloud)} == {"udp"}


async def until_chosen(cloud: BalancedCloud, names: set[str]) -> None:
    """Wait until what begins goes to these alone."""
    async with asyncio.timeout(10):
        while set(await tally(cloud.members["client"], 4)) != names:
            pass


async def test_a_clients_port_stays_where_it_began(cloud, members):
    """What follows on a datagram goes to the same member, whatever comes to the others, and changes do not end it."""
    balance(cloud, "one", "two")
    await cloud.until_states(one="NotChecked", two="NotChecked")
    client = cloud.members["client"]
    with Sender(client) as first, Sender(client) as second:
        began = [await sender.asks() for sender in (first, second)]
        assert set(began) == {"one", "two"}
        balance(cloud, "one", "two", "three", weights={"two": 5})
        await cloud.until_states(**UNCHECKED)
        for _ in range(3):
            assert [await sender.asks() for sender in (first, second)] == began
        # A member without weight keeps what it has.
        balance(cloud, "one", "two", weights={"two": 0})
        await until_chosen(cloud, {"one"})
        assert [await sender.asks() for sender in (first, second)] == began


async def test_a_source_keeps_its_member(cloud, members):
    """With SourceIP all ports of a client go to one member, and to another alone when that is gone."""
    balance(cloud, "one", "two", "three", algorithm="SourceIP")
    await cloud.until_states(**UNCHECKED)
    client = cloud.members["client"]
    (name,) = await tally(client, 10)
    other = min(set(UP) - {name})
    balance(cloud, *sorted(set(UP) - {other}), algorithm="SourceIP")
    await cloud.until_states(**dict.fromkeys(set(UP) - {other}, "NotChecked"))
    assert await tally(client, 5) == {name: 5}
    balance(cloud, *sorted(set(UP) - {name}), algorithm="SourceIP")
    await cloud.until_states(**dict.fromkeys(set(UP) - {name}, "NotChecked"))
    (moved,) = await tally(client, 5)
    assert moved != name


async def test_the_clients_of_a_dead_member_come_to_others(cloud, members):
    """A member whose port is closed is told to be down once, its clients' ports go on at others, and only they move."""
    balance(cloud, "one", "two", "three", healthCheck=CHECK)
    await cloud.until_states(**UP)
    client = cloud.members["client"]
    senders = [Sender(client) for _ in range(6)]
    began = [await sender.asks() for sender in senders]
    kept = {line for line in await flows(cloud) if str(cloud.members["two"].port.addresses[0]) not in line}
    assert len(kept) == 4
    members.stop("two")
    await cloud.until_states(**UP | {"two": "Down"})
    others = {"one", "three"}
    for sender, name in zip(senders, began, strict=True):
        found = await sender.asks_until(others)
        assert name in {found, "two"}
    ports = {part for line in kept for part in line.split() if part.startswith("sport=")}
    assert ports <= {part for line in await flows(cloud) for part in line.split()}
    assert set(await tally(client, 6)) == others
    written = len(cloud.api.statuses)
    await members.serve("two", cloud.members["two"])
    await cloud.until_states(**UP)
    await until_chosen(cloud, set(UP))
    assert len(cloud.api.statuses) == written + 1
    assert members.seen["two"].empty
    for sender in senders:
        sender.__exit__()


async def test_a_member_that_is_taken_away_loses_its_clients(cloud, members):
    """The ports that went to a member which is none any more go on at another one, those of others where they were."""
    balance(cloud, "one", "two")
    await cloud.until_states(one="NotChecked", two="NotChecked")
    client = cloud.members["client"]
    with Sender(client) as first, Sender(client) as second:
        by_name = {await sender.asks(): sender for sender in (first, second)}
        balance(cloud, "one")
        await cloud.until_states(one="NotChecked")
        assert await by_name["two"].asks_until({"one"}) == "one"
        assert await by_name["one"].asks() == "one"
        address = str(cloud.members["two"].port.addresses[0])
        assert not [line for line in await flows(cloud) if address in line]


async def test_members_are_checked_by_connections_too(cloud, members):
    """A check of type TCP asks the same port by TCP, as HAProxy does; who takes no connection gets no datagrams."""
    tcp = [
        {"name": name, "address": str(cloud.members[name].port.addresses[0]), "port": 8080} for name in ("one", "two")
    ]
    balance(cloud, "one", "two", members=tcp, healthCheck=CHECK | {"type": "TCP"})
    await cloud.until_states(one="Up", two="Up")
    await cloud.members["two"].close()
    await cloud.until_states(one="Up", two="Down")
    ruled = await inside(cloud, "nft", "list", "table", "inet", rules.TABLE)
    async with asyncio.timeout(5):
        while str(cloud.members["two"].port.addresses[0]) in ruled:
            ruled = await inside(cloud, "nft", "list", "table", "inet", rules.TABLE)
    assert str(cloud.members["one"].port.addresses[0]) in ruled


async def test_backups_serve_when_no_other_does_and_nobody_is_said(cloud, members):
    """A backup gets datagrams while no other member is well; where none is, clients are told so at once."""
    balance(cloud, "one", "two", healthCheck=CHECK)
    assignment = cloud.api.objects["LoadBalancer", "red", "lb"]["spec"]["assignment"]
    assignment["listeners"][0]["members"][1]["backup"] = True
    cloud.api.put("LoadBalancer", "lb", {"assignment": assignment})
    await cloud.until_states(one="Up", two="Up")
    client = cloud.members["client"]
    await until_chosen(cloud, {"one"})
    members.stop("one")
    await cloud.until_states(one="Down", two="Up")
    with Sender(client) as sender:
        assert await sender.asks_until({"two"}) == "two"
    members.stop("two")
    await cloud.until_states(one="Down", two="Down")
    async with asyncio.timeout(10):
        while True:
            with Sender(client) as sender:
                try:
                    await sender.asks(0.5)
                except ConnectionRefusedError:
                    return
                except TimeoutError:
                    continue


async def test_a_second_time_changes_nothing(cloud, members):
    """What is as it should be is not touched, also by a new agent; a listener that is gone leaves no rules.

    A member that is down is so for the new agent, which has not asked it yet.
    """
    members.stop("three")
    balance(cloud, "one", "two", "three", healthCheck=CHECK)
    await cloud.until_states(**UP | {"three": "Down"})
    node, client = cloud.nodes[0], cloud.members["client"]
    with Sender(client) as sender:
        name = await sender.asks()
        before = await inside(cloud, "nft", "--handle", "list", "ruleset")
        node.balancers.queue.add("00000000-0000-4000-8000-0000000000b1")
        await _idle(node)
        assert await inside(cloud, "nft", "--handle", "list", "ruleset") == before
        await node.stop()
        assert await sender.asks() == name
        node.start({name: item.port for name, item in cloud.members.items() if item.node is node})
        await node.balancers.known.wait()
        await _idle(node)
        assert await inside(cloud, "nft", "--handle", "list", "ruleset") == before
        assert await sender.asks() == name
    cloud.balance("one")
    await cloud.until_states(one="NotChecked")
    assert not await inside(cloud, "nft", "list", "ruleset")
    assert (await inside(cloud, "sysctl", "-n", "net.ipv4.ip_forward")).strip() == "0"


async def test_nothing_is_left_of_one_that_is_gone(cloud, members):
    """A load balancer that is deleted leaves no process, namespace or check."""
    balance(cloud, "one", healthCheck=CHECK)
    await cloud.until_states(one="Up")
    node = cloud.nodes[0]
    cloud.api.delete("LoadBalancer", "lb")
    async with asyncio.timeout(20):
        while node.processes():  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.02)
        await _idle(node)
    assert namespace_of(cloud) not in (await run(("ip", "netns"))).decode()
    assert not node.balancers._datagrams._checks._tasks
    assert not list(node.directory.iterdir())


async def test_a_machine_that_is_gone_is_no_neighbour(cloud, members):
    """A machine that nobody finds is down, where it is waited for as long as the kernel asks for it."""
    balance(cloud, "one", "two", healthCheck=CHECK | {"intervalSeconds": 4, "timeoutSeconds": 4})
    await cloud.until_states(one="Up", two="Up")
    gone = cloud.members["two"]
    link = gone.port.name
    await run(("ip", "-netns", gone.namespace, "link", "set", link, "down"))
    await inside(cloud, "ip", "neighbour", "flush", "all")
    await cloud.until_states(one="Up", two="Down")
    await until_chosen(cloud, {"one"})


async def test_only_who_is_allowed_may_send(cloud, members):
    """Clients that allowedCIDRs does not name are not passed on."""
    balance(cloud, "one", allowedCIDRs=["10.0.0.16/28"])
    await cloud.until_states(one="NotChecked")
    client = cloud.members["client"]
    with Sender(client) as sender:
        assert await sender.asks_until({"one"})
    balance(cloud, "one", allowedCIDRs=["10.0.0.0/28"])
    async with asyncio.timeout(10):
        while True:
            with Sender(client) as sender:
                try:
                    await sender.asks(0.5)
                except TimeoutError:
                    return


async def test_a_listener_takes_so_many_clients(cloud, members):
    """Of more clients' ports than a listener takes the others are dropped, and nothing is noted of them."""
    balance(cloud, "one", "two", connectionLimit=5)
    await cloud.until_states(one="NotChecked", two="NotChecked")
    client = cloud.members["client"]
    senders = [Sender(client) for _ in range(8)]
    answered = 0
    for sender in senders:
        try:
            await sender.asks(0.3)
            answered += 1
        except TimeoutError:
            pass
    assert answered == 5
    assert len(await flows(cloud)) == 5
    for sender in senders:
        sender.__exit__()


async def _idle(node) -> None:
    async with asyncio.timeout(20):
        quiet = 0
        while quiet < 5:
            await asyncio.sleep(0.02)
            queues = (node.networks.queue, node.balancers.queue)
            quiet = 0 if any(queue._dirty or queue._processing for queue in queues) else quiet + 1
