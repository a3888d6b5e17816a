"""Security groups with real guests: who is let in, on one host and between two, and what becomes of those inside."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kumulus_api import PUBLIC_NAMESPACE, Network, SecurityGroup, Server
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console
from kumulus_lab.testing.cloud import Cloud, condition

pytestmark = pytest.mark.tenant

ADDRESSES = {"web": "10.30.0.11", "near": "10.30.0.12", "far": "10.30.0.13", "stranger": "10.30.0.14"}
HOSTS = {"web": "h1", "near": "h1", "far": "h2", "stranger": "h2"}
# Looks again and again who answers, and holds one connection to the web server as long as it lives.
GUEST = """#!/bin/sh
(n=0; while :; do n=$((n+1)); said=
 for peer in web={web} near={near} far={far}; do
  ping -c 1 -W 1 ${{peer#*=}} >/dev/null && said="$said ${{peer%=*}}=yes" || said="$said ${{peer%=*}}=no"
 done
 echo probe-$n$said; usleep 300000
done) >/dev/ttyS0 2>&1 &
(until echo heard | nc -w 2 {web} 7 2>/dev/null | grep -q heard; do usleep 200000; done
 (n=0; while :; do n=$((n+1)); echo $n; usleep 200000; done) | nc {web} 7 | while read n; do echo tick-$n; done
 echo STREAM-ENDED) >/dev/ttyS0 2>&1 &
"""
MEMBERS = {"remoteGroup": {"name": "default"}}
PING, ECHO = {"protocol": "ICMP", "icmpType": 8}, {"protocol": "TCP", "port": 7}


@dataclass
class Guests:
    """Three guests of a project, and one of another, on a network that all projects may use."""

    cloud: Cloud
    project: str
    logs: dict[str, Path]

    async def rules(self, group: str, *ingress: dict[str, Any]) -> None:
        """Have a group let this in from now on."""
        await self.cloud.client.patch_merge(SecurityGroup, group, {"spec": {"ingress": list(ingress)}}, self.project)

    async def sees(self, name: str, **peers: str) -> None:
        """Wait until a guest says twice, of what it has begun after now, who answers it."""
        words = " ".join(f"{peer}={answer}" for peer, answer in peers.items())
        begun = max([int(number) for number in re.findall(r"probe-(\d+) ", await self.said(name))], default=0)
        seen = 0
        async with asyncio.timeout(60):
            async for line in console.lines(self.logs[name]):
                found = re.search(r"probe-(\d+) (.*\S)", line)
                if found and int(found[1]) > begun + 1:
                    seen = seen + 1 if found[2] == words else 0
                    if seen == 2:
                        return

    async def said(self, name: str) -> str:
        """Give all that a guest has said."""
        return await asyncio.to_thread(console.said, self.logs[name])

    async def ticks(self, name: str) -> int:
        """Give how far a guest's stream has come, whose numbers all come once and in order."""
        numbers = [int(number) for number in re.findall(r"tick-(\d+)", await self.said(name))]
        assert numbers == list(range(1, len(numbers) + 1))
        return len(numbers)


@pytest.fixture
async def network(cloud: Cloud) -> AsyncIterator[dict[str, str]]:
    """A network that all projects may use."""
    name = f"t-{uuid.uuid4().hex[:8]}"
    await cloud.make_network(PUBLIC_NAMESPACE, name, "10.30.0.0/24")
    yield {"name": name, "namespace": PUBLIC_NAMESPACE}
    await cloud.delete(Network, name, PUBLIC_NAMESPACE)


@pytest.fixture
async def guests(cloud: Cloud, lab: LabSettings, network: dict[str, str]) -> AsyncIterator[Guests]:
    """`web` is in group web, which lets nothing in; the others are in their projects' default."""
    async with cloud.project() as red, cloud.project() as blue:
        await cloud.make(SecurityGroup, "web", {"ingress": []}, red)
        await cloud.make(SecurityGroup, "open", {"ingress": [PING]}, red)
        for name, address in ADDRESSES.items():
            interface: dict[str, Any] = {"name": "eth0", "network": network, "address": address}
            if name == "web":
                interface["securityGroups"] = [{"name": "web"}]
            script = GUEST.format(**ADDRESSES) if name != "web" else "#!/bin/sh\n"
            await cloud.make_server(
                blue if name == "stranger" else red,
                name,
                placement={"host": HOSTS[name]},
                networks=[interface],
                userData={"inline": script},
            )
        logs = {}
        for name in ADDRESSES:
            server = await cloud.server_ready(blue if name == "stranger" else red, name, 120)
            logs[name] = console.path(lab, server)
            await console.says(logs[name], "kumulus-guest: ready", 120)
        yield Guests(cloud, red, logs)


async def test_who_is_let_in(guests: Guests) -> None:
    """Members of the default group reach each other and nobody else does; rules that come and go take effect at once.

    A rule that goes ends the connection that it had let in, which goes on in order when it comes back; a server changes
    its group while it runs; a group in use stays.
    """
    await asyncio.gather(
        guests.sees("near", web="no", near="yes", far="yes"),
        guests.sees("far", web="no", near="yes", far="yes"),
        guests.sees("stranger", web="no", near="no", far="no"),
    )
    assert "tick-" not in await guests.said("near") + await guests.said("far")

    await guests.rules("web", PING | MEMBERS, ECHO | MEMBERS)
    await asyncio.gather(*(console.says(guests.logs[name], "tick-5", 30) for name in ("near", "far")))
    await asyncio.gather(
        guests.sees("near", web="yes", near="yes", far="yes"),
        guests.sees("far", web="yes", near="yes", far="yes"),
        guests.sees("stranger", web="no", near="no", far="no"),
    )

    await guests.rules("web", PING | MEMBERS)
    await asyncio.sleep(1)
    stopped = {name: await guests.ticks(name) for name in ("near", "far")}
    await guests.sees("near", web="yes", near="yes", far="yes")
    assert {name: await guests.ticks(name) for name in stopped} == stopped

    await guests.rules("web", PING | MEMBERS, ECHO | MEMBERS)
    for name, last in stopped.items():
        await console.says(guests.logs[name], f"tick-{last + 5}\\b", 60)
        assert await guests.ticks(name) > last
    assert "tick-" not in await guests.said("stranger")

    cloud, project = guests.cloud, guests.project
    server = await cloud.server_ready(project, "web")
    interface = server["spec"]["networks"][0] | {"securityGroups": [{"name": "open"}]}
    await cloud.client.patch_merge(Server, "web", {"spec": {"networks": [interface]}}, project)
    await guests.sees("stranger", web="yes", near="no", far="no")
    assert (await guests.said("web")).count("kumulus-guest: boot-id") == 1
    last = await guests.ticks("far")
    await guests.sees("near", web="yes", near="yes", far="yes")
    assert await guests.ticks("far") == last

    await cloud.client.delete(SecurityGroup, "open", project)
    held = await cloud.until(
        SecurityGroup, "open", lambda body: condition(body, "Ready")["reason"] == "InUse", namespace=project
    )
    assert "1 port (web-eth0) is in it" in condition(held, "Ready")["message"]
    await guests.sees("stranger", web="yes", near="no", far="no")
    await cloud.client.patch_merge(
        Server, "web", {"spec": {"networks": [interface | {"securityGroups": [{"name": "web"}]}]}}, project
    )
    await cloud.gone(SecurityGroup, "open", project)
    await guests.sees("stranger", web="no", near="no", far="no")
