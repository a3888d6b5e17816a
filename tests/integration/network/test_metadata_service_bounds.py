"""What the metadata service outlives and bounds: restarts, namespaces that go, floods, requests without end."""

from __future__ import annotations

import asyncio
import fcntl
import os
import stat
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack

import pytest

from kumulus_agent.metadata import service
from kumulus_agent.metadata.door import inode
from kumulus_agent.metadata.pace import BURST, CONNECTIONS
from kumulus_agent.network import metadata_link, names
from kumulus_agent.network.command import run
from kumulus_agent.network.namespace import entering
from kumulus_lab.testing.metadata_asking import (
    ADDRESS,
    BLUE,
    answering_on,
    boot,
    connected,
    guest_socket,
    make_network,
    make_port,
    refused,
    uuid_told,
)

SOCKET_NAMESPACE = 0x894C
"""The ioctl that gives a socket's network namespace (SIOCGSKNS)."""


@pytest.fixture
async def answering(hosts) -> AsyncIterator[tuple]:
    """The two hosts with the service, and what each has told."""
    async with answering_on(hosts) as found:
        yield found


def held_namespaces() -> set[int]:
    """The inodes of the network namespaces that sockets of this process keep alive."""
    found = set()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names of numbers
        try:
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            handle = fcntl.ioctl(int(name), SOCKET_NAMESPACE)
        except OSError:
            continue
        found.add(os.fstat(handle).st_ino)
        os.close(handle)
    return found


async def test_a_request_that_does_not_end_is_given_up(answering, monkeypatch):
    """A guest that sends its request a byte at a time is not waited for."""
    monkeypatch.setattr(service, "_SECONDS", 0.5)
    (host, _), _ = answering
    await host.datapath.ensure_network(make_network(host, [make_port(11)]))
    guest = await boot(host, make_port(11))
    async with connected(guest) as asking:

        async def drip() -> None:
            while True:
                asking.writer.write(b"G")
                await asyncio.sleep(0.05)

        dripping = asyncio.create_task(drip())
        started = time.monotonic()
        assert await asking.reader.read() == b""
        assert time.monotonic() - started < 2
        dripping.cancel()


async def test_a_restart_is_a_short_gap(answering):
    """The next agent opens the socket again, behind its rules, and finds nothing else to do; dnsmasq is as it was."""
    (host, _), (teller, _) = answering
    network = make_network(host, [make_port(11)])
    await host.datapath.ensure_network(network)
    guest = await boot(host, make_port(11))
    servers = host.services.observe()
    assert await host.datapath.ensure_network(network) == []
    async with connected(guest) as asking:
        await asking.ask("/openstack")
        await host.datapath.close()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await asking.ask("/openstack")
    assert await refused(guest)
    inside = (*entering(f"{host.name}-kd{BLUE:06x}"), "nft")
    await run((*inside, "delete", "table", "inet", metadata_link.TABLE))
    await host.datapath.start()
    assert [step.reason for step in await host.datapath.ensure_network(network)] == ["answers for metadata"]
    assert await uuid_told(guest) == "2a-11"
    assert metadata_link.TABLE in (await run((*inside, "list", "tables"))).decode()
    assert host.services.observe() == servers
    assert teller.asked == ["2a-11", "2a-11"]


async def test_a_namespace_that_was_replaced_is_answered_in(answering):
    """Where somebody deletes the servers' namespace, a comparison sees it, and the next apply answers anew."""
    (host, _), _ = answering
    network = make_network(host, [make_port(11)])
    await host.datapath.ensure_network(network)
    guest = await boot(host, make_port(11))
    assert not host.datapath.differs(network, await host.datapath.observe())
    target = f"{host.name}-kd{BLUE:06x}"
    await run(("ip", "netns", "delete", target))
    assert host.datapath.differs(network, await host.datapath.observe())
    await run(("ip", "-netns", host.namespace, "link", "delete", names.service_link(BLUE)))
    await host.datapath.ensure_network(network)
    assert not host.datapath.differs(network, await host.datapath.observe())
    assert await uuid_told(guest) == "2a-11"


