"""Encrypted and limited volumes of real guests: hosts see noise, and guests are as slow as the class says."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kumulus_api import Server, Volume, VolumeClass, VolumeSnapshot
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console
from kumulus_lab.testing.cloud import Cloud, Object, condition, ready
from kumulus_runtime.resources import SECRET

pytestmark = pytest.mark.tenant

MEBIBYTES = 32
MARK = b"kumulus-clear-text-mark"
WRITER = f"""#!/bin/sh
for block in 0 1 2 3; do
  printf '{MARK.decode()}' | dd of=/dev/vdb bs=4096 seek=$((block * 1000)) conv=sync,fsync 2>/dev/null
done
echo "wrote sum=$(dd if=/dev/vdb bs=4096 count=8000 2>/dev/null | md5sum | cut -c1-32)"
"""
READER = """#!/bin/sh
echo "read sum=$(dd if=/dev/vdb bs=4096 count=8000 2>/dev/null | md5sum | cut -c1-32)"
"""
# Says how many milliseconds 4 MiB take, again and again.
TIMER = """#!/bin/sh
now() { awk '{print int($1 * 1000)}' /proc/uptime; }
turn=0
while :; do
  began=$(now)
  dd if=/dev/zero of=/dev/vdb bs=65536 count=64 conv=fsync 2>/dev/null
  turn=$((turn + 1))
  echo "turn=$turn took=$(($(now) - began))"
  sleep 1
done &
"""
DATA = [{"name": "data", "volume": {"name": "data"}}]


@contextlib.asynccontextmanager
async def volume_class(cloud: Cloud, project: str, **spec: object) -> AsyncIterator[str]:
    """Have a class for the project."""
    name = f"kept-{project}"
    given = {"driver": "Local", "public": False, "projects": [project]} | spec
    await cloud.client.create(VolumeClass, {"metadata": {"name": name}, "spec": given})
    try:
        yield name
    finally:
        await cloud.client.delete(VolumeClass, name)


def in_the_clear(lab: LabSettings, volume: Object) -> list[Path]:
    """Give the files of a volume in which the mark can be read."""
    place = volume["spec"]["assignment"]
    folder = console.host_path(lab, place["host"], f"/var/lib/kumulus/volumes/{place['volumeID']}")
    return [path for path in folder.iterdir() if MARK in path.read_bytes()]


async def found(log: Path, pattern: str) -> str:
    """Wait for a line of a console; give its group."""
    await console.says(log, pattern)
    match = re.search(pattern, await asyncio.to_thread(console.said, log), re.MULTILINE)
    assert match is not None
    return match.group(1)


async def test_what_guests_write_is_noise_on_hosts(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """A guest writes, its volume migrates, is snapshotted and copied: the copy reads the same, no file has the mark."""
    async with volume_class(cloud, project, encryption={}) as name:
        await cloud.make_network(project)
        await cloud.make(Volume, "data", {"size": f"{MEBIBYTES}Mi", "volumeClass": {"name": name}}, project)
        await cloud.make_server(project, "writer", volumes=DATA, userData={"inline": WRITER})
        log = console.path(lab, await cloud.server_ready(project, "writer"))
        written = await found(log, r"wrote sum=([0-9a-f]{32})")
        held = await cloud.until(Volume, "data", ready, namespace=project)
        assert await asyncio.to_thread(in_the_clear, lab, held) == []
        moved = await cloud.act(project, "writer", "LiveMigrate", 180)
        assert moved["status"]["phase"] == "Succeeded"
        await cloud.make(VolumeSnapshot, "first", {"volume": {"name": "data"}}, project)
        await cloud.until(VolumeSnapshot, "first", ready, namespace=project, seconds=60)
        source = {"size": f"{MEBIBYTES}Mi", "source": {"snapshot": {"name": "first"}}}
        await cloud.make(Volume, "copy", source, project)
        copy = await cloud.until(Volume, "copy", ready, namespace=project, seconds=60)
        await cloud.delete(Server, "writer", project)
        attached = [{"name": "copy", "volume": {"name": "copy"}}]
        await cloud.make_server(project, "reader", volumes=attached, userData={"inline": READER})
        reader = console.path(lab, await cloud.server_ready(project, "reader"))
        assert await found(reader, r"read sum=([0-9a-f]{32})") == written
        for name_of in ("data", "copy"):
            body = await cloud.client.get(Volume, name_of, project)
            assert body is not None
            assert await asyncio.to_thread(in_the_clear, lab, body) == []

        await cloud.delete(Server, "reader", project)
        await cloud.delete(Volume, "copy", project)
        await cloud.gone(Volume, "copy", project)
        where = copy["spec"]["assignment"]["encryption"]["secret"]["name"]
        assert await cloud.client.get(SECRET, where, project) is None
        await cloud.delete(VolumeSnapshot, "first", project)


async def test_a_lost_key_is_told(cloud: Cloud, project: str) -> None:
    """A server whose volume's key is not there does not start and names the Secret; it starts when that is back."""
    async with volume_class(cloud, project, encryption={}) as name:
        await cloud.make_network(project)
        await cloud.make(Volume, "data", {"size": f"{MEBIBYTES}Mi", "volumeClass": {"name": name}}, project)
        await cloud.make_server(project, "web", volumes=DATA)
        await cloud.server_ready(project, "web")
        held = await cloud.client.get(Volume, "data", project)
        assert held is not None
        where = held["spec"]["assignment"]["encryption"]["secret"]["name"]
        secret = await cloud.client.get(SECRET, where, project)
        assert secret is not None
        await cloud.client.patch_merge(Server, "web", {"spec": {"powerState": "Stopped"}}, project)
        await cloud.until(Server, "web", lambda s: s["status"]["powerState"] == "Stopped", namespace=project)
        await cloud.client.delete(SECRET, where, project)
        await cloud.client.patch_merge(Server, "web", {"spec": {"powerState": "Running"}}, project)
        told = await cloud.until(
            Server, "web", lambda s: where in condition(s, "VolumesReady").get("message", ""), namespace=project
        )
        assert secret["data"]["key"] not in str(told)
        kept = {part: secret[part] for part in ("type", "data")}
        await cloud.client.create(SECRET, {"metadata": {"name": where, "namespace": project}} | kept)
        await cloud.until(Server, "web", ready, namespace=project, seconds=120)


