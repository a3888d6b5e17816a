"""What a guest sends by its router to addresses that nobody has leaves others their neighbours."""

from __future__ import annotations

import asyncio
import socket
import threading
from ipaddress import IPv4Address

from kumulus_agent.network.command import run
from kumulus_agent.network.namespace import within
from kumulus_agent.routers.asking import BURST, PER_SECOND
from kumulus_lab.testing.routed import routed_cloud

BEHIND = IPv4Address("10.64.0.0")


def scanning(guest, ended: threading.Event) -> None:
    """Send to one address after the other behind the guest's router."""
    with within(guest.namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as opened:
        number = 0
        while not ended.is_set():
            number = number % 60_000 + 1
            opened.sendto(b"x", (str(BEHIND + 100 + number), 9))


async def test_a_scan_behind_a_router_leaves_others_their_neighbours(prefix, hosts):
    """While a guest asks by its router for thousands of addresses, another namespace finds its neighbour each time."""
    async with routed_cloud(prefix, hosts) as cloud:
        cloud.network("red1", 0x101, "10.0.1.0/24")
        cloud.network("red2", 0x102, "10.64.0.0/16")
        scanner = await cloud.boot("scanner", "a", "red1", "10.0.1.11")
        other = await cloud.boot("other", "a", "red2", "10.64.0.12")
        beside = await cloud.boot("beside", "a", "red1", "10.0.1.12")
        cloud.router("r", "red1", "red2")
        await cloud.settled()
        assert await scanner.reaches(other.address)
        # Two that have nothing to do with it.
        ends = [f"{prefix}-{end}" for end in ("x", "y")]
        for name in ends:
            await run(("ip", "netns", "add", name))
        await run(
            ("ip", "-netns", ends[0], "link", "add", "one", "type", "veth", "peer", "name", "two", "netns", ends[1])
        )
        for number, (name, link) in enumerate(zip(ends, ("one", "two"), strict=True), 1):
            await run(("ip", "-netns", name, "address", "add", f"198.51.100.{number}/24", "dev", link))
            await run(("ip", "-netns", name, "link", "set", link, "up"))
        ended = threading.Event()
        thread = asyncio.create_task(asyncio.to_thread(scanning, scanner, ended))
        try:
            (router,) = [name for name in await cloud.node("a").shown() if name.startswith(cloud.node("a").prefix)]
            asked = []
            for _ in range(20):
                await run(("ip", "-netns", ends[0], "neighbour", "flush", "all"))
                ping = ("ip", "netns", "exec", ends[0], "ping", "-q", "-c", "1", "-W", "1", "198.51.100.2")
                assert b" 0% packet loss" in await run(ping, allowed=(0, 1, 2))
                listed = await run(("ip", "-netns", router, "neighbour", "show", "nud", "incomplete"))
                asked.append(len(listed.splitlines()))
            assert max(asked) <= BURST + 4 * PER_SECOND
            assert max(asked) > 0
            assert await beside.reaches(other.address)
        finally:
            ended.set()
            await thread
