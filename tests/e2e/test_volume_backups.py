"""Backups of a volume that a real guest writes: every block of each is as it was written, on whatever host."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kumulus_api import Server, Volume, VolumeBackup
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console
from kumulus_lab.testing.bucket_of_hosts import bucket_of_hosts
from kumulus_lab.testing.cloud import Cloud, Object, condition, ready

pytestmark = pytest.mark.disturbs

MEBIBYTES = 32
# Writes blocks that name their place and turn, and says the checksum; again when the disk has grown.
WRITER = """#!/bin/sh
turn() {
  for block in 0 1 2 3 4 5 6 7; do
    printf 'turn %s block %s' "$1" "$block" | dd of=/dev/vdb bs=4096 seek=$((block * 1000)) conv=sync,fsync 2>/dev/null
  done
  echo "wrote=$1 sum=$(dd if=/dev/vdb bs=4096 count=8000 2>/dev/null | md5sum | cut -c1-32)"
}
first=$(cat /sys/block/vdb/size)
turn 1
(while [ "$(cat /sys/block/vdb/size)" = "$first" ]; do sleep 1; done; turn 2) &
"""
READER = """#!/bin/sh
echo "vdb sum=$(dd if=/dev/vdb bs=4096 count=8000 2>/dev/null | md5sum | cut -c1-32)"
"""


@pytest.fixture
async def bucket(lab: LabSettings, tmp_path: Path) -> AsyncIterator[None]:
    """A real S3 server that the hosts reach, and agents that were told of it, as the chart's `images.s3` does."""
    async with bucket_of_hosts(lab, tmp_path / "s3"):
        yield


async def said(log: Any, pattern: str) -> str:
    """Wait for a checksum on the console, and give it."""
    await console.says(log, pattern)
    found = re.search(pattern, await asyncio.to_thread(console.said, log), re.MULTILINE)
    assert found is not None
    return found.group(1)


async def back_up(cloud: Cloud, project: str, name: str, **spec: Any) -> Object:
    """Make a backup, and give it once it is whole."""
    await cloud.make(VolumeBackup, name, {"source": {"volume": {"name": "data"}}} | spec, project)
    return await cloud.until(VolumeBackup, name, ready, namespace=project, seconds=120)


async def test_every_block_comes_back(cloud: Cloud, bucket: None, project: str, lab: LabSettings) -> None:
    """A guest writes, is backed up, writes again, is backed up incrementally; volumes of both read as was written."""
    await cloud.make_network(project)
    await cloud.make(Volume, "data", {"size": f"{MEBIBYTES}Mi"}, project)
    attached = [{"name": "data", "volume": {"name": "data"}}]
    await cloud.make_server(project, "writer", volumes=attached, userData={"inline": WRITER})
    log = console.path(lab, await cloud.server_ready(project, "writer"))
    sums = {"monday": await said(log, r"wrote=1 sum=([0-9a-f]{32})")}
    full = await back_up(cloud, project, "monday")
    assert full["status"]["consistency"] == "Crash", "the tiny guest has no agent"
    await cloud.client.patch_merge(Volume, "data", {"spec": {"size": f"{2 * MEBIBYTES}Mi"}}, project)
    sums["tuesday"] = await said(log, r"wrote=2 sum=([0-9a-f]{32})")
    assert sums["monday"] != sums["tuesday"]
    changed = await back_up(cloud, project, "tuesday", incremental=True)
    assert changed["status"]["parent"] == full["spec"]["assignment"]["backupID"]
    assert condition(await cloud.server_ready(project, "writer"), "LiveMigratable")["status"] == "True", (
        "no layer stays"
    )

    await cloud.client.patch_merge(VolumeBackup, "tuesday", {"spec": {"verify": "now"}}, project)
    await cloud.until(
        VolumeBackup, "tuesday", lambda b: b["status"].get("verified", {}).get("sound") is True, namespace=project
    )
    await cloud.delete(Server, "writer", project)
    for name, size in (("monday", MEBIBYTES), ("tuesday", 2 * MEBIBYTES)):
        source = {"volumeBackup": {"name": name}}
        await cloud.make(Volume, f"of-{name}", {"size": f"{size}Mi", "source": source}, project)
        await cloud.until(Volume, f"of-{name}", ready, namespace=project, seconds=120)
        disks = [{"name": "data", "volume": {"name": f"of-{name}"}}]
        await cloud.make_server(project, f"reads-{name}", volumes=disks, userData={"inline": READER})
        reader = console.path(lab, await cloud.server_ready(project, f"reads-{name}"))
        assert await said(reader, r"vdb sum=([0-9a-f]{32})") == sums[name]
        await cloud.delete(VolumeBackup, name, project)
        await cloud.gone(VolumeBackup, name, project)
