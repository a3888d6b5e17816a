"""Load balancers on hosts: real HAProxy in real namespaces, between guests whose ports are judged."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from ipaddress import IPv4Address

import pytest

from kumulus_agent.network.command import run
from kumulus_lab.testing.balanced import VIP, BalancedCloud, Member, balanced_cloud, self_signed

CHECK = {"type": "TCP", "intervalSeconds": 1, "timeoutSeconds": 1, "rise": 1, "fall": 1}
UP = {"one": "Up", "two": "Up", "three": "Up"}


@pytest.fixture
async def cloud(hosts) -> AsyncIterator[BalancedCloud]:
    """Two hosts with three members and a client."""
    async with balanced_cloud(hosts) as made:
        yield made


async def test_round_robin_spreads(cloud):
    """Connections go to the members in turn, on whatever host these are, in proportion to their weights."""
    cloud.balance("one", "two", "three", healthCheck=CHECK)
    await cloud.until_states(**UP)
    assert await cloud.tally(cloud.members["client"], 12) == {"one": 4, "two": 4, "three": 4}


async def test_least_connections_go_where_the_fewest_are(cloud):
    """The next connection goes to a member that has fewer than the others."""
    cloud.balance("one", "two", "three", algorithm="LeastConnections", healthCheck=CHECK)
    await cloud.until_states(**UP)
    client = cloud.members["client"]
    talks = [await cloud.talk(client) for _ in range(6)]
    for talk in [talk for talk in talks if talk.member == "two"]:
        await talk.end()
    gone = [talk for talk in talks if talk.member != "two"]
    assert len(gone) == 4
    more = [await cloud.talk(client) for _ in range(2)]
    assert [talk.member for talk in more] == ["two", "two"]
    for talk in (*gone, *more):
        talk.close()


async def test_a_source_keeps_its_member(cloud):
    """With SourceIP all connections of a client go to one member."""
    cloud.balance("one", "two", "three", algorithm="SourceIP", healthCheck=CHECK)
    await cloud.until_states(**UP)
    assert len(await cloud.tally(cloud.members["client"], 10)) == 1


async def test_a_dead_member_leaves_and_comes_back(cloud):
    """A member that takes no connections gets none, which is told once; one that takes them again gets its share."""
    cloud.balance("one", "two", "three", healthCheck=CHECK)
    await cloud.until_states(**UP)
    await cloud.members["two"].close()
    await cloud.until_states(**UP | {"two": "Down"})
    assert set(await cloud.tally(cloud.members["client"], 6)) == {"one", "three"}
    written = len(cloud.api.statuses)
    await cloud.members["two"].serve()
    await cloud.until_states(**UP)
    assert set(await cloud.tally(cloud.members["client"], 6)) == set(UP)
    assert len(cloud.api.statuses) == written + 1


async def test_a_check_by_http_judges_the_answer(cloud):
    """A member that answers with another code than those expected gets no requests."""
    check = CHECK | {"type": "HTTP", "path": "/healthz", "expectedCodes": "200-299"}
    cloud.balance("one", "two", "three", protocol="HTTP", healthCheck=check)
    cloud.members["three"].answer = "503 Service Unavailable"
    await cloud.until_states(**UP | {"three": "Down"})
    client = cloud.members["client"]
    answers = [await cloud.get(client) for _ in range(4)]
    assert {answer.split("\r\n\r\n")[1].split("\n")[0] for answer in answers} == {"one", "two"}
    address = str(client.port.addresses[0])
    assert all(f"x-forwarded-for: {address}" in answer.lower() for answer in answers)
    assert cloud.members["three"].asked


async def test_a_cookie_leads_back_to_its_member(cloud):
    """Requests with the cookie that a client was given go to the same member, and to another when that is gone."""
    cloud.balance("one", "two", "three", protocol="HTTP", healthCheck=CHECK, sessionPersistence={"cookieName": "WEB"})
    await cloud.until_states(**UP)
    client = cloud.members["client"]
    first = await cloud.get(client)
    (cookie,) = re.findall(r"(?i)set-cookie: (WEB=\w+)", first)
    name = cookie.partition("=")[2]
    answers = [await cloud.get(client, cookie=cookie) for _ in range(5)]
    assert {answer.split("\r\n\r\n")[1].split("\n")[0] for answer in answers} == {name}
    await cloud.members[name].close()
    await cloud.until_states(**UP | {name: "Down"})
    assert f"\r\n\r\n{name}\n" not in await cloud.get(client, cookie=cookie)


async def test_a_connection_beyond_the_limit_waits(cloud):
    """Of more connections than a listener takes the next one is served when one of the others has ended."""
    cloud.balance("one", connectionLimit=1)
    await cloud.until_states(one="NotChecked")
    client = cloud.members["client"]
    first = await cloud.talk(client)
    with pytest.raises(TimeoutError):
        await cloud.talk(client, seconds=0.5)
    waiting = asyncio.create_task(cloud.talk(client))
    await first.end()
    (await waiting).close()


async def test_a_backup_serves_when_the_others_are_down(cloud):
    """A backup member gets connections while no other member is well, and not before."""
    cloud.balance("one", "two", healthCheck=CHECK)
    assignment = cloud.api.objects["LoadBalancer", "red", "lb"]["spec"]["assignment"]
    assignment["listeners"][0]["members"][1]["backup"] = True
    cloud.api.put("LoadBalancer", "lb", {"assignment": assignment})
    await cloud.until_states(one="Up", two="Up")
    client = cloud.members["client"]
    assert await cloud.tally(client, 3) == {"one": 3}
    await cloud.members["one"].close()
    await cloud.until_states(one="Down", two="Up")
    assert await cloud.tally(client, 3) == {"two": 3}


async def test_a_change_ends_no_connection(cloud):
    """What is changed is served, by the same process, while connections of before go on."""
    cloud.balance("one", "two")
    await cloud.until_states(one="NotChecked", two="NotChecked")
    client, node = cloud.members["client"], cloud.nodes[0]
    talks = [await cloud.talk(client) for _ in range(4)]
    before = node.processes()
    for names in (("three",), ("two", "three"), ("three",)):
        cloud.balance(*names)
        await cloud.until_states(**dict.fromkeys(names, "NotChecked"))
        await _led_to(cloud, client, names)
        for number, talk in enumerate(talks):
            assert await talk.says(f"line {number}") == f"line {number}"
    assert node.processes() == before
    for talk in talks:
        talk.close()


async def _led_to(cloud: BalancedCloud, client: Member, names: tuple[str, ...]) -> None:
    """Wait until all connections lead to these: a former worker may take one while it hears that it is to end."""
    async with asyncio.timeout(2):
        while set(await cloud.tally(client, 4)) != set(names):
            pass


async def test_no_connection_is_refused_during_a_change(cloud):
    """While a load balancer is changed again and again each new connection is answered."""
    cloud.balance("one", "two")
    await cloud.until_states(one="NotChecked", two="NotChecked")
    client, answered = cloud.members["client"], 0
    changing = asyncio.create_task(_change(cloud, 5))
    while not changing.done():
        talk = await cloud.talk(client)
        talk.close()
        answered += 1
    await changing
    assert answered > 10


async def _change(cloud: BalancedCloud, count: int) -> None:
    for number in range(count):
        names = (("one", "two"), ("one", "three"))[number % 2]
        cloud.balance(*names)
        await cloud.until_states(**dict.fromkeys(names, "NotChecked"))


async def test_a_new_agent_adopts(cloud):
    """An agent that begins anew finds the load balancer as it is: no process is another, and no connection ends."""
    cloud.balance("one", "two", healthCheck=CHECK)
    await cloud.until_states(one="Up", two="Up")
    client, node = cloud.members["client"], cloud.nodes[0]
    talk = await cloud.talk(client)
    before, written = node.processes(), len(cloud.api.statuses)
    config = node.proxies.files(_id(cloud)).config.stat()
    await node.stop()
    assert await talk.says("while no agent runs") == "while no agent runs"
    held = {name: item.port for name, item in cloud.members.items() if item.node is node}
    node.start(held)
    await node.networks.ensure([client.port.network], running=True)
    await _idle(node)
    assert await talk.says("after") == "after"
    assert node.processes() == before
    assert node.proxies.files(_id(cloud)).config.stat() == config
    assert len(cloud.api.statuses) == written
    talk.close()


async def test_a_network_is_not_applied_before_load_balancers_are_known(cloud):
    """An agent that has not read its load balancers yet leaves their network as it is: its links are not strangers."""
    cloud.balance("one")
    await cloud.until_states(one="NotChecked")
    node = cloud.nodes[0]
    talk = await cloud.talk(cloud.members["client"])
    await node.stop()
    told = cloud.api.withheld["LoadBalancer"] = asyncio.Event()
    node.start({name: item.port for name, item in cloud.members.items() if item.node is node})
    ensuring = asyncio.create_task(node.networks.ensure([talk_network(cloud)], running=True))
    done, _ = await asyncio.wait({ensuring}, timeout=1)
    assert not done
    assert await talk.says("while it waits") == "while it waits"
    told.set()
    await ensuring
    await _idle(node)
    assert await talk.says("after") == "after"
    talk.close()


def talk_network(cloud: BalancedCloud) -> object:
    """Give the network that all are in."""
    return cloud.members["client"].port.network


async def test_what_the_last_agent_did_not_finish_is_served(cloud):
    """A configuration that was written and not yet served, as its agent ended in between, is served by the next."""
    cloud.balance("one")
    await cloud.until_states(one="NotChecked")
    node = cloud.nodes[0]
    await node.stop()
    files = node.proxies.files(_id(cloud))
    cloud.balance("two")
    files.config.write_text(_rendered(cloud, files))
    node.start({name: item.port for name, item in cloud.members.items() if item.node is node})
    await cloud.until_states(two="NotChecked")
    assert await cloud.tally(cloud.members["client"], 2) == {"two": 2}


def _rendered(cloud: BalancedCloud, files: object) -> str:
    from kumulus_agent.load_balancers.haproxy_config import render  # noqa: PLC0415 - used here alone
    from kumulus_api.load_balancer import AssignedListener  # noqa: PLC0415 - as above

    assignment = cloud.api.objects["LoadBalancer", "red", "lb"]["spec"]["assignment"]
    return render([AssignedListener.model_validate(item) for item in assignment["listeners"]], [VIP], files)


async def test_a_process_that_dies_is_started_again(cloud):
    """HAProxy that has ended by itself is started again, and serves."""
    cloud.balance("one", "two")
    await cloud.until_states(one="NotChecked", two="NotChecked")
    node = cloud.nodes[0]
    ((unit, pid),) = node.processes().items()
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(20):
        while node.processes().get(unit) in {None, pid}:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.05)
        await _idle(node)
    assert set(await cloud.tally(cloud.members["client"], 4)) == {"one", "two"}


async def test_only_what_it_listens_on_is_open(cloud):
    """Clients reach the listeners of a load balancer and nothing else of it, and only those whom it allows."""
    cloud.balance("one")
    await cloud.until_states(one="NotChecked")
    client = cloud.members["client"]
    talk = await cloud.talk(client)
    talk.close()
    assert not await client.reaches(IPv4Address(VIP)), "its groups let in nobody of the client's"
    with pytest.raises(TimeoutError):
        await cloud.talk(client, port=81, seconds=1)
    cloud.balance("one", allowedCIDRs=["10.0.0.0/28"])
    await _until_shut(cloud)
    cloud.balance("one", allowedCIDRs=["10.0.0.16/28"])
    async with asyncio.timeout(10):
        while True:
            try:
                talk = await cloud.talk(client, seconds=0.5)
            except TimeoutError:
                continue
            break
    talk.close()


async def _until_shut(cloud: BalancedCloud) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                talk = await cloud.talk(cloud.members["client"], seconds=0.5)
            except (TimeoutError, ConnectionError):
                return
            talk.close()


async def test_it_moves_to_another_host(cloud):
    """A load balancer that is assigned to another host is served there under its address, and is gone here."""
    cloud.balance("one", "two")
    await cloud.until_states(one="NotChecked", two="NotChecked")
    cloud.balance("one", "two", at=1)
    async with asyncio.timeout(20):
        while cloud.status().get("host") != cloud.nodes[1].host.name:  # noqa: ASYNC110 - told by the other agent
            await asyncio.sleep(0.02)
    await _idle(cloud.nodes[0])
    assert set(await cloud.tally(cloud.members["client"], 4)) == {"one", "two"}
    assert not cloud.nodes[0].processes()
    assert not await _namespaces(cloud.nodes[0].prefix)


async def test_nothing_is_left_of_one_that_is_gone(cloud):
    """A load balancer that is deleted leaves neither process nor namespace, file or port."""
    cloud.balance("one")
    await cloud.until_states(one="NotChecked")
    node = cloud.nodes[0]
    cloud.api.delete("LoadBalancer", "lb")
    async with asyncio.timeout(20):
        while node.processes():  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.02)
        await _idle(node)
    assert not await _namespaces(node.prefix)
    assert not list(node.directory.iterdir())
    taps = {port.port.tap for port in cloud.members.values() if port.node is node}
    observed = await node.host.datapath.observe()
    assert {name for name in observed.links if name.startswith("kt")} == taps


async def test_what_the_api_knows_no_more_is_swept(cloud):
    """A load balancer that was deleted while no agent ran is removed by the next."""
    cloud.balance("one")
    await cloud.until_states(one="NotChecked")
    node = cloud.nodes[0]
    await node.stop()
    cloud.api.delete("LoadBalancer", "lb")
    node.start({name: item.port for name, item in cloud.members.items() if item.node is node})
    await node.balancers.known.wait()
    await node.balancers.sweep()
    assert not node.processes()
    assert not await _namespaces(node.prefix)


async def test_tls_ends_here(cloud, tmp_path):
    """Clients see the listener's certificate, members plain requests; another version is served without a pause.

    The key is readable by nobody else, and the next agent needs not ask for it again.
    """
    node, client = cloud.nodes[0], cloud.members["client"]
    first, second = (self_signed(name, tmp_path) for name in ("lb.test", "new.test"))
    node.pems = {"web": first}
    secure = {"protocol": "HTTPS", "port": 443, "tls": {"secret": {"name": "cert"}}}
    cloud.balance("one", "two", **secure, certificateVersion="1")
    await cloud.until_states(one="NotChecked", two="NotChecked")
    answer = await cloud.get(client, trust=first)
    assert "x-forwarded-proto: https" in answer.lower()
    files = node.proxies.files(_id(cloud))
    (stored,) = files.directory.glob("tls.*")
    assert (stored.stat().st_mode & 0o777, files.directory.stat().st_mode & 0o777) == (0o600, 0o700)
    fetched = node.fetched
    await node.stop()
    node.start({name: item.port for name, item in cloud.members.items() if item.node is node})
    await node.networks.ensure([client.port.network], running=True)
    await _idle(node)
    assert node.fetched == fetched
    node.pems = {"web": second}
    cloud.balance("one", "two", **secure, certificateVersion="2")
    await _served(cloud, second, "new.test")
    await _idle(node)
    assert [file.name for file in files.directory.glob("tls.*")] == ["tls.web.2.pem"]


async def test_without_its_certificate_a_listener_waits(cloud, tmp_path):
    """A listener whose certificate cannot be had is told of and tried again; a former one serves on."""
    node, client = cloud.nodes[0], cloud.members["client"]
    secure = {"protocol": "HTTPS", "port": 443, "tls": {"secret": {"name": "cert"}}}
    cloud.balance("one", **secure, certificateVersion="1")
    async with asyncio.timeout(20):
        while "CertificateNotFetched" not in str(cloud.status()):  # noqa: ASYNC110 - it is told by whoever may
            await asyncio.sleep(0.02)
    pem = self_signed("lb.test", tmp_path)
    node.pems = {"web": pem}
    await _served(cloud, pem, "lb.test")
    node.pems = {}
    cloud.balance("one", **secure, certificateVersion="2")
    async with asyncio.timeout(20):
        while "CertificateNotFetched" not in str(cloud.status()):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.02)
    assert "HTTP/1.1 200" in await cloud.get(client, trust=pem)


async def _served(cloud: BalancedCloud, pem: str, name: str) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                await cloud.get(cloud.members["client"], trust=pem, name=name)
            except (OSError, TimeoutError):
                await asyncio.sleep(0.05)
                continue
            return


def _id(cloud: BalancedCloud) -> str:
    return str(cloud.api.objects["LoadBalancer", "red", "lb"]["spec"]["assignment"]["loadBalancerID"])


async def _idle(node) -> None:
    async with asyncio.timeout(20):
        quiet = 0
        while quiet < 5:
            await asyncio.sleep(0.02)
            queues = (node.networks.queue, node.balancers.queue)
            quiet = 0 if any(queue._dirty or queue._processing for queue in queues) else quiet + 1


async def _namespaces(prefix: str) -> list[str]:
    listed = (await run(("ip", "netns", "list"))).decode().split()
    return [name for name in listed if name.startswith(prefix)]
