"""A server's life with real guests: made, found by its neighbour on another host, stopped, started, gone."""

import asyncio

import pytest

from kumulus_api import Port, Server
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console
from kumulus_lab.testing.cloud import Cloud, condition, ready

pytestmark = pytest.mark.tenant


@pytest.mark.smoke
async def test_two_guests_on_two_hosts_hear_each_other(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """Two servers on two hosts boot, get the addresses that their status tells, and ping each other by name."""
    await cloud.make_network(project)
    for name, host, other in (("a", "h1", "b"), ("b", "h2", "a")):
        await cloud.make_server(
            project,
            name,
            networks=[{"name": "eth0", "network": {"name": "private"}}],
            placement={"host": host},
            userData={"inline": f"#!/bin/sh\nuntil ping -c 1 -W 1 {other}; do :; done; echo heard-{other}\n"},
        )
    servers = await asyncio.gather(cloud.server_ready(project, "a"), cloud.server_ready(project, "b"))
    for server, other in zip(servers, "ba", strict=True):
        log = console.path(lab, server)
        address = server["status"]["addresses"][0]["address"]
        await console.says(log, rf"kumulus-guest: address={address}/24", 60)
        await console.says(log, f"heard-{other}", 60)


@pytest.mark.smoke
async def test_stop_and_start_keep_identity(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """A server that is stopped and started keeps host, address and MAC, and is a new boot of the same instance."""
    await cloud.make_network(project)
    await cloud.make_server(project, "a")
    before = await cloud.server_ready(project, "a")
    log = console.path(lab, before)
    first = await console.says(log, r"kumulus-guest: boot-id=(\S+)")
    await console.says(log, "kumulus-guest: ready")
    await cloud.client.patch_merge(Server, "a", {"spec": {"powerState": "Stopped"}}, project)
    await cloud.until(Server, "a", lambda s: s["status"].get("powerState") == "Stopped", namespace=project)
    await cloud.client.patch_merge(Server, "a", {"spec": {"powerState": "Running"}}, project)
    after = await cloud.until(
        Server,
        "a",
        lambda s: ready(s) and s["status"]["observedGeneration"] == s["metadata"]["generation"],
        namespace=project,
    )
    assert after["spec"]["assignment"] == before["spec"]["assignment"]
    assert after["status"]["addresses"] == before["status"]["addresses"]
    await console.says(log, rf"kumulus-guest: boot-id=(?!{first[1]})\S+")


async def test_guest_that_shuts_down_stays_off(cloud: Cloud, project: str) -> None:
    """A guest that powers itself off is Stopped by the guest and is not started again until it is asked for."""
    await cloud.make_network(project)
    await cloud.make_server(project, "a", userData={"inline": "#!/bin/sh\npoweroff -f\n"})
    stopped = await cloud.until(
        Server, "a", lambda s: s.get("status", {}).get("powerState") == "Stopped", namespace=project
    )
    assert condition(stopped, "Ready")["reason"] == "StoppedByGuest"


async def test_deletion_takes_ports_with_it(cloud: Cloud, project: str) -> None:
    """A deleted server is gone with the port that was made for it."""
    await cloud.make_network(project)
    await cloud.make_server(project, "a")
    await cloud.server_ready(project, "a")
    ports, _ = await cloud.client.list(Port, namespace=project)
    await cloud.delete(Server, "a", project)
    assert len(ports) == 1
    await cloud.gone(Port, ports[0]["metadata"]["name"], project)
