"""Images of volumes and volumes of images, and volumes that change their project, with real guests: all as written."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kumulus_api import Image, Server, Volume, VolumeSnapshot, VolumeTransfer
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console
from kumulus_lab.testing.cloud import IMAGE, Cloud, Object, condition, ready, refused
from kumulus_lab.testing.left import holdings
from kumulus_runtime.errors import Forbidden

pytestmark = pytest.mark.tenant

SIZE = "256Mi"
"""Of a volume that is a system."""
_MARKS = """#!/bin/sh
echo "found-$(cat /disk/mark 2>/dev/null)"
echo {word} >/disk/mark; sync
echo "left-$(cat /disk/mark)"
"""
_DATA = """#!/bin/sh
echo "data-$(dd if=/dev/vdb bs=16 count=1 2>/dev/null | tr -d '\\0')"
printf {word} | dd of=/dev/vdb bs=4096 conv=sync,fsync 2>/dev/null && echo "data-written" || echo "data-refused"
"""


@pytest.fixture
async def other(cloud: Cloud) -> AsyncIterator[str]:
    """A second project, which may have one volume."""
    async with cloud.project(quota={"volumes": 1}) as name:
        yield name


def boots_from(name: str, word: str) -> Object:
    """Give a server that boots from a volume, says what it finds on it, and leaves a word there."""
    volumes = [{"name": "system", "volume": {"name": name}}]
    return {"volumes": volumes, "bootVolume": "system", "userData": {"inline": _MARKS.format(word=word)}}


def has(word: str, **more: Any) -> Object:
    """Give a server that says what it finds on the volume `data`, and leaves a word there."""
    return {
        "volumes": [{"name": "data", "volume": {"name": "data"}} | more],
        "userData": {"inline": _DATA.format(word=word)},
    }


async def runs(cloud: Cloud, lab: LabSettings, project: str, name: str, spec: Object) -> Path:
    """Have a server run; give its console log."""
    await cloud.make_server(project, name, **spec)
    return console.path(lab, await cloud.server_ready(project, name, 90))


async def free(cloud: Cloud, project: str, name: str) -> Object:
    """Wait until no server has a volume."""
    return await cloud.until(
        Volume, name, lambda v: condition(v, "Ready")["reason"] == "Available", namespace=project, seconds=60
    )


async def imaged(cloud: Cloud, project: str, name: str, source: Object) -> Object:
    """Have an image of a volume."""
    await cloud.make(Image, name, {"source": source, "format": "qcow2"}, project)
    return await cloud.until(Image, name, ready, namespace=project, seconds=120)


async def test_a_system_goes_from_image_to_volume_to_image(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """A guest writes to a volume of an image; servers of images of it, and of its snapshot, find what it had then."""
    await cloud.make_network(project)
    await cloud.make(Volume, "system", {"size": SIZE, "source": {"image": dict(IMAGE)}}, project)
    log = await runs(cloud, lab, project, "first", boots_from("system", "one"))
    await console.says(log, "left-one", 60)
    await cloud.make(VolumeSnapshot, "early", {"volume": {"name": "system"}, "protected": True}, project)
    await cloud.until(VolumeSnapshot, "early", ready, namespace=project)
    with pytest.raises(Forbidden, match="protected"):
        await cloud.client.delete(VolumeSnapshot, "early", project)

    live = await imaged(cloud, project, "of-volume", {"volume": {"name": "system"}})
    assert condition(live, "Ready")["reason"] == "Copied"
    early = await imaged(cloud, project, "of-snapshot", {"volumeSnapshot": {"name": "early"}})
    assert len(early["status"]["digest"]) == len("sha256:") + 64
    await cloud.delete(Server, "first", project)
    await free(cloud, project, "system")
    offline = await imaged(cloud, project, "offline", {"volume": {"name": "system"}})
    assert offline["status"]["virtualSize"] == 256 << 20

    for image in ("of-volume", "of-snapshot", "offline"):
        spec = {"image": {"name": image}, "userData": {"inline": _MARKS.format(word="again")}}
        log = await runs(cloud, lab, project, image, spec)
        await console.says(log, "found-one", 60)
    again = {"size": SIZE, "source": {"image": {"name": "of-volume"}}}
    await cloud.make(Volume, "round", again, project)
    log = await runs(cloud, lab, project, "round", boots_from("round", "two"))
    await console.says(log, "found-one", 60)
    files = (await holdings(lab)).files
    assert not [name for name in files if "/image-" in name], "what was read is gone"
    await cloud.client.patch_merge(VolumeSnapshot, "early", {"spec": {"protected": False}}, project)


async def test_what_cannot_be_made_says_why(cloud: Cloud, project: str) -> None:
    """A volume that is too small for its image and an image of a volume without data wait, each with its reason."""
    await cloud.make(Volume, "small", {"size": "1Mi", "source": {"image": dict(IMAGE)}}, project)
    said = await cloud.until(
        Volume, "small", lambda v: condition(v, "Ready")["reason"] == "SizeTooSmall", namespace=project
    )
    assert "needs" in condition(said, "Ready")["message"]
    await cloud.make(Volume, "blank", {"size": "1Mi"}, project)
    await cloud.make(Image, "of-blank", {"source": {"volume": {"name": "blank"}}, "format": "qcow2"}, project)
    await cloud.until(
        Image, "of-blank", lambda i: condition(i, "Ready")["reason"] == "VolumeNotReady", namespace=project
    )


async def test_a_volume_changes_its_project(cloud: Cloud, project: str, other: str, lab: LabSettings) -> None:
    """What one project's guest wrote the other's reads; the first has nothing of it, and the folder is the same."""
    for name in (project, other):
        await cloud.make_network(name)
    await cloud.make(Volume, "data", {"size": "1Mi"}, project)
    log = await runs(cloud, lab, project, "giver", has("of-giver"))
    await console.says(log, "data-written", 60)
    await cloud.make(VolumeTransfer, "offer", {"volume": {"name": "data"}, "project": other}, project)
    await cloud.until(VolumeTransfer, "offer", lambda t: condition(t, "Ready")["reason"] == "InUse", namespace=project)
    await cloud.delete(Server, "giver", project)
    given = await free(cloud, project, "data")
    await cloud.until(VolumeTransfer, "offer", ready, namespace=project)
    await cloud.make_server(project, "late", **has("late"))
    await cloud.until(Server, "late", refused("VolumeNotReady"), namespace=project)

    source = {"transfer": {"namespace": project, "name": "offer"}}
    await cloud.make(Volume, "data", {"size": "1Mi", "source": source}, other)
    mine = await cloud.until(Volume, "data", ready, namespace=other)
    for name in ("volumeID", "host"):
        assert mine["spec"]["assignment"][name] == given["spec"]["assignment"][name]
    await cloud.gone(Volume, "data", project)
    await cloud.gone(VolumeTransfer, "offer", project)
    log = await runs(cloud, lab, other, "taker", has("of-taker", readOnly=True))
    await console.says(log, "data-of-giver", 60)
    await console.says(log, "data-refused", 60)
