"""Tenants on one host with real guests: equal addresses never meet, and nothing of the cluster is reached."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console
from kumulus_lab.testing.cloud import Cloud

pytestmark = pytest.mark.tenant

SAME, RED_ONLY, BLUE_ONLY = "10.10.0.11", "10.10.0.12", "10.10.0.13"
BREACHES = ("HEARD-THE-OTHER", "CONNECTED-TO", "CLUSTER-DNS-ANSWERED", "HOST-ANSWERED", "DUP!", "duplicates")
KUBERNETES, CLUSTER_DNS = "10.96.0.1", "10.96.0.10"

# A guest that answers, and that notices a connection to the API server's Service address arriving as it was sent: the
# handshake cannot end, since its answer would come from an address that its port does not have.
ANSWERER = f"""#!/bin/sh
ip addr add {KUBERNETES}/32 dev lo
mkdir /run/secure && httpd -p 443 -h /run/secure
(until netstat -tn | grep -q '{KUBERNETES}:443 .*SYN_RECV'; do usleep 200000; done
 echo service-address-arrived) >/dev/ttyS0 2>&1 &
"""

ASKER = """#!/bin/sh
own={own} other={other}
until ping -c 1 -W 1 $own >/dev/null; do :; done
echo large-pings: $(ping -c 5 -s 4000 -W 5 $own | tail -n 2)
printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 $own 80 | sed -n 's/^\\([a-z]*-answers\\)/answered-by=\\1/p'
echo neighbour=$(ip neigh show $own | sed -n 's/.*lladdr \\([0-9a-f:]*\\).*/\\1/p')
ping -c 3 -W 1 $other >/dev/null && echo HEARD-THE-OTHER-TENANT
ip route add 10.96.0.0/16 via $own
nc -w 3 {kubernetes} 443 </dev/null && echo CONNECTED-TO-THE-CLUSTER
timeout 5 nslookup kubernetes.default.svc.cluster.local {dns} >/dev/null 2>&1 && echo CLUSTER-DNS-ANSWERED
ping -c 1 -W 1 {host} >/dev/null && echo HOST-ANSWERED
echo asked-all
"""


@pytest.fixture
async def consoles(cloud: Cloud, lab: LabSettings) -> AsyncIterator[dict[str, tuple[Path, str]]]:
    """Consoles and MACs of guests on h1: two projects each have one that asks, at an equal address, and one more."""
    async with cloud.project() as red, cloud.project() as blue:
        host = lab.host("h1").address
        for project, own, other in ((red, RED_ONLY, BLUE_ONLY), (blue, BLUE_ONLY, RED_ONLY)):
            await cloud.make_network(project)
            color = "red" if project == red else "blue"
            asker = ASKER.format(own=own, other=other, kubernetes=KUBERNETES, dns=CLUSTER_DNS, host=host)
            for name, address, script in ((f"{color}-asks", SAME, asker), (f"{color}-answers", own, ANSWERER)):
                await cloud.make_server(
                    project,
                    name,
                    placement={"host": "h1"},
                    networks=[{"name": "eth0", "network": {"name": "private"}, "address": address}],
                    userData={"inline": script},
                )
        found = {}
        for project, color in ((red, "red"), (blue, "blue")):
            for name in (f"{color}-asks", f"{color}-answers"):
                server = await cloud.server_ready(project, name)
                found[name] = console.path(lab, server), server["status"]["addresses"][0]["mac"]
        yield found


async def test_equal_addresses_of_two_projects(consoles: dict[str, tuple[Path, str]]) -> None:
    """Guests of two projects with one address on one host reach their own neighbours, and never the other's or ours."""
    for color in ("red", "blue"):
        log, _ = consoles[f"{color}-asks"]
        answers_log, mac = consoles[f"{color}-answers"]
        await console.says(log, "^asked-all", 200)
        said = await asyncio.to_thread(log.read_text, errors="replace")
        assert re.search(r"^large-pings: .* 5 packets received, 0% packet loss", said, re.MULTILINE), said
        assert re.search(rf"^answered-by={color}-answers\s*$", said, re.MULTILINE), said
        assert re.search(rf"^neighbour={mac}\s*$", said, re.MULTILINE), said
        for breach in BREACHES:
            assert breach not in said, said
        await console.says(answers_log, "service-address-arrived", 30)
