"""Routers with real guests: between networks and hosts, out to a physical network, and in by a floating address."""

from __future__ import annotations

import asyncio
from typing import Any

from kumulus_api import FloatingIP, Network, Router, SecurityGroup, Server
from kumulus_lab import commands
from kumulus_lab.hosts import Hosts
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console
from kumulus_lab.testing.cloud import Cloud, ready

OUTSIDE = "192.168.77.1"
ADDRESSES = {"red": "10.40.1.11", "blue": "10.40.2.11"}
HOSTS = {"red": "h1", "blue": "h2"}
ASKER = """#!/bin/sh
(n=0; while :; do n=$((n+1)); said=
 for peer in other={other} outside={outside}; do
  ping -c 1 -W 1 ${{peer#*=}} >/dev/null && said="$said ${{peer%=*}}=yes" || said="$said ${{peer%=*}}=no"
 done
 echo probe-$n$said; usleep 300000
done) >/dev/ttyS0 2>&1 &
"""


async def answers(outside: str, address: str, *, expected: bool = True) -> None:
    """Wait until an address answers the machine outside, or does not any more.

    Raises:
        TimeoutError: it does not come to that.
    """
    ping = ["ip", "netns", "exec", outside, "busybox", "ping", "-c", "1", "-W", "1", "-q", address]
    async with asyncio.timeout(60):
        while (await asyncio.to_thread(commands.run, ping, check=False, timeout=20)).returncode != (not expected):
            pass


async def test_a_router_leads_between_networks_and_out(
    cloud: Cloud, project: str, lab: LabSettings, outside: str
) -> None:
    """Guests of two networks on two hosts reach each other, as members of one group, and the outside.

    A floating address leads to one of them, goes along when it migrates, and leads nowhere when it is gone; nothing of
    them is left on the hosts.
    """
    before = {host: namespaces(lab, host) for host in HOSTS.values()}
    subnet = {"name": "v4", "cidr": "192.168.77.0/24", "gateway": OUTSIDE}
    subnet["pools"] = [{"start": "192.168.77.100", "end": "192.168.77.120"}]
    where = {"physicalNetwork": "physnet1"}
    external: dict[str, Any] = {"type": "Provider", "provider": where, "external": True, "subnets": [subnet]}
    await cloud.make(Network, "lan", external, project)
    await cloud.make(SecurityGroup, "answers", {"ingress": [{"protocol": "ICMP", "icmpType": 8}]}, project)
    for number, name in enumerate(ADDRESSES, start=1):
        await cloud.make_network(project, name, f"10.40.{number}.0/24")
    interfaces = [{"name": name, "network": {"name": name}} for name in ADDRESSES]
    await cloud.make(Router, "edge", {"interfaces": interfaces, "gateway": {"network": {"name": "lan"}}}, project)
    router = await cloud.until(Router, "edge", ready, namespace=project)
    own = router["spec"]["assignment"]["gateway"]["addresses"][0].split("/")[0]

    logs = {}
    for name, other in zip(ADDRESSES, reversed(ADDRESSES), strict=True):
        nic: dict[str, Any] = {"name": "eth0", "network": {"name": name}, "address": ADDRESSES[name]}
        if name == "red":
            nic["securityGroups"] = [{"name": "default"}, {"name": "answers"}]
        script = ASKER.format(other=ADDRESSES[other], outside=OUTSIDE)
        host = {"host": HOSTS[name]}
        await cloud.make_server(project, name, networks=[nic], userData={"inline": script}, placement=host)
    for name in ADDRESSES:
        logs[name] = console.path(lab, await cloud.server_ready(project, name))
    for name in ADDRESSES:
        await console.says(logs[name], r"probe-\d+ other=yes outside=yes", 120)
    await answers(outside, own)

    await cloud.make(FloatingIP, "in", {"network": {"name": "lan"}, "port": {"name": "red-eth0"}}, project)
    floating = await cloud.until(FloatingIP, "in", ready, namespace=project)
    address = floating["spec"]["assignment"]["address"]
    assert floating["spec"]["assignment"]["host"] == "h1"
    await answers(outside, address)
    await cloud.client.patch_merge(Server, "red", {"spec": {"placement": {"host": None}}}, project)
    await cloud.act(project, "red", "LiveMigrate")
    await cloud.until(FloatingIP, "in", lambda body: body["spec"]["assignment"]["host"] == "h2", namespace=project)
    await answers(outside, address)
    await cloud.delete(FloatingIP, "in", project)
    await answers(outside, address, expected=False)
    log = console.path(lab, await cloud.server_ready(project, "red"))
    await console.says(log, r"probe-\d+ other=yes outside=yes", 120)

    await asyncio.gather(*(cloud.delete(Server, name, project) for name in ADDRESSES))
    await cloud.delete(Router, "edge", project)
    await asyncio.gather(*(cloud.delete(Network, name, project) for name in ("lan", *ADDRESSES)))
    for _ in range(20):  # hosts clear away what nobody waits for
        if before == (left := {host: namespaces(lab, host) for host in HOSTS.values()}):
            break
        await asyncio.sleep(1)
    assert before == left


def namespaces(lab: LabSettings, host: str) -> set[str]:
    """The names of the network namespaces on a host."""
    return {line.split()[0] for line in Hosts(lab).run(host, ["ip", "netns", "list"]).stdout.splitlines()}
