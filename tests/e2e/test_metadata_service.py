"""What a guest is told at 169.254.169.254, without any drive: of itself, as it is now, wherever it runs."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest

from kumulus_api import Server
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console
from kumulus_lab.testing.cloud import Cloud, Object
from kumulus_lab.testing.migrating import ask, kill_on, succeeded
from kumulus_lab.testing.travelling import on_host, other_than, settled_on
from kumulus_runtime.resources import SECRET

ADDRESS = "10.10.0.77"
READER = """#!/bin/sh
CR=$(printf '\\r')
ask() { printf 'GET /%s HTTP/1.0\\r\\n\\r\\n' "$1" | nc -w 5 169.254.169.254 80 | sed "1,/^$CR$/d"; }
value() { ask openstack/latest/meta_data.json | sed "s/.*\\"$1\\": \\"\\([^\\"]*\\)\\".*/\\1/"; }
echo "told uuid $(value uuid)"
echo "told name $(ask latest/meta-data/hostname)"
echo "told address $(ask latest/meta-data/local-ipv4)"
echo "told versions $(ask openstack | tail -n 1)"
ask openstack/latest/user_data | cmp - /run/user-data && echo told-its-user-data
(last=; while :; do
  now=$(value role); [ "$now" = "$last" ] || echo "told role $now"; last=$now; sleep 1
done) >/dev/ttyS0 2>&1 &
"""
TELLER = """#!/bin/sh
tell() {
  printf 'POST /openstack/latest/password HTTP/1.0\\r\\nContent-Length: %d\\r\\n\\r\\n%s' ${#1} "$1" |
    nc -w 5 169.254.169.254 80 | head -n 1
}
echo "first $(tell $(head -c 24 /dev/urandom | base64))"
echo "second $(tell QUJD)"
"""


async def begin(cloud: Cloud, project: str, **spec: Any) -> Object:
    """Make a server that reads, with an address that others may have too."""
    await cloud.make_network(project)
    interface = {"name": "eth0", "network": {"name": "private"}, "address": ADDRESS}
    await cloud.make_server(project, "a", networks=[interface], metadata={"role": "one"}, **spec)
    return await cloud.server_ready(project, "a")


async def set_role(cloud: Cloud, project: str, role: str) -> None:
    """Change the server's metadata."""
    await cloud.client.patch_merge(Server, "a", {"spec": {"metadata": {"role": role}}}, project)


@pytest.mark.tenant
async def test_guests_are_told_of_themselves(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """Guests of two projects with one address read each their own identity, and the user data of a Secret."""
    async with cloud.project() as other:
        data = {"userData": base64.b64encode(READER.encode()).decode()}
        await cloud.client.create(SECRET, {"metadata": {"name": "boot", "namespace": project}, "data": data})
        servers = await asyncio.gather(
            begin(cloud, project, userData={"secret": {"name": "boot"}}),
            begin(cloud, other, userData={"inline": READER}),
        )
        for server in servers:
            log = console.path(lab, server)
            found = await console.says(log, "told uuid ([0-9a-f-]{36})")
            assert found[1] == server["spec"]["assignment"]["instanceID"]
            await console.says(log, f"told address {ADDRESS}")
            await console.says(log, "told name a")
            await console.says(log, "told versions latest")
            await console.says(log, "told-its-user-data")


async def test_metadata_are_told_as_they_are(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """A change reaches a guest that runs, before and after it migrates, and needs no write of ours."""
    server = await begin(cloud, project, userData={"inline": READER})
    await console.says(console.path(lab, server), "told role one")
    await set_role(cloud, project, "two")
    await console.says(console.path(lab, server), "told role two", 20)
    target = other_than(on_host(server))
    await succeeded(cloud, project, await ask(cloud, project, "a"))
    moved = await cloud.until(Server, "a", settled_on(target), namespace=project)
    await set_role(cloud, project, "three")
    await console.says(console.path(lab, moved), "told role three", 20)


@pytest.mark.tenant
async def test_a_guest_tells_its_password_once(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """What the guest posts stands in the status through a restart, until a Rebuild, after which it may tell another."""
    server = await begin(cloud, project, userData={"inline": TELLER})
    log = console.path(lab, server)
    await console.says(log, "first HTTP/1.1 200")
    await console.says(log, "second HTTP/1.1 409")
    told = await cloud.until(Server, "a", lambda body: "guestPassword" in body["status"], namespace=project)
    first = told["status"]["guestPassword"]
    assert len(base64.b64decode(first)) == 24
    await cloud.power(project, "a", "Stopped")
    stopped = await cloud.client.get(Server, "a", project)
    assert stopped is not None
    assert stopped["status"]["guestPassword"] == first
    await cloud.power(project, "a", "Running")
    await console.says(log, "first HTTP/1.1 409")
    await cloud.act(project, "a", "Rebuild")
    rebuilt = await cloud.until(
        Server, "a", lambda body: body["status"].get("guestPassword") not in (None, first), namespace=project
    )
    assert len(base64.b64decode(rebuilt["status"]["guestPassword"])) == 24


@pytest.mark.disturbs
async def test_a_new_agent_answers(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """When the agent was killed, the next one answers guests that have run all the time."""
    server = await begin(cloud, project, userData={"inline": READER})
    await console.says(console.path(lab, server), "told role one")
    kill_on(lab, on_host(server), "kumulus-agent")
    await set_role(cloud, project, "two")
    await console.says(console.path(lab, server), "told role two", 90)
