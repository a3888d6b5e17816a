"""Servers that change their size, and that give their room back: on real guests, with quotas that are full."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from kumulus_api import API_VERSION, Flavor, Project, Server
from kumulus_lab.hosts import Hosts
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console
from kumulus_lab.testing.cloud import Cloud, Object, condition
from kumulus_runtime.errors import Invalid

pytestmark = pytest.mark.tenant

SMALL = {"vcpus": 1, "memory": "96Mi", "rootDisk": "1Gi"}
LARGE = {"vcpus": 2, "memory": "160Mi", "rootDisk": "2Gi"}


@pytest.fixture(autouse=True)
async def flavors(cloud: Cloud) -> AsyncIterator[None]:
    """A small and a large flavor."""
    for name, spec in (("resize-small", SMALL), ("resize-large", LARGE)):
        body = {"apiVersion": API_VERSION, "kind": "Flavor", "metadata": {"name": name}, "spec": spec}
        await cloud.client.apply(Flavor, body, manager="kumulus-tests")
    yield
    for name in ("resize-small", "resize-large"):
        await cloud.client.delete(Flavor, name)


async def made(cloud: Cloud, project: str, **spec: Any) -> Object:
    """Make the server `a` of the small flavor, which runs."""
    await cloud.make_network(project)
    await cloud.make_server(project, "a", flavor={"name": "resize-small"}, stopTimeoutSeconds=1, **spec)
    return await cloud.server_ready(project, "a")


async def resize(cloud: Cloud, project: str, flavor: str) -> None:
    """Change the flavor of the server `a`."""
    await cloud.client.patch_merge(Server, "a", {"spec": {"flavor": {"name": flavor}}}, project)


async def given(cloud: Cloud, project: str, resources: Object) -> Object:
    """Wait until the server `a` was given resources, and give the server."""
    return await cloud.until(
        Server, "a", lambda s: s["spec"]["assignment"]["resources"] == resources, namespace=project
    )


async def has(cloud: Cloud, project: str, vcpus: int, memory: str) -> Object:
    """Wait until the guest of the server `a` runs and has a size, and give the server."""
    wanted = {"vcpus": vcpus, "memory": memory}
    return await cloud.until(
        Server,
        "a",
        lambda s: s["status"].get("resources") == wanted and s["status"]["powerState"] == "Running",
        namespace=project,
    )


def restart_required(server: Object) -> bool:
    """Whether the condition says so."""
    return condition(server, "RestartRequired")["status"] == "True"


def domain(lab: LabSettings, server: Object) -> Object:
    """Give what QEMU on the host runs with."""
    assignment = server["spec"]["assignment"]
    command = ("virsh", "--connect", "qemu:///system", "dominfo", f"k-{assignment['instanceID']}")
    lines = Hosts(lab).run(assignment["host"], command, check=True).stdout.splitlines()
    found = dict(line.split(":", 1) for line in lines if ":" in line)
    return {"vcpus": int(found["CPU(s)"]), "kib": int(found["Max memory"].split()[0])}


def root_size(lab: LabSettings, server: Object) -> int:
    """Give the bytes of the root disk as the guest sees it."""
    assignment = server["spec"]["assignment"]
    path = f"/var/lib/kumulus/instances/{assignment['instanceID']}/root.qcow2"
    out = Hosts(lab).run(assignment["host"], ("qemu-img", "info", "-U", "--output=json", path), check=True).stdout
    return int(json.loads(out)["virtual-size"])


async def test_a_running_server_gets_its_new_size_at_a_restart(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """A changed flavor is shown as RestartRequired until the guest is rebooted; then QEMU and the disk have it."""
    before = await made(cloud, project)
    await resize(cloud, project, "resize-large")
    waits = await cloud.until(Server, "a", restart_required, namespace=project)
    assert waits["spec"]["assignment"]["resources"] == LARGE
    assert waits["status"]["resources"] == {"vcpus": 1, "memory": "96Mi"}
    assert domain(lab, waits) == {"vcpus": 1, "kib": 96 << 10}
    done = await cloud.act(project, "a", "Reboot", reboot={"type": "Hard"})
    assert done["status"]["phase"] == "Succeeded"
    after = await has(cloud, project, 2, "160Mi")
    assert condition(after, "RestartRequired")["status"] == "False"
    assert domain(lab, after) == {"vcpus": 2, "kib": 160 << 10}
    assert root_size(lab, after) == 2 << 30
    assert after["status"]["addresses"] == before["status"]["addresses"]


async def test_a_stopped_server_starts_with_its_new_size(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """A server that is off gets its size at the next start, and a guest that never had another requires no restart."""
    await made(cloud, project)
    await cloud.power(project, "a", "Stopped")
    await resize(cloud, project, "resize-large")
    await given(cloud, project, LARGE)
    await cloud.power(project, "a", "Running")
    after = await has(cloud, project, 2, "160Mi")
    assert not restart_required(after)
    assert domain(lab, after)["vcpus"] == 2
    await cloud.power(project, "a", "Paused")
    with pytest.raises(Invalid, match="flavor"):
        await resize(cloud, project, "resize-small")


@pytest.mark.parametrize("verb", ["ConfirmResize", "RevertResize"])
async def test_a_resize_waits_for_its_confirmation(cloud: Cloud, project: str, lab: LabSettings, verb: str) -> None:
    """With resizePolicy Confirm both sizes have their room; confirmed the disk grows, reverted all is as before."""
    await made(cloud, project, resizePolicy="Confirm")
    too_early = await cloud.act(project, "a", verb)
    assert too_early["status"]["reason"] == "IllegalState"
    await cloud.power(project, "a", "Stopped")
    await resize(cloud, project, "resize-large")
    await given(cloud, project, LARGE | {"rootDisk": "1Gi"})
    await cloud.power(project, "a", "Running")
    await has(cloud, project, 2, "160Mi")
    with pytest.raises(Invalid, match="ConfirmResize"):
        await resize(cloud, project, "tiny")
    done = await cloud.act(project, "a", verb)
    assert done["status"]["phase"] == "Succeeded"
    wanted = LARGE if verb == "ConfirmResize" else SMALL
    server = await given(cloud, project, wanted)
    assert "former" not in server["spec"]["assignment"]
    await cloud.act(project, "a", "Reboot", reboot={"type": "Hard"})
    after = await has(cloud, project, wanted["vcpus"], wanted["memory"])
    assert root_size(lab, after) == (2 << 30 if verb == "ConfirmResize" else 1 << 30)
    assert after["spec"]["flavor"]["name"] == ("resize-large" if verb == "ConfirmResize" else "resize-small")


async def test_a_refused_resize_leaves_the_server_as_it_is(cloud: Cloud) -> None:
    """What the quota does not hold is refused with the reason, and done as soon as it does."""
    async with cloud.project(quota={"vcpus": 1}) as project:
        await made(cloud, project)
        await resize(cloud, project, "resize-large")
        refused = await cloud.until(
            Server, "a", lambda s: condition(s, "FlavorApplied")["status"] == "False", namespace=project
        )
        assert condition(refused, "FlavorApplied")["reason"] == "QuotaExceeded"
        assert refused["spec"]["assignment"]["resources"] == SMALL
        assert condition(refused, "Ready")["status"] == "True"
        await cloud.client.patch_merge(Project, project, {"spec": {"quota": {"vcpus": 2}}})
        await given(cloud, project, LARGE)
        await cloud.until(Server, "a", lambda s: condition(s, "FlavorApplied")["status"] == "True", namespace=project)


async def test_a_shelved_server_gives_its_room_to_others(cloud: Cloud) -> None:
    """What a shelved server had of the quota another one gets; it comes back when there is room again."""
    async with cloud.project(quota={"vcpus": 1}) as project:
        before = await made(cloud, project)
        await cloud.power(project, "a", "Shelved")
        await cloud.until(Server, "a", lambda s: s["spec"]["assignment"].get("shelved"), namespace=project)
        await cloud.make_server(project, "b")
        await cloud.server_ready(project, "b")
        await cloud.client.patch_merge(Server, "a", {"spec": {"powerState": "Running"}}, project)
        waits = await cloud.until(
            Server, "a", lambda s: condition(s, "Scheduled")["status"] == "False", namespace=project
        )
        assert condition(waits, "Scheduled")["reason"] == "QuotaExceeded"
        await cloud.delete(Server, "b", project)
        after = await cloud.tells(project, "a", "Running")
        assert not after["spec"]["assignment"]["shelved"]
        assert after["spec"]["assignment"]["host"] == before["spec"]["assignment"]["host"]
        await cloud.until(Server, "a", lambda s: condition(s, "Scheduled")["status"] == "True", namespace=project)


# Says how many processors the guest has, as it changes.
TELLER = """#!/bin/sh
(last=; while :; do
  now=$(grep -c ^processor /proc/cpuinfo)
  [ "$now" = "$last" ] || echo "guest-has cpus=$now"
  last=$now
  sleep 1
done) >/dev/ttyS0 2>&1 &
"""
GROWING = {"grow-1": (1, "96Mi"), "grow-2": (2, "96Mi"), "grow-more": (4, "160Mi")}


async def test_a_running_server_grows_within_its_flavors_limits(cloud: Cloud, lab: LabSettings) -> None:
    """With maxVcpus the guest has its processors as it runs; what is beyond, and emulated memory, waits."""
    for name, (vcpus, memory) in GROWING.items():
        most = {"maxVcpus": max(3, vcpus), "maxMemory": "512Mi"}
        spec = {"vcpus": vcpus, "memory": memory, "rootDisk": "1Gi"} | most
        body = {"apiVersion": API_VERSION, "kind": "Flavor", "metadata": {"name": name}, "spec": spec}
        await cloud.client.apply(Flavor, body, manager="kumulus-tests")
    async with cloud.project(quota={"vcpus": 4}) as project:
        await cloud.make_network(project)
        data = {"inline": TELLER}
        await cloud.make_server(project, "a", flavor={"name": "grow-1"}, userData=data, stopTimeoutSeconds=1)
        server = await cloud.server_ready(project, "a")
        log = console.path(lab, server)
        await console.says(log, r"guest-has cpus=1")
        await console.says(log, "kumulus-guest: ready")

        await resize(cloud, project, "grow-2")
        grown = await has(cloud, project, 2, "96Mi")
        assert not restart_required(grown)
        await console.says(log, r"guest-has cpus=2")
        await cloud.until(Project, project, lambda p: p["status"].get("usage", {}).get("vcpus") == 2, seconds=30)

        await resize(cloud, project, "grow-more")
        waits = await cloud.until(Server, "a", restart_required, namespace=project)
        assert waits["status"]["resources"] == {"vcpus": 2, "memory": "96Mi"}
        await cloud.act(project, "a", "Reboot", reboot={"type": "Hard"})
        assert not restart_required(await has(cloud, project, 4, "160Mi"))
    for name in GROWING:
        await cloud.client.delete(Flavor, name)
