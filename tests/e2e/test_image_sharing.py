"""Images between projects, with real guests: who may start from them, and what taking them back leaves alone."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kumulus_api import Image, ImageAcceptance, Server
from kumulus_lab import builds
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console
from kumulus_lab.testing.cloud import IMAGE, Cloud, Object, condition, ready, refused
from kumulus_lab.testing.left import holdings
from kumulus_runtime.errors import Forbidden

pytestmark = pytest.mark.tenant

GOLDEN = "golden"
_SCRIPT = "#!/bin/sh\ncat /disk/mark 2>/dev/null; echo of-the-owner >/disk/mark; sync; echo marked\n"
MARKS = {"userData": {"inline": _SCRIPT}}
"""Says what an earlier guest has left on the disk, and leaves it."""


@pytest.fixture
async def owner(cloud: Cloud) -> AsyncIterator[str]:
    """A second project."""
    async with cloud.project() as name:
        yield name


async def golden(cloud: Cloud, owner: str, **spec: object) -> None:
    """Make the owner's image, of the bytes of the public one."""
    wanted = {"source": {"image": dict(IMAGE)}, "format": "qcow2"} | spec
    await cloud.make(Image, GOLDEN, wanted, owner)
    await cloud.until(Image, GOLDEN, ready, namespace=owner)


async def share(cloud: Cloud, owner: str, *members: str) -> None:
    """Offer the image to projects."""
    change = {"spec": {"visibility": "Shared", "members": list(members)}}
    await cloud.client.patch_merge(Image, GOLDEN, change, owner)


async def accept(cloud: Cloud, project: str, owner: str) -> None:
    """Accept it."""
    await cloud.make(ImageAcceptance, GOLDEN, {"image": {"name": GOLDEN, "namespace": owner}}, project)


async def waits(cloud: Cloud, project: str, name: str, reason: str) -> str:
    """Wait until a server says that it waits for a reason, and give the message."""
    body = await cloud.until(Server, name, refused(reason), namespace=project)
    return str(condition(body, "Scheduled")["message"])


