"""Volumes of real guests: there at boot, kept when their server goes, gone with their file when they are deleted."""

import re
from pathlib import Path

import pytest

from kumulus_api import Server, Volume
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console
from kumulus_lab.testing.cloud import Cloud, Object, condition, ready, refused

pytestmark = pytest.mark.tenant

MEBIBYTES = 48
# Says whether the disk holds what an earlier guest wrote, and writes it.
KEEPER = """#!/bin/sh
mark=$(dd if=/dev/vdb bs=512 skip=7 count=1 2>/dev/null | head -c 11)
[ "$mark" = kept-for-us ] && echo volume-remembers || echo volume-is-blank
printf kept-for-us | dd of=/dev/vdb bs=512 seek=7 conv=sync,fsync 2>/dev/null && echo volume-written
"""
DATA = [{"name": "data", "volume": {"name": "data"}}]


def file_of(lab: LabSettings, volume: Object) -> Path:
    """Where the machine sees the file of a bound volume."""
    place = volume["spec"]["assignment"]
    return console.host_path(lab, place["host"], f"/var/lib/kumulus/volumes/{place['volumeID']}/first.qcow2")


async def reason(cloud: Cloud, project: str, wanted: str, name: str = "data") -> Object:
    """Wait for the reason of a volume's Ready condition."""
    return await cloud.until(
        Volume, name, lambda v: condition(v, "Ready")["reason"] == wanted, namespace=project, seconds=30
    )


async def keeper(cloud: Cloud, project: str, name: str) -> Object:
    """Make a server with the volume, and give it once it is Ready."""
    await cloud.make_server(project, name, volumes=DATA, userData={"inline": KEEPER})
    return await cloud.server_ready(project, name)


async def test_volume_outlives_its_server(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """A guest finds a blank disk of the asked size by its serial; the next server's guest finds what it wrote."""
    await cloud.make_network(project)
    await cloud.make(Volume, "data", {"size": f"{MEBIBYTES}Mi"}, project)
    await reason(cloud, project, "WaitingForFirstServer")

    first = await keeper(cloud, project, "first")
    held = await reason(cloud, project, "InUse")
    place = held["spec"]["assignment"]
    assert (place["attachedTo"], place["host"]) == ("first", first["spec"]["assignment"]["host"])
    assert ready(held)
    log = console.path(lab, first)
    serial = re.escape(place["volumeID"][:20])
    await console.says(log, rf"kumulus-guest: disk=vdb bytes={MEBIBYTES << 20} serial={serial}$")
    await console.says(log, "volume-is-blank")
    await console.says(log, "volume-written")

    await cloud.delete(Server, "first", project)
    free = await reason(cloud, project, "Available")
    assert free["spec"]["assignment"] == {key: place[key] for key in ("volumeID", "host", "size")}
    assert b"kept-for-us" in file_of(lab, free).read_bytes()  # qcow2 keeps data as it is

    second = await keeper(cloud, project, "second")
    assert second["spec"]["assignment"]["host"] == place["host"], "the volume's file lies on one host"
    await console.says(console.path(lab, second), "volume-remembers")


async def test_volume_has_one_holder(cloud: Cloud, project: str) -> None:
    """A second server waits while the first holds the volume, and is placed when that is deleted."""
    await cloud.make_network(project)
    await cloud.make(Volume, "data", {"size": f"{MEBIBYTES}Mi"}, project)
    await keeper(cloud, project, "first")
    await cloud.make_server(project, "second", volumes=DATA)
    await cloud.until(Server, "second", refused("VolumeInUse"), namespace=project)
    await cloud.delete(Server, "first", project)
    await cloud.server_ready(project, "second")


async def test_deleted_volume_waits_for_its_server_and_leaves_no_file(
    cloud: Cloud, project: str, lab: LabSettings
) -> None:
    """A volume deleted while a server holds it goes with its file when the server has gone, and not before."""
    await cloud.make_network(project)
    await cloud.make(Volume, "data", {"size": f"{MEBIBYTES}Mi"}, project)
    server = await keeper(cloud, project, "first")
    await console.says(console.path(lab, server), "volume-written")
    held = await reason(cloud, project, "InUse")
    file = file_of(lab, held)
    await cloud.client.delete(Volume, "data", project)
    await cloud.until(Volume, "data", lambda v: "deletionTimestamp" in v["metadata"], namespace=project)
    assert file.exists()
    await cloud.delete(Server, "first", project)
    await cloud.gone(Volume, "data", project)
    assert not file.parent.exists()


async def test_volume_that_was_never_used_can_be_deleted(cloud: Cloud, project: str) -> None:
    """A volume that no host has made goes at once."""
    await cloud.make(Volume, "data", {"size": f"{MEBIBYTES}Mi"}, project)
    await reason(cloud, project, "WaitingForFirstServer")
    await cloud.delete(Volume, "data", project, seconds=15)
