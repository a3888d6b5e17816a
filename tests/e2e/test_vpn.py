"""Tunnels with real guests: two routers of one cloud, each the other's peer."""

from __future__ import annotations

import asyncio
from typing import Any

from kumulus_api import Network, Router, SecurityGroup, VPNConnection
from kumulus_lab.hosts import Hosts
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console
from kumulus_lab.testing.cloud import Cloud, ready
from kumulus_runtime.resources import SECRET

SITES = {"head": ("10.71.0.0/24", "198.51.100.50", "h1"), "branch": ("10.72.0.0/24", "198.51.100.60", "h2")}
PROBE = """#!/bin/sh
(there=never; while :; do was=$there
 ping -c 1 -W 2 {address} >/dev/null 2>&1 && there=yes || there=no
 echo probe there=$there was=$was; usleep 200000
done) >/dev/ttyS0 2>&1 &
"""


def daemons(lab: LabSettings, host: str) -> set[str]:
    """What is left of tunnels on a host."""
    found = Hosts(lab).run(
        host, ["find", "/run/kumulus/vpn", "/run/kumulus/vpn-services", "-mindepth", "1"], check=False
    )
    return set(found.stdout.split())


async def test_guests_of_two_sites_reach_each_other(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """Guests behind two routers reach each other while there is a tunnel, not without, and nothing of it is left."""
    hosts = {host for _, _, host in SITES.values()}
    before = {host: await asyncio.to_thread(daemons, lab, host) for host in hosts}
    subnet = {"name": "v4", "cidr": "198.51.100.0/24", "gateway": "198.51.100.1"}
    await cloud.make(Network, "transit", {"external": True, "subnets": [subnet]}, project)
    metadata = {"name": "key", "namespace": project}
    await cloud.client.create(SECRET, {"metadata": metadata, "stringData": {"psk": "as long as it should be"}})
    await cloud.make(SecurityGroup, "answers", {"ingress": [{"protocol": "ICMP", "icmpType": 8}]}, project)
    other = dict(zip(SITES, reversed(SITES), strict=True))
    for name, (cidr, address, host) in SITES.items():
        await cloud.make_network(project, name, cidr)
        interface = {"name": name, "network": {"name": name}}
        gateway = {"network": {"name": "transit"}, "address": address}
        await cloud.make(Router, name, {"interfaces": [interface], "gateway": gateway}, project)
        peer, peer_address, _ = SITES[other[name]]
        nic: dict[str, Any] = {"name": "eth0", "network": {"name": name}, "address": cidr.replace("0/24", "10")}
        nic["securityGroups"] = [{"name": "default"}, {"name": "answers"}]
        probe = PROBE.format(address=peer.replace("0/24", "10"))
        await cloud.make_server(project, name, networks=[nic], userData={"inline": probe}, placement={"host": host})
        spec = {"router": {"name": name}, "peerAddress": peer_address, "peerCIDRs": [peer], "psk": {"secret": "key"}}
        await cloud.make(VPNConnection, name, spec, project)
    logs = [console.path(lab, await cloud.server_ready(project, name)) for name in SITES]
    for name in SITES:
        await cloud.until(VPNConnection, name, ready, namespace=project, seconds=90)
    for log in logs:
        await console.says(log, "probe there=yes", 120)
    await cloud.delete(VPNConnection, "head", project)
    await console.says(logs[0], "probe there=no was=yes", 60)
    await cloud.delete(VPNConnection, "branch", project)
    for _ in range(20):  # hosts clear away what nobody waits for
        left = {host: await asyncio.to_thread(daemons, lab, host) for host in hosts}
        if left == before:
            break
        await asyncio.sleep(1)
    assert left == before
