"""A load balancer's datagrams with a real guest: two name servers outside, which it asks all the time."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from kumulus_api import LoadBalancer, Network, Port, Router, Server
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console
from kumulus_lab.testing.cloud import Cloud, ready
from kumulus_lab.testing.datagrams import name_server

OUTSIDE, ADDRESS = "192.168.77.1", "10.51.0.30"
SERVERS = {"one": (5301, "192.0.2.1"), "two": (5302, "192.0.2.2")}
CLIENT = f"""#!/bin/sh
(n=0; while :; do n=$((n+1))
 who=$(timeout 2 nslookup -type=a who.test {ADDRESS} 2>/dev/null | sed -n 's/^Address: *\\(192\\.0\\.2\\..\\)$/\\1/p')
 echo probe-$n from=${{who:-nobody}}; usleep 200000
done) >/dev/ttyS0 2>&1 &
"""


def states(balancer: dict[str, Any]) -> dict[str, str]:
    """Give the members' states by their names."""
    return {item["name"]: item["state"] for item in (balancer.get("status") or {}).get("members", [])}


@pytest.mark.long
async def test_datagrams_are_spread_over_name_servers(
    cloud: Cloud, project: str, lab: LabSettings, outside: str
) -> None:
    """A guest's questions go to both name servers; to one alone while the other's port is closed; and to both again.

    A deleted load balancer answers nobody, and leaves no port.
    """
    subnet = {"name": "v4", "cidr": "192.168.77.0/24", "gateway": OUTSIDE}
    subnet["pools"] = [{"start": "192.168.77.100", "end": "192.168.77.120"}]
    external: dict[str, Any] = {"type": "Provider", "provider": {"physicalNetwork": "physnet1"}, "external": True}
    await cloud.make(Network, "lan", external | {"subnets": [subnet]}, project)
    await cloud.make_network(project, "red", "10.51.0.0/24")
    interfaces = [{"name": "red", "network": {"name": "red"}}]
    await cloud.make(Router, "edge", {"interfaces": interfaces, "gateway": {"network": {"name": "lan"}}}, project)
    await cloud.until(Router, "edge", ready, namespace=project)
    servers = {name: await name_server(outside, *place) for name, place in SERVERS.items()}
    try:
        await _asked(cloud, project, lab, outside, servers)
    finally:
        for server in servers.values():
            server.close()
    await asyncio.gather(*(cloud.gone(Port, name, project) for name in ("lb-vip", "lb-own")))
    await cloud.delete(Server, "client", project)
    await cloud.delete(Router, "edge", project)
    await asyncio.gather(*(cloud.delete(Network, name, project) for name in ("lan", "red")))


async def _asked(
    cloud: Cloud, project: str, lab: LabSettings, outside: str, servers: dict[str, asyncio.DatagramTransport]
) -> None:
    nic = {"name": "eth0", "network": {"name": "red"}}
    await cloud.make_server(project, "client", networks=[nic], userData={"inline": CLIENT})
    check = {"type": "UDPConnect", "intervalSeconds": 1, "timeoutSeconds": 1, "fall": 2, "rise": 1}
    members = [{"name": name, "address": OUTSIDE, "port": port} for name, (port, _) in SERVERS.items()]
    listener = {"name": "dns", "protocol": "UDP", "port": 53, "pool": {"members": members, "healthCheck": check}}
    spec = {"network": {"name": "red"}, "address": ADDRESS, "listeners": [listener]}
    await cloud.make(LoadBalancer, "lb", spec, project)
    log = console.path(lab, await cloud.server_ready(project, "client"))
    await cloud.until(LoadBalancer, "lb", ready, namespace=project)
    both = {address for _, address in SERVERS.values()}
    for address in both:
        await console.says(log, f"from={re.escape(address)}", 120)
    assert await answerers(log, 6) == both

    servers["two"].close()
    await cloud.until(LoadBalancer, "lb", lambda body: states(body) == {"one": "Up", "two": "Down"}, namespace=project)
    assert await answerers(log, 6) == {SERVERS["one"][1]}
    servers["two"] = await name_server(outside, *SERVERS["two"])
    await cloud.until(LoadBalancer, "lb", lambda body: set(states(body).values()) == {"Up"}, namespace=project)
    assert await answerers(log, 6) == both

    await cloud.delete(LoadBalancer, "lb", project)
    assert await answerers(log, 3) == {"nobody"}


async def answerers(log: Any, count: int) -> set[str]:
    """Give who answers the next questions, after the one that is under way."""
    told = [int(number) for number in re.findall(r"probe-(\d+) ", await asyncio.to_thread(console.said, log))]
    begun = max(told, default=0) + 1
    found = [await console.says(log, rf"probe-{begun + number} from=(\S+)", 60) for number in range(1, count + 1)]
    return {match[1] for match in found}
