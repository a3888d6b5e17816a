"""The host that leads a router out and serves a load balancer loses its power: others do so within ten seconds."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from kumulus_api import FloatingIP, Host, LoadBalancer, Network, Port, Router, Server
from kumulus_lab import commands
from kumulus_lab.hosts import Hosts
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console, killing
from kumulus_lab.testing.cloud import Cloud, ready

OUTSIDE, ADDRESS = "192.168.77.1", "10.41.1.30"
LIMIT = 10.0
ASKER = f"""#!/bin/sh
(n=0; while :; do n=$((n+1))
 out=no; ping -c 1 -W 1 {OUTSIDE} >/dev/null && out=yes
 who=$(printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 1 {ADDRESS} 80 2>/dev/null | tail -n 1)
 echo probe-$n outside=$out vip=${{who:-no}}; usleep 100000
done) >/dev/ttyS0 2>&1 &
"""


def assigned(body: dict[str, Any]) -> dict[str, Any]:
    """What was decided."""
    found: dict[str, Any] = body["spec"].get("assignment") or {}
    return found


def gateway_of(body: dict[str, Any]) -> tuple[str, str]:
    """The host that a router leads out on, and the one that takes over."""
    gateway = assigned(body).get("gateway") or {}
    return gateway.get("host", ""), ((gateway.get("takeover") or {}).get("standby") or {}).get("host", "")


def served_by(body: dict[str, Any]) -> tuple[str, str]:
    """The host that serves a load balancer, and the one that takes over by itself."""
    given = assigned(body)
    return given.get("host", ""), given.get("standby", "") if given.get("takeover") else ""


@pytest.mark.long
@pytest.mark.disturbs
async def test_gateway_and_load_balancer_are_back_when_their_host_loses_power(
    cloud: Cloud, project: str, lab: LabSettings, outside: str
) -> None:
    """A server on another host reaches the outside and the load balancer again in time, and the outside reaches it.

    What has come back waits: the standby serves on, and is assigned.
    """
    gateway = await a_gateway(cloud, project)
    await a_load_balancer(cloud, project, gateway, [spec.name for spec in lab.host_specs])
    standby = served_by(await cloud.until(LoadBalancer, "lb", lambda body: all(served_by(body)), namespace=project))[1]
    other = min({spec.name for spec in lab.host_specs} - {gateway, standby}, default=standby)
    for name, host in (("one", standby), ("two", other), ("asks", other)):
        nic = {"name": "eth0", "network": {"name": "red"}, "securityGroups": [{"name": "default"}]}
        data = {"userData": {"inline": ASKER}} if name == "asks" else {}
        await cloud.make_server(project, name, networks=[nic], placement={"host": host}, **data)
    for name in ("one", "two"):
        await cloud.server_ready(project, name)
    log = console.path(lab, await cloud.server_ready(project, "asks"))
    await console.says(log, r"outside=yes vip=(one|two)", 180)
    await cloud.make(FloatingIP, "in", {"network": {"name": "lan"}, "port": {"name": "lb-vip"}}, project)
    floating = await cloud.until(FloatingIP, "in", ready, namespace=project)
    address = assigned(floating)["address"]
    await asked_until(outside, address, "one")

    hosts, restarts = Hosts(lab), await cloud.restarts()
    lasted = await back_again(log, lambda: hosts.power_off(gateway))
    from_outside = await asked_until(outside, address, "one")
    print(f"back after the power was cut: {lasted}; then from outside after {from_outside:.1f} s")
    assert max(lasted.values()) + from_outside <= LIMIT

    await asyncio.to_thread(hosts.start, gateway)
    before = len(console.said(log).splitlines())
    await killing.host_back(cloud, gateway, restarts)
    await cloud.until(Host, gateway, ready, seconds=240)
    body = await cloud.until(LoadBalancer, "lb", lambda body: all(served_by(body)) and ready(body), namespace=project)
    assert served_by(body)[0] == standby
    assert body["status"]["host"] == standby
    await console.says(log, r"outside=yes vip=(one|two)", 30)
    assert "outside=no" not in "\n".join(console.said(log).splitlines()[before:])

    await cloud.delete(FloatingIP, "in", project)
    await cloud.delete(LoadBalancer, "lb", project)
    await asyncio.gather(*(cloud.gone(Port, name, project) for name in ("lb-vip", "lb-own")))
    await asyncio.gather(*(cloud.delete(Server, name, project) for name in ("one", "two", "asks")))
    await cloud.delete(Router, "edge", project)
    await asyncio.gather(*(cloud.delete(Network, name, project) for name in ("lan", "red")))


async def a_gateway(cloud: Cloud, project: str) -> str:
    """Make networks and a router that leads out; give its host."""
    subnet = {"name": "v4", "cidr": "192.168.77.0/24", "gateway": OUTSIDE}
    subnet["pools"] = [{"start": "192.168.77.100", "end": "192.168.77.120"}]
    external: dict[str, Any] = {"type": "Provider", "provider": {"physicalNetwork": "physnet1"}, "external": True}
    await cloud.make(Network, "lan", external | {"subnets": [subnet]}, project)
    await cloud.make_network(project, "red", "10.41.1.0/24")
    interfaces = [{"name": "red", "network": {"name": "red"}}]
    await cloud.make(Router, "edge", {"interfaces": interfaces, "gateway": {"network": {"name": "lan"}}}, project)
    body = await cloud.until(Router, "edge", lambda body: all(gateway_of(body)), namespace=project)
    return gateway_of(body)[0]


async def a_load_balancer(cloud: Cloud, project: str, host: str, names: list[str]) -> None:
    """Make a load balancer that a host serves: it alone may have one at first."""
    others = [name for name in names if name != host]
    for name in others:
        await cloud.client.patch_merge(Host, name, {"spec": {"maintenance": True}})
    check = {"type": "HTTP", "intervalSeconds": 1, "timeoutSeconds": 1, "fall": 2, "rise": 1}
    members = [{"name": name, "server": {"name": name}, "port": 80} for name in ("one", "two")]
    listener = {"name": "http", "protocol": "HTTP", "port": 80, "pool": {"members": members, "healthCheck": check}}
    spec = {"network": {"name": "red"}, "address": ADDRESS, "listeners": [listener]}
    await cloud.make(LoadBalancer, "lb", spec, project)
    await cloud.until(LoadBalancer, "lb", lambda body: served_by(body)[0] == host, namespace=project)
    for name in others:
        await cloud.client.patch_merge(Host, name, {"spec": {"maintenance": False}})


async def asked_until(machine: str, address: str, member: str) -> float:
    """Ask an address from a machine outside until a member answers; give the seconds."""
    once = ["ip", "netns", "exec", machine, "busybox", "nc", "-w", "1", address, "80"]
    asking = partial(commands.run, once, check=False, timeout=20, stdin="GET / HTTP/1.0\r\n\r\n")
    begun = time.monotonic()
    async with asyncio.timeout(60):
        while member not in (await asyncio.to_thread(asking)).stdout:
            pass
    return time.monotonic() - begun


async def back_again(log: Any, act: Callable[[], None]) -> dict[str, float]:
    """Give the seconds from the beginning of an act until the guest, interrupted by it, reaches each again."""
    begun, lasted, interrupted = 0.0, dict[str, float](), set[str]()
    known = len(console.said(log).splitlines())
    number = 0
    async with asyncio.timeout(60):
        acting: asyncio.Task[None] | None = None
        async for line in console.lines(log):
            number += 1
            found = re.search(r"outside=(\S+) vip=(\S+)", line)
            if number <= known or found is None:
                continue
            if acting is None:
                begun = time.monotonic()
                acting = asyncio.create_task(asyncio.to_thread(act))
                continue
            for what, answer in zip(("outside", "vip"), found.groups(), strict=True):
                if answer == "no":
                    interrupted.add(what)
                elif what in interrupted:
                    lasted.setdefault(what, time.monotonic() - begun)
            if len(lasted) == 2:
                await acting
                return lasted
    raise AssertionError("unreachable")
