"""Servers that are backed up with their root disks, and recovered: the new guest finds what the other had written."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kumulus_api import KINDS, BackupPolicy, Kind, Server, Volume, VolumeBackup
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console
from kumulus_lab.testing.bucket_of_hosts import bucket_of_hosts
from kumulus_lab.testing.cloud import Cloud, Object, ready

pytestmark = pytest.mark.disturbs

EXAMPLES = Path(__file__).parents[2] / "examples" / "recovery"
BY_NAME = {kind.__name__: kind for kind in KINDS}
# Says what it finds on its system and data disks, writes to both, and says it again with checksums.
GUEST = """#!/bin/sh
sums() {{
  system=$(cat /disk/mark /disk/blob 2>/dev/null | md5sum | cut -c1-32)
  echo "$1={word} system=$system data=$(dd if=/dev/vdb bs=4096 count=2000 2>/dev/null | md5sum | cut -c1-32)"
}}
echo "found-$(cat /disk/mark 2>/dev/null)"
sums found
{write}
sums left
"""
WRITE = """echo {word} >/disk/mark
head -c 500000 /dev/urandom >/disk/blob
for block in 0 1 2 3 4 5 6 7; do
  printf '{word} block %s' "$block" | dd of=/dev/vdb bs=4096 seek=$((block * 200)) conv=sync,fsync 2>/dev/null
done
sync"""


def guest(word: str, *, writes: bool) -> Object:
    """Give user data of a guest that says what it finds, and may write then."""
    script = GUEST.format(word=word, write=WRITE.format(word=word) if writes else "")
    return {"inline": script}


@pytest.fixture
async def bucket(lab: LabSettings, tmp_path: Path) -> AsyncIterator[None]:
    """A bucket that the hosts reach."""
    async with bucket_of_hosts(lab, tmp_path / "s3"):
        yield


async def apply(cloud: Cloud, project: str, example: str, *kinds: type[Kind], **changes: Any) -> None:
    """Make what an example describes, in a project: objects of some kinds; `changes` are of the specs of Servers."""
    for body in yaml.safe_load_all((EXAMPLES / example).read_text()):
        kind, metadata = BY_NAME[body["kind"]], body["metadata"] | {"namespace": project}
        spec = body["spec"] | (changes if kind is Server else {})
        if kind in kinds:
            await cloud.client.create(kind, {"metadata": metadata, "spec": spec})


async def sums(log: Path, when: str) -> tuple[str, str]:
    """Wait until a guest says what is on its disks; give the checksums of the system's files and of the data."""
    pattern = rf"{when}=\w+ system=([0-9a-f]{{32}}) data=([0-9a-f]{{32}})"
    await console.says(log, pattern, 120)
    found = re.search(pattern, await asyncio.to_thread(console.said, log))
    assert found is not None
    return found.group(1), found.group(2)


async def made(cloud: Cloud, project: str, name: str) -> Object:
    """Give a backup once it is whole."""
    return await cloud.until(VolumeBackup, name, ready, namespace=project, seconds=180)


async def recovered(cloud: Cloud, project: str, lab: LabSettings) -> tuple[str, str]:
    """Have the second example made; give what its guest finds."""
    await apply(cloud, project, "server.yaml", Volume, Server, userData=guest("again", writes=False))
    for name in ("ledger-system", "ledger-data-again"):
        await cloud.until(Volume, name, ready, namespace=project, seconds=180)
    log = console.path(lab, await cloud.server_ready(project, "ledger-again", 120))
    return await sums(log, "found")


async def test_a_server_comes_back(cloud: Cloud, bucket: None, project: str, lab: LabSettings) -> None:
    """A guest writes to its root disk and its volume, is backed up running, and lost; a new one finds all of it."""
    await cloud.make_network(project)
    await apply(cloud, project, "backups.yaml", Volume, Server, BackupPolicy, userData=guest("one", writes=True))
    log = console.path(lab, await cloud.server_ready(project, "ledger", 120))
    written = await sums(log, "left")
    await apply(cloud, project, "backups.yaml", VolumeBackup)
    root = await made(cloud, project, "ledger-root")
    assert root["status"]["consistency"] == "Crash", "it runs, and the tiny guest has no agent"
    assert root["status"]["rootDisk"]["server"] == "ledger"
    assert root["status"]["rootDisk"]["image"]["name"] == "tiny"
    await made(cloud, project, "ledger-data")
    await cloud.delete(Server, "ledger", project)
    await cloud.delete(Volume, "ledger-data", project)
    assert await recovered(cloud, project, lab) == written


async def test_a_policy_and_a_server_that_is_off(cloud: Cloud, bucket: None, project: str, lab: LabSettings) -> None:
    """A run backs up root disk and volume of one moment; later ones, of the server off, put little, and come back."""
    await cloud.make_network(project)
    await cloud.make(Volume, "data", {"size": "64Mi"}, project)
    attached = [{"name": "data", "volume": {"name": "data"}}]
    await cloud.make_server(project, "ledger", volumes=attached, userData=guest("one", writes=True))
    await cloud.client.patch_merge(Server, "ledger", {"metadata": {"labels": {"tier": "db"}}}, project)
    log = console.path(lab, await cloud.server_ready(project, "ledger", 120))
    written = await sums(log, "left")
    spec = {"schedule": "* * * * *", "servers": {"matchLabels": {"tier": "db"}}}
    await cloud.make(BackupPolicy, "nightly", spec, project)
    await cloud.until(
        BackupPolicy, "nightly", lambda p: p.get("status", {}).get("rootDisks") == 1, namespace=project, seconds=120
    )
    await cloud.client.patch_merge(BackupPolicy, "nightly", {"spec": {"suspend": True}}, project)
    runs = [body for body in (await cloud.client.list(VolumeBackup, project))[0] if body["metadata"].get("labels")]
    told = [(await made(cloud, project, body["metadata"]["name"]))["status"] for body in runs]
    newest = max(status["takenAt"] for status in told)
    assert len([status for status in told if status["takenAt"] == newest]) >= 2, (
        "root disk and volume are of one moment"
    )

    await cloud.power(project, "ledger", "Stopped")
    sources = {"ledger-root": {"server": {"name": "ledger"}}, "ledger-data": {"volume": {"name": "data"}}}
    for name, source in sources.items():
        await cloud.make(VolumeBackup, name, {"source": source, "incremental": True}, project)
    root = (await made(cloud, project, "ledger-root"))["status"]
    await made(cloud, project, "ledger-data")
    assert root["consistency"] == "Offline"
    first = min((status for status in told if "rootDisk" in status), key=lambda status: status["takenAt"])
    assert root["storedBytes"] < first["storedBytes"]
    await cloud.delete(Server, "ledger", project)
    await cloud.delete(Volume, "data", project)
    assert await recovered(cloud, project, lab) == written
