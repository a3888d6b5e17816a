"""Images on more hosts than one: a host loses its power, the source is gone, and servers start all the same."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kumulus_api import Host, Image, Server
from kumulus_lab.hosts import Hosts
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import killing
from kumulus_lab.testing.cloud import SYSTEM_NAMESPACE, Breach, Cloud, Object, condition, ready
from kumulus_lab.testing.held_image import HeldImage
from kumulus_lab.testing.left import holdings
from kumulus_runtime.resources import POD

SECONDS = 120


def is_replicated(image: Object) -> bool:
    """Give whether as many hosts as are wanted say that they keep an image."""
    found = [item for item in image.get("status", {}).get("conditions", []) if item["type"] == "Replicated"]
    return bool(found) and found[0]["status"] == "True"


async def made(cloud: Cloud, project: str, lab: LabSettings, **spec: Any) -> Object:
    """Make an image of bytes that no host has seen, of a source that is gone when it is Ready; give the image."""
    async with HeldImage(f"http://{lab.gateway}:8098/tiny.qcow2", lab.gateway) as source:
        wanted = {"source": {"url": source.url}, "format": "qcow2"} | spec
        await cloud.make(Image, "kept", wanted, project)
        await cloud.until(Image, "kept", ready, namespace=project)
    return await cloud.until(Image, "kept", is_replicated, namespace=project, seconds=SECONDS)


async def holders(lab: LabSettings, image: Object) -> set[str]:
    """Give the hosts that have an image's file."""
    name = image["status"]["digest"].removeprefix("sha256:")
    files = (await holdings(lab)).files
    return {file.partition("/")[0] for file in files if file.endswith(f"{name}.img")}


async def nobody_has_it(lab: LabSettings, image: Object) -> None:
    """Wait until no host has an image's file."""
    for _ in range(30):
        left = await holders(lab, image)
        if not left:
            return
        await asyncio.sleep(1)
    raise Breach(f"still on {sorted(left)}")


@pytest.mark.tenant
async def test_the_source_is_not_needed_any_more(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """Once an image is kept, servers of it start on every host without its source; deleted, nothing is left."""
    image = await made(cloud, project, lab)
    assert set(image["spec"]["assignment"]["hosts"]) == set(image["status"]["replicas"]) <= await holders(lab, image)
    await cloud.make_network(project)
    hosts = [host.name for host in lab.host_specs]
    for host in hosts:
        await cloud.make_server(project, f"on-{host}", image={"name": "kept"}, placement={"host": host})
    for host in hosts:
        await cloud.server_ready(project, f"on-{host}", 90)
    await asyncio.gather(*(cloud.delete(Server, f"on-{host}", project) for host in hosts))
    await cloud.delete(Image, "kept", project)
    await nobody_has_it(lab, image)


@pytest.mark.tenant
async def test_an_image_is_there_before_it_is_needed(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """What is to be pulled beforehand is on all hosts without a server, which is told; deleted, it is on none."""
    everywhere = {host.name for host in lab.host_specs}
    await made(cloud, project, lab, prePull={})
    told = f"{len(everywhere)}/{len(everywhere)}"
    image = await cloud.until(
        Image, "kept", lambda body: body["status"].get("prePulled") == told, namespace=project, seconds=SECONDS
    )
    assert await holders(lab, image) == everywhere
    await cloud.delete(Image, "kept", project)
    await nobody_has_it(lab, image)


@pytest.mark.long
@pytest.mark.disturbs
async def test_a_host_loses_its_power_and_the_image_is_there(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """With one of its hosts off and its source gone, a server of an image starts elsewhere; the host comes back."""
    image = await made(cloud, project, lab)
    await cloud.make_network(project)
    pods, _ = await cloud.client.list(POD, SYSTEM_NAMESPACE, label_selector="app.kubernetes.io/component=operator")
    decides = {pod["spec"].get("nodeName") for pod in pods}
    lost = next(host for host in image["spec"]["assignment"]["hosts"] if host not in decides)
    other = next(host.name for host in lab.host_specs if host.name != lost)
    hosts, restarts = Hosts(lab), await cloud.restarts()
    await asyncio.to_thread(hosts.power_off, lost)
    try:
        await cloud.make_server(project, "a", image={"name": "kept"}, placement={"host": other})
        await cloud.server_ready(project, "a", SECONDS)
        after = await cloud.client.get(Image, "kept", project)
        assert after is not None
        assert condition(after, "Ready")["status"] == "True"
    finally:
        await asyncio.to_thread(hosts.start, lost)
    await killing.host_back(cloud, lost, restarts)
    await cloud.until(Host, lost, ready, seconds=240)
    await cloud.until(Image, "kept", is_replicated, namespace=project, seconds=SECONDS)
    assert lost in await holders(lab, image)
    await cloud.delete(Server, "a", project)
    await cloud.delete(Image, "kept", project)
    await nobody_has_it(lab, image)
