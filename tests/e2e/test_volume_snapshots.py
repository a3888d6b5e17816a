"""Volumes of real guests that grow, are snapshotted, copied and put back: every block as it was written."""

import asyncio
import re
from typing import Any

import pytest

from kumulus_api import Server, Volume, VolumeSnapshot
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console
from kumulus_lab.testing.cloud import Cloud, Object, condition, ready
from kumulus_runtime.errors import Forbidden, Invalid

pytestmark = pytest.mark.tenant

MEBIBYTES = 32
# Writes blocks that name their place and turn, one after the other, and says the checksum of each turn; then it says
# how large the disks are, whenever that changes.
WRITER = """#!/bin/sh
turn() {
  for block in 0 1 2 3 4 5 6 7; do
    printf 'turn %s block %s' "$1" "$block" | dd of=/dev/vdb bs=4096 seek=$((block * 1000)) conv=sync,fsync 2>/dev/null
  done
  echo "wrote=$1 sum=$(dd if=/dev/vdb bs=4096 count=8000 2>/dev/null | md5sum | cut -c1-32)"
}
turn 1
size=
while :; do
  now=$(cat /sys/block/vdb/size)
  [ "$now" = "$size" ] || { size=$now; echo "vdb-sectors=$now"; [ -e /tmp/first ] && turn 2; : > /tmp/first; }
  sleep 1
done &
"""
READER = r"""#!/bin/sh
for disk in vdb vdc; do
  [ -b /dev/$disk ] || continue
  echo "$disk sum=$(dd if=/dev/$disk bs=4096 count=8000 2>/dev/null | md5sum | cut -c1-32)"
  echo x | dd of=/dev/$disk bs=4096 seek=7999 conv=sync,fsync 2>/dev/null \
    && echo "$disk written" || echo "$disk refuses"
done
"""


def attached(*names: str) -> list[Object]:
    """Give what a server's `spec.volumes` says."""
    return [{"name": name, "volume": {"name": name}} for name in names]


async def sums(log: Any, pattern: str) -> str:
    """Wait for a checksum on the console, and give it."""
    await console.says(log, pattern)
    found = re.search(pattern, await asyncio.to_thread(console.said, log), re.MULTILINE)
    assert found is not None
    return found.group(1)


async def snapshot(cloud: Cloud, project: str, name: str, volume: str = "data") -> Object:
    """Take a snapshot, and give it once it is Ready."""
    await cloud.make(VolumeSnapshot, name, {"volume": {"name": volume}}, project)
    return await cloud.until(VolumeSnapshot, name, ready, namespace=project, seconds=30)


async def free(cloud: Cloud, project: str, name: str = "data") -> Object:
    """Wait until no server has a volume."""
    return await cloud.until(
        Volume, name, lambda v: condition(v, "Ready")["reason"] == "Available", namespace=project, seconds=60
    )


