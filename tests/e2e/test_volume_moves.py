"""Volumes whose class changes while a real guest writes: every block as it was written, in one place."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kumulus_api import Server, Volume, VolumeClass
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console
from kumulus_lab.testing.cloud import Cloud, Object, condition
from kumulus_lab.testing.travelling import on_host

pytestmark = pytest.mark.tenant

MEBIBYTES = 128
SHARE = "/var/lib/kumulus/shares/moves"
# Writes blocks that name their turn, one after the other; says each turn that it has written, and whether the last ones
# read, past the cache, as they were written. The first 16 MiB are there before.
WRITER = """#!/bin/sh
block() { printf 'turn %s of the volume' "$1" | dd bs=4096 conv=sync 2>/dev/null; }
dd if=/dev/urandom of=/dev/vdb bs=1M count=16 conv=fsync 2>/dev/null
base=$(dd if=/dev/vdb bs=1M count=16 2>/dev/null | md5sum | cut -c1-32)
echo "volume-begun"
(n=0; while :; do
  n=$((n+1)); block "$n" | dd of=/dev/vdb bs=4096 seek=$((20000 + n % 4000)) conv=fsync 2>/dev/null
  echo 3 >/proc/sys/vm/drop_caches
  last=$((n > 3 ? n - 3 : 1)); while [ "$last" -le "$n" ]; do
    found=$(dd if=/dev/vdb bs=4096 skip=$((20000 + last % 4000)) count=1 2>/dev/null | md5sum)
    [ "$found" = "$(block "$last" | md5sum)" ] || echo "VOLUME-LOST-$last"
    last=$((last+1))
  done
  if [ $((n % 20)) = 0 ]; then
    now=$(dd if=/dev/vdb bs=1M count=16 2>/dev/null | md5sum | cut -c1-32)
    [ "$now" = "$base" ] || echo "VOLUME-DIFFERS-$n"
  fi
  echo "volume-takes-$n"
done) >/dev/ttyS0 2>&1 &
"""
DATA = [{"name": "data", "volume": {"name": "data"}}]


@pytest.fixture
async def classes(cloud: Cloud, project: str) -> AsyncIterator[tuple[str, str]]:
    """A class of the hosts' own disks and one of a share, and a volume of the first."""
    here, shared = f"here-{project}", f"shared-{project}"
    await cloud.make(VolumeClass, here, {"driver": "Local"})
    await cloud.make(VolumeClass, shared, {"driver": "Shared", "shared": {"folder": f"{SHARE}-{project}"}})
    await cloud.make(Volume, "data", {"size": f"{MEBIBYTES}Mi", "volumeClass": {"name": here}}, project)
    yield here, shared
    for name in (here, shared):
        await cloud.client.delete(VolumeClass, name)


async def writes_on(log: Path) -> None:
    """Wait until the guest has written twice more than it has said by now."""
    taken = [int(turn) for turn in re.findall(r"volume-takes-(\d+)", console.said(log))]
    await console.says(log, f"volume-takes-{max(taken, default=0) + 2}\\b")


async def lies_in(cloud: Cloud, project: str, name: str) -> Object:
    """Ask for another class, and give the volume when it lies there and where it was is cleared."""
    await cloud.client.patch_merge(Volume, "data", {"spec": {"volumeClass": {"name": name}}}, project)
    return await cloud.until(
        Volume,
        "data",
        lambda v: (
            v["spec"]["assignment"]["volumeClass"] == name
            and not v["spec"]["assignment"].get("left")
            and condition(v, "Retyped")["reason"] == "Retyped"
        ),
        namespace=project,
        seconds=120,
    )


async def test_a_class_changes_as_a_guest_writes(
    cloud: Cloud, project: str, lab: LabSettings, classes: tuple[str, str]
) -> None:
    """To a share and back the guest reads what it wrote, its volume lies in one place, and it may migrate by it."""
    here, shared = classes
    await cloud.make_network(project)
    await cloud.make_server(project, "writer", volumes=DATA, userData={"inline": WRITER})
    server = await cloud.server_ready(project, "writer")
    log, host = console.path(lab, server), on_host(server)
    share = console.host_path(lab, host, f"{SHARE}-{project}")
    share.mkdir(parents=True)
    (share / "kumulus-volume-class").write_text(shared)
    await console.says(log, "volume-begun")
    await writes_on(log)

    for name, mark in ((shared, True), (here, False)):
        volume = await lies_in(cloud, project, name)
        volume_id = volume["spec"]["assignment"]["volumeID"]
        await cloud.until(
            Server,
            "writer",
            lambda s, mark=mark: s["spec"]["assignment"]["volumes"][0].get("shared", False) is mark,
            namespace=project,
        )
        own = console.host_path(lab, host, f"/var/lib/kumulus/volumes/{volume_id}")
        assert (own.exists(), (share / "volumes" / volume_id).exists()) == (not mark, mark)
        await writes_on(log)
    said = console.said(log)
    assert "VOLUME-LOST" not in said
    assert "VOLUME-DIFFERS" not in said
    assert said.count("volume-begun") == 1, "the guest was never started anew"
