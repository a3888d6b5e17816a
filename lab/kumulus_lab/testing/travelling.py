"""A working guest that migrates back and forth, with everything about it that must not change."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable

from kumulus_api import Server
from kumulus_lab.errors import CommandFailed
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console
from kumulus_lab.testing.cloud import Breach, Cloud, Object, ready
from kumulus_lab.testing.migrating import Lookout, ask, succeeded
from kumulus_lab.testing.sightings import look

# What the guest has written to its disk and keeps in its memory is compared with its first checksum, for ever.
CHECKER = """#!/bin/sh
(dd if=/dev/urandom of=/dev/vda bs=1M seek=100 count=4
dd if=/dev/vda of=/tmp/memory bs=1M skip=100 count=4) 2>/dev/null
first=$(md5sum </tmp/memory)
(n=0; while :; do
 n=$((n+1)); dd if=/dev/zero of=/dev/vda bs=64k seek=$((3200 + n % 64)) count=1 2>/dev/null
 echo 3 >/proc/sys/vm/drop_caches
 disk=$(dd if=/dev/vda bs=1M skip=100 count=4 2>/dev/null | md5sum)
 [ "$disk" = "$first" ] && [ "$(md5sum </tmp/memory)" = "$first" ] && echo sums-ok-$n || echo SUMS-WRONG
 sleep 1
done) >/dev/ttyS0 2>&1 &
"""
# The same, while it writes to its memory and to its disk as fast as its processor can.
BUSY = (
    CHECKER
    + """(while :; do dd if=/dev/urandom of=/tmp/busy bs=64k count=32; done) 2>/dev/null &
(n=0; while :; do
 n=$((n+1)); dd if=/tmp/busy of=/dev/vda bs=64k seek=$((3600 + 32 * (n % 8))) count=32
done) 2>/dev/null &
"""
)
# One connection, begun when somebody listens and held as long as the guests live; what it says must come back in order.
STREAMER = """#!/bin/sh
(until echo heard | nc -w 2 mover 7 2>/dev/null | grep -q heard; do usleep 200000; done
 (n=0; while :; do n=$((n+1)); echo $n; usleep 200000; done) | nc mover 7 |
 (m=0; while read n; do m=$((m+1)); [ "$n" = $m ] && echo tick-$n || echo STREAM-WRONG-$n-for-$m; done)
 echo STREAM-ENDED) >/dev/ttyS0 2>&1 &
"""


def on_host(server: Object) -> str:
    """Give where a server is assigned."""
    return str(server["spec"]["assignment"]["host"])


def other_than(host: str) -> str:
    """Give the other one of two hosts."""
    return "h2" if host == "h1" else "h1"


def settled_on(host: str) -> Callable[[Object], bool]:
    """Give a predicate: the server is Ready on a host and on its way to none."""

    def holds(server: Object) -> bool:
        given = server["spec"].get("assignment") or {}
        return given.get("host") == host and not given.get("target") and ready(server)

    return holds


async def ticks(lab: LabSettings, server: Object, beyond: int) -> int:
    """Wait until the stream has come to a higher number, and give it.

    Raises:
        Breach: it stands still for a minute, has ended, or something of it was lost.
    """
    found = await console.says(console.path(lab, server), rf"STREAM-|^tick-({_above(beyond)})\s*$")
    if found[1] is None:
        raise Breach(f"the stream is broken after {beyond}: {found.string}")
    return int(found[1])


def _above(number: int) -> str:
    """Give a pattern of the next hundred numbers: a line may be cut by a message of the kernel."""
    return "|".join(str(number + more) for more in range(1, 101))


async def nothing_left(lab: LabSettings, server: Object, host: str) -> None:
    """Wait until a host has nothing of a server."""
    instance = server["spec"]["assignment"]["instanceID"]
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(CommandFailed):  # a libvirtd that was killed is not back yet
                seen = (await look(lab))[host]
                if f"k-{instance}" not in seen.domains and instance not in seen.instances:
                    return
            await asyncio.sleep(0.5)


async def unharmed(lab: LabSettings, server: Object) -> None:
    """Look at all that a guest with CHECKER has said.

    Raises:
        Breach: its data changed, or it has booted again.
    """
    said = await asyncio.to_thread(console.said, console.path(lab, server))
    boots = len(re.findall("kumulus-guest: boot-id", said))
    if "SUMS-WRONG" in said or boots != 1:
        raise Breach(f"data changed: {'SUMS-WRONG' in said}, boots: {boots}")


async def back_and_forth(cloud: Cloud, lab: LabSettings, project: str, rounds: int) -> list[int]:
    """Make a guest that computes, writes and talks to another one, and migrate it `rounds` times.

    Returns:
        How long it stood still each time, in milliseconds.

    Raises:
        Breach: it was seen on two hosts, its data or connection suffered, or what it is known by has changed.
    """
    await cloud.make_server(project, "mover", userData={"inline": BUSY})
    await cloud.make_server(project, "stream", placement={"host": "h1"}, userData={"inline": STREAMER})
    before, stream = await asyncio.gather(cloud.server_ready(project, "mover"), cloud.server_ready(project, "stream"))
    await console.says(console.path(lab, before), "sums-ok-2")
    last, after, downtimes = await ticks(lab, stream, 0), before, []
    async with Lookout(lab, before["spec"]["assignment"]["instanceID"]) as lookout:
        for _ in range(rounds):
            left, host = on_host(after), other_than(on_host(after))
            await succeeded(cloud, project, await ask(cloud, project, "mover"))
            after = await cloud.until(Server, "mover", settled_on(host), namespace=project)
            downtimes.append(int(after["status"]["migration"]["source"]["downtimeMilliseconds"]))
            last = await ticks(lab, stream, last + 10)
            await nothing_left(lab, after, left)
        if lookout.rounds < 2 * rounds:
            raise Breach(f"the hosts were looked at {lookout.rounds} times only")
    await unharmed(lab, after)
    was, now = before["spec"]["assignment"], after["spec"]["assignment"]
    same = all(was[part] == now[part] for part in ("instanceID", "ports"))
    if not same or before["status"]["addresses"] != after["status"]["addresses"]:
        raise Breach(f"the server was {was} and is {now}")
    if now["epoch"] != was["epoch"] + rounds:
        raise Breach(f"epoch {was['epoch']} became {now['epoch']} in {rounds} migrations")
    return downtimes
