"""What dies on a host comes back, and what the user wants last is what the server does."""

import asyncio
import signal
from typing import Any

import pytest

from kumulus_api import Server, Volume
from kumulus_lab.hosts import Hosts
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console, disturb
from kumulus_lab.testing.cloud import Cloud, condition, ready
from kumulus_runtime.resources import EVENT


def started_again(before: dict[str, Any]):
    """Give what holds once a server is Ready after another start than `before`."""
    old = before["status"]["startDurations"]
    return lambda body: ready(body) and body["status"].get("startDurations") != old


async def on_host(lab: LabSettings, server: dict[str, Any], *argv: str) -> str:
    """Run a command on the server's host."""
    host = server["spec"]["assignment"]["host"]
    return (await asyncio.to_thread(Hosts(lab).run, host, list(argv))).stdout


async def turn_off(lab: LabSettings, server: dict[str, Any]) -> None:
    """End the guest as its own shutdown would."""
    domain = f"k-{server['spec']['assignment']['instanceID']}"
    await on_host(lab, server, "virsh", "qemu-monitor-command", domain, "--hmp", "quit")


async def events(cloud: Cloud, project: str, name: str) -> list[str]:
    """Give the reasons of a server's Events."""
    found, _ = await cloud.client.list(EVENT, namespace=project)
    return [event["reason"] for event in found if (event.get("regarding") or {}).get("name") == name]


async def set_power(cloud: Cloud, project: str, name: str, *states: str) -> None:
    """Set powerState to each of the states, one directly after the other."""
    for state in states:
        await cloud.client.patch_merge(Server, name, {"spec": {"powerState": state}}, project)


@pytest.mark.disturbs
async def test_a_guest_that_dies_while_libvirtd_is_away_is_started_again(
    cloud: Cloud, project: str, lab: LabSettings
) -> None:
    """A guest dies while libvirtd is killed: within seconds of its return the server runs again, and Events say why."""
    await cloud.make_network(project)
    await cloud.make_server(project, "a")
    server = await cloud.server_ready(project, "a")
    qemu = f"guest=k-{server['spec']['assignment']['instanceID']}"
    await disturb.restart_libvirtd(cloud, lab)
    await on_host(lab, server, "pkill", f"--signal={signal.SIGKILL}", "--full", qemu)
    await cloud.until(Server, "a", started_again(server), namespace=project, seconds=60)
    assert {"Assigned", "Started", "Crashed"} <= set(await events(cloud, project, "a"))


@pytest.mark.parametrize("first", ["the user", "the guest"])
async def test_a_quick_toggle_around_a_shutdown_ends_running(
    cloud: Cloud, project: str, lab: LabSettings, first: str
) -> None:
    """Stopped and at once Running starts a guest that turned itself off before or meanwhile."""
    await cloud.make_network(project)
    await cloud.make_server(project, "a")
    server = await cloud.server_ready(project, "a")
    await console.says(console.path(lab, server), "kumulus-guest: ready")
    if first == "the guest":
        await turn_off(lab, server)
        await cloud.until(
            Server, "a", lambda s: condition(s, "Ready").get("reason") == "StoppedByGuest", namespace=project
        )
        await set_power(cloud, project, "a", "Stopped", "Running")
    else:
        await set_power(cloud, project, "a", "Stopped", "Running")
        await turn_off(lab, server)
        found = await cloud.until(
            Server,
            "a",
            lambda s: started_again(server)(s) or condition(s, "Ready").get("reason") == "StoppedByGuest",
            namespace=project,
        )
        if not ready(found):
            # Nobody had seen the toggle before the guest went off: its own shutdown is newer than the wish.
            await set_power(cloud, project, "a", "Stopped", "Running")
    await cloud.until(Server, "a", started_again(server), namespace=project)


async def test_a_volume_says_who_holds_it(cloud: Cloud, project: str) -> None:
    """A volume is InUse while a server has it, Available afterwards, and tells how much of it is used."""
    await cloud.make_network(project)
    await cloud.make(Volume, "data", {"size": "64Mi"}, project)
    await cloud.make_server(project, "a", volumes=[{"name": "data", "volume": {"name": "data"}}])
    await cloud.server_ready(project, "a")
    held = await cloud.until(Volume, "data", lambda v: "usedBytes" in (v.get("status") or {}), namespace=project)
    assert condition(held, "Ready")["reason"] == "InUse"
    await cloud.delete(Server, "a", project)
    await cloud.until(Volume, "data", lambda v: condition(v, "Ready").get("reason") == "Available", namespace=project)
    await cloud.delete(Volume, "data", project)
