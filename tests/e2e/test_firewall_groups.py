"""Firewall groups with real guests: what passes a router between two hosts is judged on its gateway's host."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from kumulus_api import FirewallGroup, Network, Router
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console
from kumulus_lab.testing.cloud import Cloud, ready

pytestmark = pytest.mark.tenant

ADDRESSES = {"red": "10.41.1.11", "blue": "10.41.2.11"}
HOSTS = {"red": "h1", "blue": "h2"}
ASKER = """#!/bin/sh
(n=0; while :; do n=$((n+1))
 ping -c 1 -W 1 {other} >/dev/null && said=yes || said=no
 echo probe-$n other=$said; usleep 300000
done) >/dev/ttyS0 2>&1 &
"""
PING: dict[str, Any] = {"name": "ping", "action": "Allow", "protocol": "ICMP"}


async def answered(log: Path, said: str) -> None:
    """Wait until a guest says of what it has begun after now whether the other answers.

    Raises:
        TimeoutError: it does not come to that.
    """
    last = max(int(number) for number in re.findall(r"probe-(\d+)", console.said(log)))
    async with asyncio.timeout(60):
        async for line in console.lines(log):
            found = re.search(r"probe-(\d+) other=(\w+)", line)
            if found is not None and int(found[1]) > last + 1 and found[2] == said:
                return


async def test_a_firewall_group_judges_what_passes_a_router(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """Guests of two networks on two hosts reach each other as rules allow it now, and freely without the group."""
    subnet = {"name": "v4", "cidr": "198.51.100.0/24", "gateway": "198.51.100.1"}
    await cloud.make(Network, "lake", {"external": True, "subnets": [subnet]}, project)
    for number, name in enumerate(ADDRESSES, start=1):
        await cloud.make_network(project, name, f"10.41.{number}.0/24")
    interfaces = [{"name": name, "network": {"name": name}} for name in ADDRESSES]
    await cloud.make(Router, "wall", {"interfaces": interfaces, "gateway": {"network": {"name": "lake"}}}, project)
    router = await cloud.until(Router, "wall", ready, namespace=project)
    group = {"routers": [{"name": "wall"}], "ingressRules": [PING], "egressRules": [PING]}
    await cloud.make(FirewallGroup, "judge", group, project)
    found = await cloud.until(FirewallGroup, "judge", ready, namespace=project)
    (place,) = found["status"]["places"]
    assert place["host"] == router["spec"]["assignment"]["gateway"]["host"]
    for name, other in zip(ADDRESSES, reversed(ADDRESSES), strict=True):
        nic = {"name": "eth0", "network": {"name": name}, "address": ADDRESSES[name]}
        script = ASKER.format(other=ADDRESSES[other])
        host = {"host": HOSTS[name]}
        await cloud.make_server(project, name, networks=[nic], userData={"inline": script}, placement=host)
    logs = [console.path(lab, await cloud.server_ready(project, name)) for name in ADDRESSES]
    for log in logs:
        await console.says(log, r"probe-\d+ other=yes", 120)
    for spec, said in (({"ingressRules": []}, "no"), ({"ingressRules": [PING]}, "yes"), ({"adminState": "Down"}, "no")):
        await cloud.client.patch_merge(FirewallGroup, "judge", {"spec": spec}, project)
        for log in logs:
            await answered(log, said)
    await cloud.delete(FirewallGroup, "judge", project)
    for log in logs:
        await answered(log, "yes")