async def listed(lab: LabSettings, project: str) -> list[Object]:
    """Give what `kubectl kumulus image list` prints."""
    plugins = Path(sys.executable).parent
    path = os.pathsep.join([str(plugins), str(builds.bin_directory(lab)), os.environ["PATH"]])
    process = await asyncio.create_subprocess_exec(
        "kubectl", "kumulus", "image", "list", "--namespace", project, "-o", "json",
        env={**os.environ, "PATH": path, "KUBECONFIG": str(lab.kubeconfig)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, errors.decode()
    images: list[Object] = json.loads(output)
    return images


async def test_a_shared_image_is_there_for_who_accepted_it(
    cloud: Cloud, project: str, owner: str, lab: LabSettings
) -> None:
    """A guest starts when both words are given; taken back, it stops and starts as it did, and what is new waits."""
    await cloud.make_network(project)
    await golden(cloud, owner)
    image = {"name": GOLDEN, "namespace": owner}
    await cloud.make_server(project, "web", image=image, stopTimeoutSeconds=1, **MARKS)
    said = await waits(cloud, project, "web", "ImageNotFound")
    await share(cloud, owner, project)
    names = [item["name"] for item in await listed(lab, project)]
    assert ("tiny" in names, GOLDEN in names) == (True, False)
    await accept(cloud, project, owner)
    server = await cloud.server_ready(project, "web")
    log = console.path(lab, server)
    await console.says(log, "marked$")
    assert (GOLDEN, "Ready") in {(item["name"], item["state"]) for item in await listed(lab, project)}

    await share(cloud, owner)
    await cloud.until(ImageAcceptance, GOLDEN, lambda body: not ready(body), namespace=project)
    await cloud.make_server(project, "late", image=image)
    assert await waits(cloud, project, "late", "ImageNotFound") == said
    failed = await cloud.act(project, "web", "Rebuild")
    assert (failed["status"]["reason"], failed["status"]["message"]) == ("ImageNotFound", said)
    await cloud.power(project, "web", "Stopped")
    await cloud.power(project, "web", "Running")
    await console.says(log, "of-the-owner$")
    await share(cloud, owner, project)
    await cloud.server_ready(project, "late")


async def test_a_deactivated_image_stops_new_servers_alone(cloud: Cloud, project: str) -> None:
    """What runs restarts and migrates while its image is deactivated; what is new starts when it is active again."""
    await cloud.make_network(project)
    await golden(cloud, project)
    image = {"name": GOLDEN}
    await cloud.make_server(project, "web", image=image, stopTimeoutSeconds=1)
    server = await cloud.server_ready(project, "web")
    await cloud.client.patch_merge(Image, GOLDEN, {"spec": {"active": False}}, project)
    await cloud.make_server(project, "late", image=image)
    await waits(cloud, project, "late", "ImageDeactivated")
    assert (await cloud.act(project, "web", "Rebuild"))["status"]["reason"] == "ImageDeactivated"
    moved = await cloud.act(project, "web", "LiveMigrate", 120)
    assert moved["status"]["phase"] == "Succeeded", moved["status"]
    after = await cloud.server_ready(project, "web")
    assert after["spec"]["assignment"]["host"] != server["spec"]["assignment"]["host"]
    booted = await cloud.act(project, "web", "Reboot", reboot={"type": "Hard"})
    assert booted["status"]["phase"] == "Succeeded", booted["status"]
    await cloud.client.patch_merge(Image, GOLDEN, {"spec": {"active": True}}, project)
    await cloud.server_ready(project, "late")


async def test_a_copy_of_a_server_s_image_outlives_it(cloud: Cloud, project: str, owner: str, lab: LabSettings) -> None:
    """Of a shared image of a server the other project makes its own, which starts elsewhere when the first is gone."""
    await cloud.make_network(owner)
    await cloud.make_network(project)
    await cloud.make_server(owner, "a", placement={"host": "h1"}, **MARKS)
    await console.says(console.path(lab, await cloud.server_ready(owner, "a")), "marked$")
    done = await cloud.act(owner, "a", "CreateImage", 120, createImage={"name": GOLDEN})
    assert done["status"]["phase"] == "Succeeded", done["status"]
    image = await cloud.until(Image, GOLDEN, ready, namespace=owner)
    await share(cloud, owner, project)
    await accept(cloud, project, owner)
    source = {"image": {"name": GOLDEN, "namespace": owner}}
    await cloud.make(Image, "mine", {"source": source, "format": "qcow2"}, project)
    mine = await cloud.until(Image, "mine", ready, namespace=project)
    assert mine["status"]["digest"] == image["status"]["digest"]
    await cloud.delete(Image, GOLDEN, owner)
    await cloud.make_server(project, "b", image={"name": "mine"}, placement={"host": "h2"}, **MARKS)
    await console.says(console.path(lab, await cloud.server_ready(project, "b", 90)), "of-the-owner$", 90)
    await cloud.delete(Server, "b", project)
    await cloud.delete(Image, "mine", project)
    digest = image["status"]["digest"].removeprefix("sha256:")
    for _ in range(30):
        left = [name for name in (await holdings(lab)).files if digest in name]
        if not left:
            break
        await asyncio.sleep(1)
    assert not left


async def test_a_protected_image_stays(cloud: Cloud, project: str) -> None:
    """Not even the administrator deletes it before it is unprotected."""
    await golden(cloud, project, protected=True)
    with pytest.raises(Forbidden, match="protected from deletion"):
        await cloud.client.delete(Image, GOLDEN, project)
    await cloud.client.patch_merge(Image, GOLDEN, {"spec": {"protected": False}}, project)
    await cloud.delete(Image, GOLDEN, project)
