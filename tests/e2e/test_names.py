"""What zones hold is what the cloud's name server answers."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable

import dns.asyncquery
import dns.exception
import dns.message
import dns.rcode
import pytest

from kumulus_api import DNSRecord, DNSZone, Network, Server
from kumulus_lab import builds
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing.cloud import SYSTEM_NAMESPACE, Cloud, ready

pytestmark = pytest.mark.tenant

SECONDS = 120
"""A kubelet renews mounted files once a minute if it missed what the operator told it."""

Message = dns.message.Message


@pytest.fixture
async def port(lab: LabSettings) -> AsyncIterator[int]:
    """A port of this machine that leads to the name server."""
    argv = [
        builds.program(lab, "kubectl"),
        "port-forward",
        "--namespace",
        SYSTEM_NAMESPACE,
        "service/kumulus-dns",
        ":53",
    ]
    environment = os.environ | {"KUBECONFIG": str(lab.kubeconfig)}
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE, env=environment)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            line = (await process.stdout.readline()).decode()
        found = re.search(r":(\d+) ->", line)
        assert found is not None, line
        yield int(found[1])
    finally:
        process.terminate()
        await process.wait()


async def answered(port: int, name: str, kind: str, holds: Callable[[Message], bool]) -> Message:
    """Ask until the answer is as wanted: a name server tells nobody what it has read."""
    question = dns.message.make_query(name, kind)
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                answer = await dns.asyncquery.tcp(question, "127.0.0.1", port=port, timeout=5)
            except (OSError, EOFError, dns.exception.Timeout):
                answer = Message()
            if holds(answer):
                return answer
            await asyncio.sleep(1)


def says(*values: str) -> Callable[[Message], bool]:
    """Give whether an answer has these values."""
    return lambda answer: sorted(item.to_text() for rrset in answer.answer for item in rrset) == sorted(values)


def code(wanted: dns.rcode.Rcode) -> Callable[[Message], bool]:
    """Give whether an answer has this code."""
    return lambda answer: bool(answer.question) and answer.rcode() == wanted


async def test_a_server_is_found_by_its_name(cloud: Cloud, port: int) -> None:
    """Records of users, and names and addresses of servers, are answered, and go with them and with the zone."""
    async with cloud.project() as project:
        domain, own, reverse = f"{project}.test.", "10.99.7.11", "7.99.10.in-addr.arpa."
        for name, value in (("zone", domain), ("reverse", reverse)):
            spec = {"domain": value, "email": "hostmaster@example.test", "ttl": 5}
            await cloud.make(DNSZone, name, spec, project)
        record = {"zone": {"name": "zone"}, "name": "www", "type": "CNAME", "records": [f"web.{domain}"]}
        await cloud.make(DNSRecord, "www", record, project)
        await cloud.make_network(project, cidr="10.99.7.0/24")
        await cloud.client.patch_merge(Network, "private", {"spec": {"dnsZone": {"name": "zone"}}}, project)
        interface = {"name": "eth0", "network": {"name": "private"}, "address": own}
        await cloud.make_server(project, "web", networks=[interface])
        await cloud.until(DNSZone, "zone", ready, namespace=project)
        await cloud.until(DNSRecord, "www", ready, namespace=project)
        await answered(port, f"www.{domain}", "A", says(f"web.{domain}", own))
        await answered(port, f"11.{reverse}", "PTR", says(f"web.{domain}"))
        assert code(dns.rcode.NXDOMAIN)(await answered(port, f"nobody.{domain}", "A", lambda answer: True))
        await cloud.delete(Server, "web", project)
        await answered(port, f"web.{domain}", "A", code(dns.rcode.NXDOMAIN))
        await cloud.delete(DNSZone, "zone", project)
        await answered(port, f"www.{domain}", "A", code(dns.rcode.REFUSED))
