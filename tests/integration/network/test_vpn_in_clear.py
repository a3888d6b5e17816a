"""What is sent to networks behind a tunnel never leaves in clear: streams that go on all the while, real charons."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from ipaddress import IPv4Address

import pytest

from kumulus_agent.network.command import run
from kumulus_agent.network.namespace import within
from kumulus_agent.routers import pair
from kumulus_lab.testing.routed import captured, eventually, routed_cloud
from kumulus_lab.testing.tunnelled import DESK, SITE, TunnelledCloud, tunnelled_cloud

RED, ROUTER, PORT = "red1", "r", 4321
KEY = b"as long as it should be"
IPV4 = b"\x08\x00"


@pytest.fixture
async def cloud(prefix, three_hosts) -> AsyncIterator[TunnelledCloud]:
    """A network on three hosts, and a site."""
    async with AsyncExitStack() as stack:
        routed = await stack.enter_async_context(routed_cloud(prefix, three_hosts))
        routed.network(RED, 0x101, "10.0.1.0/24")
        yield await stack.enter_async_context(tunnelled_cloud(prefix, routed))


@contextmanager
def streaming(*guests) -> Iterator[None]:
    """Have guests send to the site all the while, each by one socket: one connection to those that track it."""
    with ExitStack() as stack:
        made = [
            stack.enter_context(within(g.namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
            for g in guests
        ]

        async def send() -> None:
            while True:
                for end in made:
                    end.sendto(b"in clear", (str(DESK), PORT))
                await asyncio.sleep(0.01)

        task = asyncio.create_task(send())
        stack.callback(task.cancel)
        yield


@contextmanager
def heard(cloud) -> Iterator:
    """Give what tells the senders that the site's machine hears from now on."""
    desk = cloud.site.desk.namespace
    with within(desk, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as ears:
        ears.bind((str(DESK), PORT))
        ears.setblocking(False)

        async def senders(seconds: float) -> set[str]:
            loop, found = asyncio.get_running_loop(), set()
            try:
                async with asyncio.timeout(seconds):
                    while True:
                        found.add((await loop.sock_recvfrom(ears, 64))[1][0])
            except TimeoutError:
                return found

        yield senders


@contextmanager
def watched(cloud) -> Iterator:
    """Capture what the hosts send outside; what is given returns the packets for the site among what came so far."""
    with ExitStack() as stack:
        links = [stack.enter_context(captured(cloud.routed.outside.namespace, f"p{number}")) for number in range(3)]

        def clear(seconds: float = 0.05) -> list[bytes]:
            return for_the_site(frame for link in links for frame in link(seconds))

        yield clear


def for_the_site(frames) -> list[bytes]:
    """Those frames that are IPv4 packets to the site's machine, in clear."""
    return [frame for frame in frames if frame[12:14] == IPV4 and frame[30:34] == DESK.packed]


def daemons(cloud) -> list[int]:
    """The processes of the cloud's tunnels."""
    found = [cloud.services(node).observe().values() for node in cloud.routed.nodes]
    return [record.process.pid for records in found for record in records]


async def test_what_was_sent_out_before_goes_by_the_tunnel_or_nowhere(cloud):
    """From when a router knows of a connection until its charon has died and come back, nothing is in clear.

    Streams that went out before, under the router's address or a floating one, go by the tunnel with their own.
    """
    routed = cloud.routed
    guests = [await routed.boot(name, name[0], RED, f"10.0.1.{11 + n}") for n, name in enumerate(("a1", "c1", "c2"))]
    router_id = routed.router(ROUTER, RED, gateway="a")
    routed.floating("f", "203.0.113.10", router_id, "c", fixed="10.0.1.13")
    await routed.settled()
    await cloud.site.expect(KEY.decode())
    own = {str(guest.address) for guest in guests}
    with streaming(*guests), heard(cloud) as senders, watched(cloud) as clear:
        await asyncio.sleep(0.3)
        assert clear()
        cloud.tunnelled(ROUTER, [SITE])
        await routed.settled()
        clear()
        await asyncio.sleep(0.3)
        assert clear() == []
        cloud.connect(router_id, "a", KEY)
        await cloud.until("True", "Established")
        assert await senders(1.5) == own
        (pid,) = daemons(cloud)
        os.kill(pid, signal.SIGKILL)

        async def anew() -> bool:
            return daemons(cloud) not in ([], [pid]) and await senders(0.3) == own

        await eventually(anew, 20)
        cloud.connect(router_id, "a", KEY, up=False)
        await cloud.until("False", "TakenDown")
        await asyncio.sleep(0.3)
        assert clear() == []


async def test_no_static_route_leads_there_in_clear(cloud):
    """Where a static route leads to the peer's network, too, it is not asked while there is no tunnel."""
    routed = cloud.routed
    guests = [await routed.boot(name, name[0], RED, f"10.0.1.{11 + n}") for n, name in enumerate(("a1", "c1"))]
    appliance = await routed.boot("appliance", "a", RED, "10.0.1.77")
    router_id = routed.router(ROUTER, RED, gateway="a", routes=(("10.0.0.0/8", "10.0.1.77"),))
    await routed.settled()
    await cloud.site.expect(KEY.decode())
    with streaming(*guests), captured(appliance.namespace, "eth0") as link, heard(cloud) as senders:
        await asyncio.sleep(0.3)
        assert for_the_site(link(0.05))
        cloud.tunnelled(ROUTER, [SITE])
        await routed.settled()
        link(0.05)
        await asyncio.sleep(0.3)
        assert for_the_site(link(0.05)) == []
        cloud.connect(router_id, "a", KEY)
        await cloud.until("True", "Established")
        assert await senders(1.5) == {str(guest.address) for guest in guests}
        cloud.connect(router_id, "a", KEY, up=False)
        await cloud.until("False", "TakenDown")
        await asyncio.sleep(0.3)
        assert for_the_site(link(0.05)) == []
    # What else the route is for goes its way.
    with captured(appliance.namespace, "eth0") as link:
        await guests[0].reaches(IPv4Address("10.99.0.1"))
        assert [frame for frame in link(0.1) if frame[30:34] == IPv4Address("10.99.0.1").packed]


async def test_nothing_is_in_clear_while_another_host_takes_over(cloud):
    """While the gateway's host is cut off and the standby leads, each with guests, no packet leaves in clear."""
    routed = cloud.routed
    guests = [await routed.boot(name, name[0], RED, f"10.0.1.{11 + n}") for n, name in enumerate(("b1", "c1"))]
    router_id = routed.router(ROUTER, RED, gateway="a/b")
    await routed.settled()
    await cloud.site.expect(KEY.decode())
    cloud.connect(router_id, "a/b", KEY)
    await cloud.until("True", "Established")
    own = {str(guest.address) for guest in guests}
    with streaming(*guests), heard(cloud) as senders, watched(cloud) as clear:
        assert await senders(0.5) == own

        async def waits() -> bool:
            keepalived = routed.node("b").keepalived
            return [str(keepalived.role(name)) for name in keepalived.names()] == ["BACKUP"]

        await eventually(waits, pair.STANDBY_DELAY + 10)
        host = routed.node("a").host
        for link, where in (("under", host.name), ("phys", host.namespace)):
            await run(("ip", "-netns", where, "link", "set", link, "down"))

        async def passes() -> bool:
            return await senders(0.3) == own

        await eventually(passes, 40)
        assert clear() == []
