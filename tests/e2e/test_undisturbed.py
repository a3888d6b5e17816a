"""Whatever of ours restarts, guests go on: same boot, no ping lost, DHCP and DNS answer."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from kumulus_api import Server
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console, disturb
from kumulus_lab.testing.cloud import Cloud

PINGER = """#!/bin/sh
(until ping -c 1 -W 1 b; do :; done; echo pinger-started
 while :; do
   ping -i 0.1 -c 20 -W 1 b | sed -n 's/.* \\([0-9]*\\) packets received.*/pings-received=\\1/p'
   nslookup b >/dev/null 2>&1 && echo dns-answered || echo dns-silent
 done) >/dev/ttyS0 2>&1 &
"""


pytestmark = pytest.mark.disturbs


@pytest.fixture
async def pinging(cloud: Cloud, project: str, lab: LabSettings) -> Path:
    """The console of a guest on h1 that pings one on h2 ten times a second, 20 pings a line."""
    await cloud.make_network(project)
    await cloud.make_server(project, "b", placement={"host": "h2"})
    await cloud.make_server(project, "a", placement={"host": "h1"}, userData={"inline": PINGER})
    await cloud.server_ready(project, "b")
    server = await cloud.server_ready(project, "a")
    log = console.path(lab, server)
    await console.says(log, "pings-received=20", 90)
    return log


DISTURBANCES: dict[str, Callable[[Cloud, LabSettings], Awaitable[None]]] = {
    "operator killed": disturb.kill_operator,
    "agents killed": disturb.kill_agents,
    "DaemonSet rolled": disturb.roll_daemonset,
    "libvirtd restarted": disturb.restart_libvirtd,
    "API server restarted": disturb.restart_api_server,
}


async def test_guests_go_on(cloud: Cloud, project: str, lab: LabSettings, pinging: Path) -> None:
    """While each part of ours restarts no ping of ten a second is lost, DNS answers, and no guest boots again."""
    for what, disturbance in DISTURBANCES.items():
        before = len(_text(pinging))
        await disturbance(cloud, lab)
        await _rounds(pinging, before, 3)
        during = _text(pinging)[before:]
        received = re.findall(r"pings-received=(\d+)", during)
        assert set(received) == {"20"}, f"{what}: pings lost: {received}"
        assert "dns-silent" not in during, what
        assert _boots(pinging) == 1, what
        for name in ("a", "b"):
            await cloud.server_ready(project, name)


async def test_server_can_be_made_after_restart(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """After agents and operator were killed, the next server becomes Ready and the old one can be deleted."""
    await cloud.make_network(project)
    await cloud.make_server(project, "old")
    await cloud.server_ready(project, "old")
    await disturb.kill_operator(cloud, lab)
    await disturb.kill_agents(cloud, lab)
    await cloud.make_server(project, "new")
    await cloud.server_ready(project, "new", 90)
    await cloud.delete(Server, "old", project)


async def _rounds(log: Path, offset: int, count: int) -> None:
    size, seen = 0, 0
    async with asyncio.timeout(60):
        async for line in console.lines(log):
            size += len(line) + 1
            seen += size > offset and "pings-received" in line
            if seen >= count:
                return


def _boots(log: Path) -> int:
    return len(re.findall("kumulus-guest: boot-id=", _text(log)))


def _text(log: Path) -> str:
    return log.read_text(errors="replace")
