"""Peering with the lab's own cluster: real pods and real guests, on one host and between two."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kumulus_api import Network, Project, SecurityGroup
from kumulus_lab.control_plane import ControlPlane
from kumulus_lab.hosts import Hosts
from kumulus_lab.images import BUSYBOX
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console
from kumulus_lab.testing.cloud import Cloud, condition

SUBNET = "10.77.0.0/24"
GATEWAY = "10.77.0.254"
"""The network's own servers, which is where the way to Services leads."""
SERVERS = {"one": ("h1", "10.77.0.101"), "two": ("h2", "10.77.0.102")}
EXAMPLE = Path(__file__).parents[2] / "examples" / "peering.yaml"
ECHO, WEB = 7, 8080
"""Ports that each guest answers on, and the pods."""
# Says again and again what it reaches: the Service by the way that DHCP has told; the others it leads there itself.
GUEST = """#!/bin/sh
takes() {{ nc -w 1 $1 $2 </dev/null >/dev/null 2>&1; }}
for net in {led}; do ip route replace $net via {gateway}; done
(n=0; while :; do n=$((n+1)); : >/tmp/taken
 for at in {forbidden}; do (takes ${{at%:*}} ${{at#*:}} && printf ,$at >>/tmp/taken) & done
 (printf 'GET / HTTP/1.0\\r\\n\\r\\n'; sleep 1) | nc -w 2 {service} {web} 2>/dev/null | grep -q hello && s=yes || s=no
 wait; found=$(cat /tmp/taken)
 echo probe-$n service=$s forbidden=${{found:-none}} end
 usleep 300000
done) >/dev/ttyS0 2>&1 &
"""


@dataclass
class Peered:
    """A project with a peered network, guests on both hosts, pods on both, and a Service of theirs."""

    cloud: Cloud
    plane: ControlPlane
    project: str
    logs: dict[str, Path]

    async def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """Run kubectl in the project's namespace."""
        words = ("--namespace", self.project, *arguments)
        return (await asyncio.to_thread(self.plane.kubectl, *words, stdin=stdin, check=check)).stdout

    async def asks(self, pod: str, address: str) -> bool:
        """Tell whether a guest echoes what a pod says to it."""
        shell = f"(echo heard; busybox sleep 1) | busybox nc -w 2 {address} {ECHO}"
        return "heard" in await self.kubectl("exec", pod, "--", "busybox", "sh", "-c", shell, check=False)

    async def pings(self, pod: str, address: str) -> bool:
        """Tell whether a guest answers a pod's ping."""
        ping = ("busybox", "ping", "-q", "-c", "1", "-W", "2", address)
        return " 0% packet loss" in await self.kubectl("exec", pod, "--", *ping, check=False)

    async def grant(self, *ranges: str, to_services: bool = False) -> None:
        """Have the project granted this, and nothing else."""
        spec = {"spec": {"peering": {"fromPods": list(ranges), "toServices": to_services}}}
        await self.cloud.client.patch_merge(Project, self.project, spec)

    async def told(self, status: str, reason: str) -> None:
        """Wait until the network tells so of its peering."""

        def holds(body: dict[str, Any]) -> bool:
            found = condition(body, "Peered") or {}
            return (found.get("status"), found.get("reason")) == (status, reason)

        await self.cloud.until(Network, "peered", holds, namespace=self.project)

    async def sees(self, name: str, service: str) -> None:
        """Wait until a guest says, of what it has begun after now, whether it reaches the Service; and nothing else."""
        begun = [
            int(number)
            for number in re.findall(r"probe-(\d+) ", await asyncio.to_thread(console.said, self.logs[name]))
        ]
        async with asyncio.timeout(90):
            async for line in console.lines(self.logs[name]):
                found = re.search(r"probe-(\d+) service=(\w+) forbidden=(\S+) end", line)
                if found and int(found[1]) > max(begun, default=0) + 1:
                    assert found[3] == "none", line
                    if found[2] == service:
                        return


