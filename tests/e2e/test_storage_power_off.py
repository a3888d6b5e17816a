"""A host loses its power amid all that goes on with its disks at once: all of it is done then, or told as failed."""

from __future__ import annotations

import asyncio

import pytest

from kumulus_api import Host, Server, Volume, VolumeSnapshot
from kumulus_lab.hosts import Hosts
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console, killing
from kumulus_lab.testing.cloud import IMAGE, SYSTEM_NAMESPACE, Cloud, Object, condition, ready
from kumulus_runtime.resources import POD

pytestmark = [pytest.mark.long, pytest.mark.disturbs, pytest.mark.timeout(1200)]

SECONDS = 240
MEBIBYTES = 32
KEEPER = """#!/bin/sh
mark=$(dd if=/dev/vdb bs=512 skip=7 count=1 2>/dev/null | head -c 11)
[ "$mark" = kept-for-us ] && echo volume-remembers || echo volume-is-blank
printf kept-for-us | dd of=/dev/vdb bs=512 seek=7 conv=sync,fsync 2>/dev/null && echo volume-written
"""


def attached(name: str) -> list[Object]:
    """Give what a server's `spec.volumes` says."""
    return [{"name": name, "volume": {"name": name}}]


async def host_without_operator(cloud: Cloud, lab: LabSettings) -> str:
    """Give a host that can go off while the operator decides on."""
    pods, _ = await cloud.client.list(POD, SYSTEM_NAMESPACE, label_selector="app.kubernetes.io/component=operator")
    decides = {pod["spec"].get("nodeName") for pod in pods}
    return next(host.name for host in lab.host_specs if host.name not in decides)


async def keeper(cloud: Cloud, project: str, lab: LabSettings, volume: str, host: str) -> None:
    """Have a server on a host whose guest has written to a volume."""
    await cloud.make(Volume, volume, {"size": f"{MEBIBYTES}Mi"}, project)
    place = {"placement": {"host": host}, "userData": {"inline": KEEPER}}
    await cloud.make_server(project, f"with-{volume}", volumes=attached(volume), **place)
    server = await cloud.server_ready(project, f"with-{volume}", SECONDS)
    await console.says(console.path(lab, server), "volume-written", SECONDS)


async def begin_all(cloud: Cloud, project: str, host: str) -> str:
    """Begin nine things on a host's disks at once; give the name of the ServerAction."""
    await cloud.client.delete(Server, "with-old", project)
    await cloud.client.delete(Volume, "old", project)
    await cloud.make(VolumeSnapshot, "online", {"volume": {"name": "data"}}, project)
    await cloud.make(Volume, "copy", {"size": f"{2 * MEBIBYTES}Mi", "source": {"volume": {"name": "data"}}}, project)
    await cloud.client.patch_merge(Volume, "data", {"spec": {"size": f"{2 * MEBIBYTES}Mi"}}, project)
    await cloud.make(Volume, "blank", {"size": f"{MEBIBYTES}Mi"}, project)
    await cloud.make(Volume, "of-image", {"size": "1Gi", "source": {"image": dict(IMAGE)}}, project)
    for name in ("blank", "of-image"):
        place = {"placement": {"host": host}}
        await cloud.make_server(project, f"new-{name}", volumes=attached(name), **place)
    return await cloud.ask(project, "with-data", "CreateImage", createImage={"name": "made"})


def names_on(lab: LabSettings, host: str) -> set[str]:
    """Give what lies in a host's folder of volumes."""
    folder = console.host_path(lab, host, "/var/lib/kumulus/volumes")
    return {item.name for item in folder.iterdir() if item.name != ".lock"}


@pytest.mark.parametrize("pause", [0.0, 0.4, 1.5])
async def test_power_lost_amid_everything(cloud: Cloud, project: str, lab: LabSettings, pause: float) -> None:
    """What a guest had flushed is there, what was asked for is done or told as failed, and no file is left over."""
    host = await host_without_operator(cloud, lab)
    await cloud.make_network(project)
    before = names_on(lab, host)
    for volume in ("data", "old"):
        await keeper(cloud, project, lab, volume, host)
    hosts, restarts = Hosts(lab), await cloud.restarts()
    action = await begin_all(cloud, project, host)
    await asyncio.sleep(pause)  # how far all of it comes until the power goes
    await asyncio.to_thread(hosts.power_off, host)
    await asyncio.to_thread(hosts.start, host)
    await killing.host_back(cloud, host, restarts)
    await cloud.until(Host, host, ready, seconds=SECONDS)

    await cloud.gone(Volume, "old", project, seconds=SECONDS)
    await cloud.until(VolumeSnapshot, "online", ready, namespace=project, seconds=SECONDS)
    for name in ("with-data", "new-blank", "new-of-image"):
        await cloud.server_ready(project, name, SECONDS)
    await cloud.until(
        Volume, "data", lambda v: condition(v, "Resized")["status"] == "True", namespace=project, seconds=SECONDS
    )
    for name in ("copy", "blank", "of-image"):
        await cloud.until(Volume, name, ready, namespace=project, seconds=SECONDS)
    ended = await cloud.act_ended(project, action, SECONDS)
    assert ended["status"]["phase"] in ("Succeeded", "Failed")

    reads = {"volumes": attached("copy"), "userData": {"inline": KEEPER}}
    await cloud.make_server(project, "reader", **reads)
    reader = await cloud.server_ready(project, "reader", SECONDS)
    await console.says(console.path(lab, reader), "volume-remembers", SECONDS)
    volumes, _ = await cloud.client.list(Volume, namespace=project)
    known = {item["spec"]["assignment"]["volumeID"] for item in volumes if item["spec"].get("assignment")}
    assert names_on(lab, host) - before <= known
