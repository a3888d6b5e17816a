"""The host that leads a router out loses its power: real guests are led out by another host in at most ten seconds."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from kumulus_api import FloatingIP, Host, Network, Router, SecurityGroup, Server
from kumulus_lab import commands
from kumulus_lab.hosts import Hosts
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console, killing
from kumulus_lab.testing.cloud import Cloud, ready

OUTSIDE = "192.168.77.1"
LIMIT = 10.0
ASKER = f"""#!/bin/sh
(n=0; while :; do n=$((n+1))
 ping -c 1 -W 1 {OUTSIDE} >/dev/null && echo probe-$n outside=yes || echo probe-$n outside=no
 usleep 200000
done) >/dev/ttyS0 2>&1 &
"""


def pair_of(body: dict[str, Any]) -> tuple[str, str]:
    """The host that leads a router out, and the one that takes over."""
    gateway = (body["spec"].get("assignment") or {}).get("gateway") or {}
    standby = (gateway.get("takeover") or {}).get("standby") or {}
    return gateway.get("host", ""), standby.get("host", "")


@pytest.mark.long
@pytest.mark.disturbs
async def test_another_host_leads_out_when_the_gateways_host_loses_power(
    cloud: Cloud, project: str, lab: LabSettings, outside: str
) -> None:
    """A server on another host reaches the outside again in time; a floating address there is not interrupted.

    What has come back waits, and nobody is interrupted again. In a lab of two hosts the servers are on the standby.
    """
    subnet = {"name": "v4", "cidr": "192.168.77.0/24", "gateway": OUTSIDE}
    subnet["pools"] = [{"start": "192.168.77.100", "end": "192.168.77.120"}]
    where = {"physicalNetwork": "physnet1"}
    external: dict[str, Any] = {"type": "Provider", "provider": where, "external": True, "subnets": [subnet]}
    await cloud.make(Network, "lan", external, project)
    await cloud.make(SecurityGroup, "answers", {"ingress": [{"protocol": "ICMP", "icmpType": 8}]}, project)
    await cloud.make_network(project, "red", "10.40.1.0/24")
    interfaces = [{"name": "red", "network": {"name": "red"}}]
    await cloud.make(Router, "edge", {"interfaces": interfaces, "gateway": {"network": {"name": "lan"}}}, project)
    router = await cloud.until(Router, "edge", lambda body: all(pair_of(body)), namespace=project)
    gateway, standby = pair_of(router)
    neither = {spec.name for spec in lab.host_specs} - {gateway, standby}
    other = min(neither, default=standby)
    for name in ("asks", "serves"):
        nic = {"name": "eth0", "network": {"name": "red"}, "securityGroups": [{"name": "default"}, {"name": "answers"}]}
        data = {"userData": {"inline": ASKER}} if name == "asks" else {}
        await cloud.make_server(project, name, networks=[nic], placement={"host": other}, **data)
    log = console.path(lab, await cloud.server_ready(project, "asks"))
    await cloud.server_ready(project, "serves")
    await console.says(log, r"outside=yes", 120)
    await cloud.make(FloatingIP, "in", {"network": {"name": "lan"}, "port": {"name": "serves-eth0"}}, project)
    floating = await cloud.until(FloatingIP, "in", ready, namespace=project)
    address = floating["spec"]["assignment"]["address"]
    assert floating["spec"]["assignment"]["host"] == other
    await answered(outside, address)

    hosts, restarts = Hosts(lab), await cloud.restarts()
    asking = pinging(outside, address, "-c", "30", "-W", "2")
    flow = await asyncio.create_subprocess_exec(*asking, stdout=asyncio.subprocess.PIPE)
    lasted = await led_out_again(log, lambda: hosts.power_off(gateway))
    told, _ = await flow.communicate()
    print(f"led out again {lasted:.1f} s after the power was cut")
    assert lasted <= LIMIT
    assert b"30 packets transmitted, 30 packets received" in told, told

    await asyncio.to_thread(hosts.start, gateway)
    before = len(console.said(log).splitlines())
    # The operator may have been on that host.
    await killing.host_back(cloud, gateway, restarts)
    await cloud.until(Host, gateway, ready, seconds=240)
    await cloud.until(
        Router, "edge", lambda body: pair_of(body)[0] == standby and all(pair_of(body)), namespace=project
    )
    await console.says(log, r"outside=yes", 30)
    assert "outside=no" not in "\n".join(console.said(log).splitlines()[before:])

    await cloud.delete(FloatingIP, "in", project)
    await asyncio.gather(*(cloud.delete(Server, name, project) for name in ("asks", "serves")))
    await cloud.delete(Router, "edge", project)
    await asyncio.gather(*(cloud.delete(Network, name, project) for name in ("lan", "red")))


def pinging(machine: str, address: str, *options: str) -> list[str]:
    """Give the command that asks an address from a machine outside."""
    return ["ip", "netns", "exec", machine, "busybox", "ping", "-q", *options, address]


async def answered(machine: str, address: str) -> None:
    """Wait until an address answers."""
    once = pinging(machine, address, "-c", "1", "-W", "1")
    async with asyncio.timeout(60):
        while (await asyncio.to_thread(commands.run, once, check=False, timeout=20)).returncode:
            pass


async def led_out_again(log: Any, act: Any) -> float:
    """Give the seconds from the beginning of an act until the guest, interrupted by it, reaches the outside again."""
    begun, interrupted = 0.0, False
    async with asyncio.timeout(60):
        acting: asyncio.Task[None] | None = None
        known = len(console.said(log).splitlines())
        number = 0
        async for line in console.lines(log):
            number += 1
            if number <= known:
                continue
            if acting is None and "outside=yes" in line:
                begun = time.monotonic()
                acting = asyncio.create_task(asyncio.to_thread(act))
            interrupted = interrupted or (acting is not None and "outside=no" in line)
            if interrupted and "outside=yes" in line and acting is not None:
                lasted = time.monotonic() - begun
                await acting
                return lasted
    raise AssertionError("unreachable")
