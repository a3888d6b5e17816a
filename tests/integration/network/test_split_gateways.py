"""Two hosts that share a gateway and do not hear each other, each alive: both lead, and when they do again, one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import IPv4Address

import pytest

from kumulus_agent.network.command import run
from kumulus_agent.routers import pair
from kumulus_lab.testing.routed import OUTSIDE, RoutedCloud, captured, eventually, routed_cloud

RED = "red1"
OWN = IPv4Address("203.0.113.2")
ARP, REQUEST = b"\x08\x06", b"\x00\x01"
LIMIT = 10.0
"""Seconds within which the standby leads out."""
DOUBLED = 3.0
"""Seconds for which both may have an address after they can hear each other again: measured are 1.0 to 1.4."""
REPEATED = 6.0
"""Seconds within which who leads announces itself anew: it does so every five."""


@pytest.fixture
async def cloud(prefix, three_hosts) -> AsyncIterator[RoutedCloud]:
    """A network on three hosts."""
    async with routed_cloud(prefix, three_hosts) as cloud:
        cloud.network(RED, 0x101, "10.0.1.0/24")
        yield cloud


async def leads(cloud, host) -> bool:
    """Whether a host has the router's address outside."""
    shown = [kept["addresses"] for name, kept in (await cloud.node(host).shown()).items() if "-kr" in name]
    return str(OWN) in str(shown)


async def shared(cloud) -> dict[str, bytes]:
    """A router that host a leads out, and b may; give the MAC that each has outside."""
    router_id = cloud.router("r", RED, gateway="a/b")
    await cloud.settled()
    await eventually(lambda: leads(cloud, "a"))
    await asyncio.sleep(pair.STANDBY_DELAY)
    macs = {host: pair.mac_of(router_id, cloud.node(host).host.name) for host in "abc"}
    return {host: bytes.fromhex(mac.replace(":", "")) for host, mac in macs.items()}


async def underlay(cloud, host, state) -> None:
    """Cut a host off from its peers, or let it back; it goes on seeing the external network."""
    await run(("ip", "-netns", cloud.node(host).host.name, "link", "set", "under", state))


async def lasts(holds: Callable[[], Awaitable[bool]]) -> float:
    """Give for how many seconds something still holds."""
    begun = time.monotonic()
    async with asyncio.timeout(LIMIT):
        while await holds():
            pass
    return time.monotonic() - begun


def announced(frames: list[bytes]) -> list[bytes]:
    """The MACs by which the router's address was announced to all."""
    said = [frame for frame in frames if frame[12:14] == ARP and frame[28:32] == frame[38:42] == OWN.packed]
    return [frame[22:28] for frame in said]


async def test_of_two_that_were_apart_one_leads_when_they_hear_each_other(cloud):
    """While they are apart each leads its own guests out; then the standby stays, and the other has no address soon.

    It announces itself again, so that the outside finds it whatever the other has said last; connections by it go on.
    """
    far = await cloud.boot("far", "a", RED, "10.0.1.11")
    third = await cloud.boot("third", "c", RED, "10.0.1.13")
    macs = await shared(cloud)
    assert await far.reaches(OUTSIDE)
    await underlay(cloud, "a", "down")
    await eventually(lambda: leads(cloud, "b"), LIMIT)
    assert await leads(cloud, "a")
    with captured(cloud.outside.namespace, "switch") as frames:
        # Both say that the address is theirs, again and again.
        await asyncio.sleep(REPEATED)
        assert {macs["a"], macs["b"]} <= set(announced(frames(0.05)))
        found = [await guest.reaches(OUTSIDE) for guest in (far, third) for _ in range(8)]
        # Answers come to the one that spoke last: each is reached now and then.
        assert any(found)
        frames(0.05)
        await underlay(cloud, "a", "up")
        doubled = await lasts(lambda: leads(cloud, "a"))
        since = time.monotonic()
        assert doubled < DOUBLED
        assert await leads(cloud, "b")

        async def one() -> bool:
            return await third.reaches(OUTSIDE) and await far.reaches(OUTSIDE)

        await eventually(one, REPEATED)
        again = time.monotonic() - since
        print(f"the address was doubled for {doubled:.1f} s, and reached by the outside {again:.1f} s later")
        streams = [await guest.connect(cloud.outside, OUTSIDE, 8081 + n) for n, guest in enumerate((far, third))]
        await asyncio.sleep(REPEATED)
        assert set(announced(frames(0.05))) == {macs["b"]}
    for stream in streams:
        assert stream is not None
        assert await stream.carries()
        assert await stream.carries(back=True)
    assert not await leads(cloud, "a")
    assert cloud.node("b").routers.taken_over


async def test_one_that_was_replaced_while_it_was_cut_off_ends_when_its_agent_has_read_so(cloud):
    """A former leader that neither API nor peers told anything has its address until its agent reads the assignment.

    Meanwhile who leads is heard again after each of its announcements, and no host but these two has the address.
    """
    third = await cloud.boot("third", "c", RED, "10.0.1.13")
    macs = await shared(cloud)
    former = cloud.node("a")
    await former.stop()
    await underlay(cloud, "a", "down")
    await eventually(lambda: leads(cloud, "b"), LIMIT)
    cloud.priority = 101
    cloud.router("r", RED, gateway="b/c")
    await cloud.settled()
    with captured(cloud.outside.namespace, "switch") as frames:
        await underlay(cloud, "a", "up")
        await asyncio.sleep(2 * REPEATED)
        assert await leads(cloud, "a")
        assert await leads(cloud, "b")
        assert not await leads(cloud, "c")
        said = announced(frames(0.05))
        assert macs["a"] in said
        # The last word is the present one's, each time.
        assert said[-1] == macs["b"] or said.count(macs["b"]) >= said.count(macs["a"])
        former.start()
        await former.routers.known.wait()
        await former.routers.sweep()
        doubled = await lasts(lambda: leads(cloud, "a"))
        assert doubled < DOUBLED
        await cloud.settled()
        print(f"the address was doubled for {doubled:.1f} s after the agent had begun")
        frames(0.05)
        await asyncio.sleep(REPEATED)
        assert set(announced(frames(0.05))) == {macs["b"]}
    assert await leads(cloud, "b")
    assert await third.reaches(OUTSIDE)