async def test_no_socket_keeps_a_namespace(answering):
    """When a network goes, with a guest's connection open, its servers' namespace goes with it."""
    (host, _), _ = answering
    await host.datapath.ensure_network(make_network(host, [make_port(11)]))
    guest = await boot(host, make_port(11))
    place = inode(f"{host.name}-kd{BLUE:06x}")
    async with connected(guest) as asking:
        await asking.ask("/openstack")
        assert place in held_namespaces()
        await host.datapath.remove_network(BLUE)
        assert place not in held_namespaces()


FLOOD = """
import socket, sys, time
end, opened = time.monotonic() + float(sys.argv[1]), 0
held = []
while time.monotonic() < end:
    made = socket.socket()
    made.setblocking(False)
    made.connect_ex(("169.254.169.254", 80))
    held.append(made)
    opened += 1
    if len(held) > 500:
        try:
            held[0].send(b"GET /openstack HTTP/1.1\\r\\n\\r\\n" * 50)
        except OSError:
            pass
        held.pop(0).close()
print(opened)
"""


async def test_a_flood_starves_nobody(answering):
    """While one guest opens connections without end, another is answered in time, and the agent sees few of them."""
    (host, _), (teller, _) = answering
    await host.datapath.ensure_network(make_network(host, [make_port(11), make_port(12)]))
    guest, other = await boot(host, make_port(11)), await boot(host, make_port(12))
    accepted = []
    accept = host.datapath._metadata._talk

    async def counted(*args) -> None:
        accepted.append(args)
        await accept(*args)

    host.datapath._metadata._talk = counted
    seconds = 4.0
    argv = ("ip", "netns", "exec", guest.namespace, sys.executable, "-c", FLOOD, str(seconds))
    flood = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    slowest = 0.0
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        asked = time.monotonic()
        assert await uuid_told(other) == "2a-12"
        slowest = max(slowest, time.monotonic() - asked)
        await asyncio.sleep(0.1)
    output, _ = await flood.communicate()
    assert int(output) > 1000
    rate, burst = metadata_link.CONNECTIONS
    asked = teller.asked.count("2a-12")
    assert len(accepted) - asked <= (burst + rate * (seconds + 1))
    assert slowest < 1
    assert len(host.datapath._metadata._served[BLUE].talks) <= CONNECTIONS + 1


async def test_bursts_of_two_leave_room_for_a_third(answering):
    """Two guests begin as many connections as they may while the agent has no time: a third's is taken at once."""
    (host, _), _ = answering
    ports = [make_port(number) for number in (11, 12, 13)]
    await host.datapath.ensure_network(make_network(host, ports))
    *crowd, third = [await boot(host, port) for port in ports]
    for guest in (*crowd, third):
        assert await uuid_told(guest)
    with ExitStack() as stack:
        # No turn of the event loop in here: the agent's part stands still.
        for guest in crowd * metadata_link.CONNECTIONS[1]:
            stack.enter_context(guest_socket(guest)).connect_ex(ADDRESS)
        asking = stack.enter_context(guest_socket(third))
        asking.settimeout(0.5)
        asking.connect(ADDRESS)


async def test_requests_and_connections_are_bounded(answering):
    """Beyond its burst a guest is told to wait, beyond its connections it gets no other; both end with the excess."""
    (host, _), _ = answering
    await host.datapath.ensure_network(make_network(host, [make_port(11)]))
    guest = await boot(host, make_port(11))
    async with AsyncExitStack() as stack:
        kept = [await stack.enter_async_context(connected(guest)) for _ in range(CONNECTIONS)]
        assert (await kept[0].ask("/openstack")).status == 200
        assert await refused(guest)
    async with connected(guest) as asking:
        for _ in range(int(BURST) * 4):
            answer = await asking.ask("/openstack")
            if answer.status != 200:
                break
        assert answer.status == 429
        assert "Connection: close" in answer.head
        assert await asking.reader.read() == b""
