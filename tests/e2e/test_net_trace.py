"""Traces in a real cloud: what `kubectl kumulus net trace` says is what guests see."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from kumulus_api import NetworkTrace, Router, SecurityGroup
from kumulus_lab import builds
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console
from kumulus_lab.testing.cloud import Cloud, ready

pytestmark = pytest.mark.tenant

ADDRESSES = {"a": "10.50.1.11", "web": "10.50.1.12", "routed": "10.50.2.13", "mute": "10.50.2.14"}
NETWORKS = {"a": "one", "web": "one", "routed": "two", "mute": "two"}
HOSTS = {"a": "h1", "web": "h2", "routed": "h2", "mute": "h2"}
GROUPS = {"web": "closed", "routed": "closed", "mute": "mute"}
# Asks once in a while who answers a ping.
ASKER = """#!/bin/sh
(n=0; while :; do n=$((n+1)); said=
 for peer in web={web} routed={routed} mute={mute}; do
  ping -c 1 -W 1 ${{peer#*=}} >/dev/null && said="$said ${{peer%=*}}=yes" || said="$said ${{peer%=*}}=no"
 done
 echo probe-$n$said; usleep 300000
done) >/dev/ttyS0 2>&1 &
"""


async def traced(lab: LabSettings, project: str, *asked: str) -> tuple[int, dict[str, Any]]:
    """Give the exit code of the plugin, and what it says in JSON."""
    plugins = Path(sys.executable).parent
    path = os.pathsep.join([str(plugins), str(builds.bin_directory(lab)), os.environ["PATH"]])
    process = await asyncio.create_subprocess_exec(
        "kubectl", "kumulus", "net", "trace", *asked, "--namespace", project, "-o", "json",
        env={**os.environ, "PATH": path, "KUBECONFIG": str(lab.kubeconfig)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await asyncio.wait_for(process.communicate(), 60)
    assert output, errors.decode()
    return process.returncode or 0, json.loads(output)


async def test_a_trace_says_what_guests_see(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """Between two hosts, in one network and routed, what no rule lets in is dropped, and passes when a rule does.

    The hop that drops names the group; none of the traces is left. What a stateless group lets in and does not let out
    is said to pass, and its answer to be dropped by that group.
    """
    for number, name in enumerate(("one", "two"), start=1):
        await cloud.make_network(project, name, f"10.50.{number}.0/24")
    interfaces = [{"name": name, "network": {"name": name}} for name in ("one", "two")]
    await cloud.make(Router, "r", {"interfaces": interfaces}, project)
    await cloud.until(Router, "r", ready, namespace=project)
    ping = {"protocol": "ICMP", "icmpType": 8}
    await cloud.make(SecurityGroup, "closed", {"ingress": []}, project)
    await cloud.make(SecurityGroup, "mute", {"ingress": [ping], "egress": [], "stateful": False}, project)
    for name, address in ADDRESSES.items():
        nic: dict[str, Any] = {"name": "eth0", "network": {"name": NETWORKS[name]}, "address": address}
        if name in GROUPS:
            nic["securityGroups"] = [{"name": GROUPS[name]}]
        script = ASKER.format(**ADDRESSES) if name == "a" else "#!/bin/sh\n"
        placement = {"host": HOSTS[name]}
        await cloud.make_server(project, name, networks=[nic], placement=placement, userData={"inline": script})
    servers = {name: await cloud.server_ready(project, name) for name in ADDRESSES}
    log = console.path(lab, servers["a"])
    await console.says(log, r"probe-\d+ web=no routed=no mute=no", 120)
    for target in ("web", "server/routed", "port/web-eth0"):
        code, said = await traced(lab, project, "a", target)
        assert (code, said["verdict"]) == (1, "Dropped")
        last = said["hops"][-1]
        assert (last["what"], last["host"]) == ("IngressRules", "h2")
        assert "security group closed" in last["message"]
    await cloud.client.patch_merge(SecurityGroup, "closed", {"spec": {"ingress": [ping]}}, project)
    await console.says(log, r"probe-\d+ web=yes routed=yes mute=no", 60)
    for target in ("web", ADDRESSES["routed"]):
        code, said = await traced(lab, project, "a", target)
        assert (code, said["verdict"]) == (0, "Passed"), said
        assert said["answer"]["verdict"] == "Passed", said
        assert {hop["host"] for hop in said["hops"]} == {hop["host"] for hop in said["answer"]["hops"]} == {"h1", "h2"}
    code, said = await traced(lab, project, "a", "mute")
    assert (code, said["verdict"], said["answer"]["verdict"]) == (1, "Passed", "Dropped"), said
    last = said["answer"]["hops"][-1]
    assert (last["what"], last["host"]) == ("EgressRules", "h2")
    assert "security group mute" in last["message"]
    assert "stateless" in last["message"]
    code, said = await traced(lab, project, "a", "web", "--port", "80")
    assert (code, said["verdict"]) == (1, "Dropped")
    code, said = await traced(lab, project, "a", "10.50.1.99")
    assert (code, said["hops"][-1]["what"]) == (1, "Network")
    assert not (await cloud.client.list(NetworkTrace, project))[0]
