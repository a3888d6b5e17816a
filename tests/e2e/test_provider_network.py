"""Real guests on a physical network: placed where it is, reached from outside, and nothing of it left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from kumulus_api import Host, Network, SecurityGroup, Server, ServerAction
from kumulus_lab import commands
from kumulus_lab.hosts import Hosts
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console
from kumulus_lab.testing.cloud import Cloud, condition, refused

OUTSIDE, GUEST = "192.168.77.1", "192.168.77.21"
ASKER = f"""#!/bin/sh
until ping -c 1 -W 1 {OUTSIDE} >/dev/null; do :; done
echo outside-answers $(ping -c 3 -s 1472 -W 2 {OUTSIDE} | tail -n 2)
"""


@pytest.fixture
async def unmapped(cloud: Cloud) -> AsyncIterator[None]:
    """No host maps anything; after the test all have what the settings say."""
    names = [body["metadata"]["name"] for body in (await cloud.client.list(Host))[0]]
    for name in names:
        await map_on(cloud, name, {})
    try:
        for name in names:
            await cloud.until(Host, name, lambda body: not body["status"].get("physicalNetworks"))
        yield
    finally:
        for name in names:
            await map_on(cloud, name, None)


async def map_on(cloud: Cloud, host: str, mappings: dict[str, str] | None) -> None:
    """Say on one host which interfaces lead to physical networks; None for what the settings say."""
    await cloud.client.patch_merge(Host, host, {"spec": {"bridgeMappings": mappings}})


def reaches(body: dict[str, Any]) -> bool:
    """Whether a Host reaches flat networks on physnet1."""
    found = body["status"].get("physicalNetworks") or []
    return any(item["name"] == "physnet1" and "Flat" in item["reaches"] for item in found)


async def answers(outside: str) -> bool:
    """Whether the guest answers the outside machine."""
    ping = ["ip", "netns", "exec", outside, "busybox", "ping", "-c", "3", "-W", "2", "-q", GUEST]
    done = await asyncio.to_thread(commands.run, ping, check=False, timeout=20)
    return done.returncode == 0


async def test_a_server_is_on_the_physical_network(
    cloud: Cloud, project: str, lab: LabSettings, outside: str, unmapped: None
) -> None:
    """It waits, with the reason, for a host that reaches the network, goes there at once and migrates nowhere else.

    The machine outside and the guest answer each other, also after a migration to another host that reaches it; the
    hosts' interfaces are theirs again when the guest has left.
    """
    subnet = {"name": "v4", "cidr": "192.168.77.0/24", "gateway": OUTSIDE, "dnsServers": [OUTSIDE]}
    where = {"physicalNetwork": "physnet1"}
    await cloud.make(Network, "lan", {"type": "Provider", "provider": where, "subnets": [subnet]}, project)
    await cloud.make(SecurityGroup, "answers", {"ingress": [{"protocol": "ICMP", "icmpType": 8}]}, project)
    nic = {"name": "eth0", "network": {"name": "lan"}, "address": GUEST, "securityGroups": [{"name": "answers"}]}
    await cloud.make_server(project, "web", networks=[nic], userData={"inline": ASKER})
    waiting = await cloud.until(Server, "web", refused("NoValidHost"), namespace=project)
    told = "without physical network physnet1 (Flat: NotMapped)"
    assert told in condition(waiting, "Scheduled")["message"]

    await map_on(cloud, "h2", {"physnet1": "eth1"})
    server = await cloud.server_ready(project, "web")
    assert server["spec"]["assignment"]["host"] == "h2"
    await console.says(console.path(lab, server), "^outside-answers .* 3 packets received", 120)
    assert await answers(outside)
    assert not shown(lab, "h2")

    action = await cloud.ask(project, "web", "LiveMigrate")
    await cloud.until(ServerAction, action, lambda body: told in str(body.get("status")), namespace=project)
    await map_on(cloud, "h1", None)
    await cloud.until(Host, "h1", reaches)
    await cloud.act(project, "web", "LiveMigrate")
    server = await cloud.server_ready(project, "web")
    assert server["spec"]["assignment"]["host"] == "h1"
    assert await answers(outside)

    await cloud.delete(Server, "web", project)
    for name in ("h1", "h2"):
        await asyncio.to_thread(given_back, lab, name)
    await cloud.delete(Network, "lan", project)


def shown(lab: LabSettings, host: str) -> str:
    """What the host says of its second interface; nothing while guests have it."""
    return Hosts(lab).run(host, ["ip", "link", "show", "eth1"]).stdout


def given_back(lab: LabSettings, host: str) -> None:
    """Wait until the host has its second interface again, with its carrier, which takes the kernel up to a second."""
    script = "for n in $(seq 50); do ip link show eth1 | grep -q 'state UP' && exit 0; sleep 0.1; done; exit 1"
    Hosts(lab).run(host, ["sh", "-c", script], check=True)