async def test_a_guest_is_as_slow_as_its_class_says(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """4 MiB at 1 MiB each second take more than two seconds, also in a guest that ran when the class was changed."""
    async with volume_class(cloud, project, qos={"iops": {"total": 100000}}) as name:
        await cloud.make_network(project)
        await cloud.make(Volume, "data", {"size": f"{MEBIBYTES}Mi", "volumeClass": {"name": name}}, project)
        await cloud.make_server(project, "writer", volumes=DATA, userData={"inline": TIMER})
        log = console.path(lab, await cloud.server_ready(project, "writer"))
        await console.says(log, r"turn=1 took=[0-9]+$")
        await cloud.client.patch_merge(VolumeClass, name, {"spec": {"qos": {"bytes": {"total": "1Mi"}}}})
        await cloud.until(
            Volume, "data", lambda v: v["spec"]["assignment"]["limits"].get("totalBytes") == 1 << 20, namespace=project
        )
        await console.says(log, r"turn=[0-9]+ took=([2-9][0-9]{3}|[0-9]{5,})$")


async def test_a_volume_is_as_slow_as_it_asks(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """Limits of the volume's own reach the guest that has it, within a class that allows more."""
    async with volume_class(cloud, project, qos={"bytes": {"total": "1G"}}, qosPerVolume=True, overcommit="2") as name:
        await cloud.make_network(project)
        await cloud.make(Volume, "data", {"size": f"{MEBIBYTES}Mi", "volumeClass": {"name": name}}, project)
        await cloud.make_server(project, "writer", volumes=DATA, userData={"inline": TIMER})
        log = console.path(lab, await cloud.server_ready(project, "writer"))
        await console.says(log, r"turn=1 took=[0-9]+$")
        await cloud.client.patch_merge(Volume, "data", {"spec": {"qos": {"bytes": {"total": "1Mi"}}}}, project)
        await cloud.until(
            Volume, "data", lambda v: v["spec"]["assignment"]["limits"].get("totalBytes") == 1 << 20, namespace=project
        )
        await console.says(log, r"turn=[0-9]+ took=([2-9][0-9]{3}|[0-9]{5,})$")