def pod(name: str, host: str) -> dict[str, Any]:
    """A pod on a host that answers by HTTP."""
    serve = f"echo hello >/tmp/index.html; exec busybox httpd -f -p {WEB} -h /tmp"
    container = {
        "name": "web",
        "image": BUSYBOX,
        "imagePullPolicy": "Never",
        "command": ["busybox", "sh", "-c", serve],
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    spec = {"nodeName": host, "containers": [container], "volumes": [{"name": "tmp", "emptyDir": {}}]}
    metadata = {"name": name, "labels": {"app": "hello"}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": spec | {"terminationGracePeriodSeconds": 0},
    }


@pytest.fixture
async def peered(cloud: Cloud, lab: LabSettings) -> AsyncIterator[Peered]:
    """Guests and pods on both hosts; what they are granted is up to the test."""
    plane = ControlPlane.of_lab(lab)
    async with cloud.project(peering={"fromPods": [SUBNET], "toServices": True}) as project:
        made = Peered(cloud, plane, project, {})
        ports = [{"port": WEB}]
        service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "hello"}}
        objects = [
            service | {"spec": {"selector": {"app": "hello"}, "ports": ports}},
            pod("pod-h1", "h1"),
            pod("pod-h2", "h2"),
        ]
        for body in objects:
            await made.kubectl("apply", "--filename", "-", stdin=json.dumps(body))
        await made.kubectl("wait", "--for=condition=Ready", "pod/pod-h1", "pod/pod-h2", "--timeout=50s")
        found = json.loads(await made.kubectl("get", "service,pods", "--output=json"))["items"]
        address = next(item["spec"]["clusterIP"] for item in found if item["kind"] == "Service")
        pods = [item["status"]["podIP"] for item in found if item["kind"] == "Pod"]
        hosts = [lab.host(name).address for name in ("h1", "h2")]
        forbidden = [f"{lab.gateway}:6443", *(f"{host}:10250" for host in hosts), *(f"{item}:{WEB}" for item in pods)]
        forbidden += ["169.254.192.0:10250", f"{address}:10250"]
        ranges = {"toServices": True, "fromPods": True}
        rules = [{"protocol": "ICMP", "icmpType": 8}, {"protocol": "TCP", "port": ECHO}]
        await cloud.make(SecurityGroup, "cluster", {"ingress": []}, project)
        ingress = [rule | {"remoteGroup": {"name": "cluster"}} for rule in rules]
        await cloud.make(SecurityGroup, "answers", {"ingress": ingress}, project)
        subnet = {"name": "v4", "cidr": SUBNET, "gateway": "10.77.0.1"}
        peering = ranges | {"securityGroups": ["cluster"]}
        await cloud.make(Network, "peered", {"subnets": [subnet], "peering": peering}, project)
        await made.told("True", "Peered")
        led = " ".join([str(lab.subnet), str(lab.pods), "169.254.192.0/24"])
        script = GUEST.format(led=led, gateway=GATEWAY, forbidden=" ".join(forbidden), service=address, web=WEB)
        for name, (host, at) in SERVERS.items():
            nic = {
                "name": "eth0",
                "network": {"name": "peered"},
                "address": at,
                "securityGroups": [{"name": "answers"}],
            }
            await cloud.make_server(
                project, name, networks=[nic], placement={"host": host}, userData={"inline": script}
            )
        for name in SERVERS:
            made.logs[name] = console.path(lab, await cloud.server_ready(project, name, 120))
        try:
            yield made
        finally:
            await made.kubectl("delete", "pod,service", "--all", "--timeout=50s")


async def test_pods_and_guests_meet_as_far_as_they_are_granted(peered: Peered, lab: LabSettings) -> None:
    """Pods reach guests and guests Services, on either host, and nothing of a host; without a grant neither does."""
    for name in SERVERS:
        await console.says(peered.logs[name], "kumulus-guest: ready", 120)
    for name, (_, address) in SERVERS.items():
        await peered.sees(name, service="yes")
        for each in ("pod-h1", "pod-h2"):
            assert await peered.asks(each, address), f"{each} to {name}"
            assert await peered.pings(each, address), f"{each} to {name}"
    await peered.grant(to_services=True)
    await peered.told("False", "NotGranted")
    await asyncio.to_thread(_gone, lab, "kq")
    for _, address in SERVERS.values():
        for each in ("pod-h1", "pod-h2"):
            assert not await peered.asks(each, address)
    for name in SERVERS:
        await peered.sees(name, service="yes")
    await peered.grant(SUBNET)
    for name, (_, address) in SERVERS.items():
        await peered.sees(name, service="no")
        assert await peered.asks("pod-h2", address)
    await peered.grant()
    await asyncio.to_thread(_gone, lab, "k[qs]")
    # After its links.
    await asyncio.to_thread(_none, lab, "nft list tables | grep -q kumulus-peering")


async def test_the_example_does_what_it_says(cloud: Cloud, lab: LabSettings) -> None:
    """When its project is granted it, a pod of any node reaches the example's server, as the how-to says."""
    made = Peered(cloud, ControlPlane.of_lab(lab), "demo", {})
    file = str(EXAMPLE)
    try:
        await made.grant("10.128.0.0/16", to_services=True)
        await made.kubectl("apply", "--filename", file)
        await made.told("True", "Peered")
        await made.kubectl("apply", "--filename", "-", stdin=json.dumps(pod("probe", "h2")))
        await made.kubectl("wait", "--for=condition=Ready", "pod/probe", "--timeout=50s")
        log = console.path(lab, await cloud.server_ready("demo", "legacy", 120))
        await console.says(log, "kumulus-guest: ready", 120)
        assert await made.asks("probe", "10.128.0.10")
        assert await made.pings("probe", "10.128.0.10")
    finally:
        await made.kubectl("delete", "pod/probe", "--ignore-not-found", "--timeout=50s")
        await made.kubectl("delete", "--ignore-not-found", "--timeout=50s", "--filename", file)
        await cloud.client.patch_merge(Project, "demo", {"spec": {"peering": None}})


def _gone(lab: LabSettings, prefix: str) -> None:
    """Wait until no host has a link by which anything is peered."""
    _none(lab, f"ls /sys/class/net | grep -q '^{prefix}......$'")


def _none(lab: LabSettings, found: str) -> None:
    """Wait until a shell's words find nothing on any host."""
    script = f"for n in $(seq 100); do {found} || exit 0; sleep 0.1; done; exit 1"
    for host in ("h1", "h2"):
        Hosts(lab).run(host, ["sh", "-c", script], check=True)
