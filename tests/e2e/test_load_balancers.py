"""Load balancers with real guests: members on two hosts, a client that asks all the time."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from kumulus_api import LoadBalancer, Port, Server
from kumulus_lab.hosts import Hosts
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console
from kumulus_lab.testing.cloud import Cloud, ready

ADDRESS = "10.50.0.30"
MEMBERS = {"one": "h1", "two": "h2"}
CLIENT = """#!/bin/sh
(n=0; while :; do n=$((n+1))
 who=$(printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {address} 80 2>/dev/null | tail -n 1)
 echo probe-$n from=${{who:-nobody}}; usleep 200000
done) >/dev/ttyS0 2>&1 &
"""


def states(balancer: dict[str, Any]) -> dict[str, str]:
    """Give the members' states by their names."""
    return {item["name"]: item["state"] for item in (balancer.get("status") or {}).get("members", [])}


async def test_requests_are_spread_over_servers(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """A client's requests go to both servers; to one alone while the other is off; to both when it is back.

    A deleted one leaves nothing on the hosts.
    """
    before = {host: await asyncio.to_thread(left_on, lab, host) for host in MEMBERS.values()}
    await cloud.make_network(project, "lan", "10.50.0.0/24")
    nic = {"name": "eth0", "network": {"name": "lan"}}
    for name, host in MEMBERS.items():
        await cloud.make_server(project, name, networks=[nic], placement={"host": host})
    script = CLIENT.format(address=ADDRESS)
    await cloud.make_server(project, "client", networks=[nic], userData={"inline": script})
    check = {"type": "HTTP", "intervalSeconds": 1, "timeoutSeconds": 1, "fall": 2, "rise": 1}
    members = [{"name": name, "server": {"name": name}, "port": 80} for name in MEMBERS]
    listener = {"name": "http", "protocol": "HTTP", "port": 80, "pool": {"members": members, "healthCheck": check}}
    spec = {"network": {"name": "lan"}, "address": ADDRESS, "listeners": [listener]}
    await cloud.make(LoadBalancer, "lb", spec, project)
    for name in MEMBERS:
        await cloud.server_ready(project, name)
    log = console.path(lab, await cloud.server_ready(project, "client"))
    await cloud.until(LoadBalancer, "lb", ready, namespace=project)
    for name in MEMBERS:  # HAProxy takes a member for up until its first checks have failed: it may boot yet
        await console.says(log, f"from={name}", 120)
    await cloud.until(LoadBalancer, "lb", lambda body: set(states(body).values()) == {"Up"}, namespace=project)
    assert await answerers(log, 6) == set(MEMBERS)

    await cloud.client.patch_merge(Server, "two", {"spec": {"powerState": "Stopped"}}, project)
    await cloud.until(LoadBalancer, "lb", lambda body: states(body).get("two") == "Down", namespace=project)
    assert await answerers(log, 6) == {"one"}
    await cloud.client.patch_merge(Server, "two", {"spec": {"powerState": "Running"}}, project)
    await cloud.until(LoadBalancer, "lb", lambda body: states(body).get("two") == "Up", namespace=project)
    assert await answerers(log, 6) == set(MEMBERS)

    await cloud.delete(LoadBalancer, "lb", project)
    assert await answerers(log, 3) == {"nobody"}
    await cloud.gone(Port, "lb-vip", project)
    await asyncio.gather(*(cloud.delete(Server, name, project) for name in (*MEMBERS, "client")))
    for _ in range(20):  # hosts clear away what nobody waits for
        left = {host: await asyncio.to_thread(left_on, lab, host) for host in MEMBERS.values()}
        if before == left:
            break
        await asyncio.sleep(1)
    assert before == left


async def answerers(log: Any, count: int) -> set[str]:
    """Give who answers the next requests, after the one that is under way."""
    told = [int(number) for number in re.findall(r"probe-(\d+) ", await asyncio.to_thread(console.said, log))]
    begun = max(told, default=0) + 1
    found = [await console.says(log, rf"probe-{begun + number} from=(\S+)", 60) for number in range(1, count + 1)]
    return {match[1] for match in found}


def left_on(lab: LabSettings, host: str) -> set[str]:
    """Give the namespaces of load balancers, and their processes, on a host."""
    hosts = Hosts(lab)
    names = {line.split()[0] for line in hosts.run(host, ["ip", "netns", "list"]).stdout.splitlines()}
    files = hosts.run(host, ["ls", "/run/kumulus/services"]).stdout.split()
    return {name for name in names if name.startswith("kl-")} | {name for name in files if "kumulus-lb-" in name}