async def test_every_block_is_as_it_was_written(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """A guest writes, is snapshotted, sees its disk grow, writes again; copies and reverts read as was written then."""
    await cloud.make_network(project)
    await cloud.make(Volume, "data", {"size": f"{MEBIBYTES}Mi"}, project)
    await cloud.make_server(project, "writer", volumes=attached("data"), userData={"inline": WRITER})
    log = console.path(lab, await cloud.server_ready(project, "writer"))
    first = await sums(log, r"wrote=1 sum=([0-9a-f]{32})")
    await console.says(log, rf"vdb-sectors={MEBIBYTES << 11}$")

    taken = await snapshot(cloud, project, "first")
    assert taken["status"]["restoreSize"] == MEBIBYTES << 20
    assert taken["status"]["consistency"] == "Crash", "the tiny guest has no agent"

    await cloud.client.patch_merge(Volume, "data", {"spec": {"size": f"{2 * MEBIBYTES}Mi"}}, project)
    await console.says(log, rf"vdb-sectors={2 * MEBIBYTES << 11}$")
    second = await sums(log, r"wrote=2 sum=([0-9a-f]{32})")
    assert first != second
    await cloud.until(Volume, "data", lambda v: condition(v, "Resized")["status"] == "True", namespace=project)
    await snapshot(cloud, project, "second")

    for name, source in (("one", {"snapshot": {"name": "first"}}), ("two", {"volume": {"name": "data"}})):
        await cloud.make(Volume, name, {"size": f"{2 * MEBIBYTES}Mi", "source": source}, project)
        await cloud.until(Volume, name, ready, namespace=project, seconds=60)
    await cloud.make_server(project, "reader", volumes=attached("one", "two"), userData={"inline": READER})
    reader = console.path(lab, await cloud.server_ready(project, "reader"))
    assert await sums(reader, r"vdb sum=([0-9a-f]{32})") == first
    assert await sums(reader, r"vdc sum=([0-9a-f]{32})") == second
    await console.says(reader, "vdc written")
    await cloud.delete(Server, "reader", project)

    await cloud.delete(Server, "writer", project)
    await free(cloud, project)
    back = {"revert": {"snapshot": {"name": "first"}, "request": "1"}, "readOnly": True}
    await cloud.client.patch_merge(Volume, "data", {"spec": back}, project)
    await cloud.until(Volume, "data", lambda v: condition(v, "Reverted")["status"] == "True", namespace=project)
    await cloud.make_server(project, "again", volumes=attached("data"), userData={"inline": READER})
    again = console.path(lab, await cloud.server_ready(project, "again"))
    assert await sums(again, r"vdb sum=([0-9a-f]{32})") == first
    await console.says(again, "vdb refuses")


async def test_what_is_deleted_goes_when_nothing_needs_it(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """A volume waits for its snapshots and says so, a protected one is not deleted; the copy of both keeps its data."""
    await cloud.make_network(project)
    await cloud.make(Volume, "data", {"size": f"{MEBIBYTES}Mi", "protected": True}, project)
    await cloud.make_server(project, "writer", volumes=attached("data"), userData={"inline": WRITER})
    log = console.path(lab, await cloud.server_ready(project, "writer"))
    first = await sums(log, r"wrote=1 sum=([0-9a-f]{32})")
    await snapshot(cloud, project, "first")
    await cloud.make(Volume, "copy", {"size": f"{MEBIBYTES}Mi", "source": {"snapshot": {"name": "first"}}}, project)
    await cloud.until(Volume, "copy", ready, namespace=project, seconds=30)
    await cloud.delete(Server, "writer", project)
    held = await free(cloud, project)
    folder = console.host_path(
        lab, held["spec"]["assignment"]["host"], f"/var/lib/kumulus/volumes/{held['spec']['assignment']['volumeID']}"
    )

    with pytest.raises(Forbidden, match="protected"):
        await cloud.client.delete(Volume, "data", project)
    await cloud.client.patch_merge(Volume, "data", {"spec": {"protected": False}}, project)
    await cloud.client.delete(Volume, "data", project)
    waits = await cloud.until(
        Volume, "data", lambda v: condition(v, "Ready")["reason"] == "HasSnapshots", namespace=project
    )
    assert "first" in condition(waits, "Ready")["message"]
    await cloud.delete(VolumeSnapshot, "first", project)
    await cloud.gone(Volume, "data", project)

    await cloud.make_server(project, "reader", volumes=attached("copy"), userData={"inline": READER})
    reader = console.path(lab, await cloud.server_ready(project, "reader"))
    assert await sums(reader, r"vdb sum=([0-9a-f]{32})") == first
    await cloud.delete(Server, "reader", project)
    await free(cloud, project, "copy")
    await cloud.delete(Volume, "copy", project)
    await cloud.gone(Volume, "copy", project)
    assert not folder.exists()


async def test_growth_is_bounded(cloud: Cloud, project: str) -> None:
    """A volume never shrinks, and beyond the quota it keeps its size and says why."""
    await cloud.make(Volume, "data", {"size": f"{MEBIBYTES}Mi"}, project)
    with pytest.raises(Invalid, match="only grow"):
        await cloud.client.patch_merge(Volume, "data", {"spec": {"size": "1Mi"}}, project)


async def test_a_server_with_snapshots_stays_on_its_host(cloud: Cloud, project: str) -> None:
    """What a volume lies on would stay behind: the server says that it cannot migrate live, and why."""
    await cloud.make_network(project)
    await cloud.make(Volume, "data", {"size": f"{MEBIBYTES}Mi"}, project)
    await cloud.make_server(project, "writer", volumes=attached("data"))
    await cloud.server_ready(project, "writer")
    await snapshot(cloud, project, "first")
    await cloud.until(
        Server, "writer", lambda s: condition(s, "LiveMigratable")["reason"] == "VolumeBoundToHost",
        namespace=project, seconds=90,
    )  # fmt: skip
