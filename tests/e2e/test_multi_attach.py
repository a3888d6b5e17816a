"""A volume that guests on two hosts have at once: each writes its own blocks and reads the other's past its cache."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kumulus_api import Server, Volume, VolumeClass
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console
from kumulus_lab.testing.cloud import Cloud, Object, condition
from kumulus_lab.testing.migrating import ask, succeeded
from kumulus_lab.testing.shares import mounted_folder
from kumulus_lab.testing.travelling import on_host, settled_on

MEBIBYTES = 32
HOSTS = ("h1", "h2")
# Counts in a block of its own, and says what it reads in the other's, past its cache: never less than before.
COUNTER = """#!/bin/sh
own=OWN other=OTHER
at() { [ "$1" = one ] && echo 1000 || echo 6000; }
(n=0; last=0; while :; do
  n=$((n+1))
  printf '%s turn %s ' "$own" "$n" | dd of=/dev/vdb bs=4096 seek=$(at $own) conv=sync,fsync 2>/dev/null \\
    && echo "$own-wrote-$n"
  echo 3 >/proc/sys/vm/drop_caches
  set -- $(dd if=/dev/vdb bs=4096 skip=$(at $other) count=1 2>/dev/null | tr -d '\\000')
  if [ "$1" = "$other" ]; then
    [ "$3" -ge "$last" ] && echo "$own-read-$other-$3" || echo "WENT-BACK-$last-$3"
    last=$3
  fi
  set -- $(dd if=/dev/vdb bs=4096 skip=$(at $own) count=1 2>/dev/null | tr -d '\\000')
  [ "$1 $3" = "$own $n" ] || echo "LOST-$own-$n"
  size=$(cat /sys/block/vdb/size); [ "$size" = "$was" ] || { was=$size; echo "volume-sectors=$size"; }
  sleep 1
done) >/dev/ttyS0 2>&1 &
"""
DATA = [{"name": "data", "volume": {"name": "data"}}]


@pytest.fixture
async def several(cloud: Cloud, project: str, lab: LabSettings) -> AsyncIterator[str]:
    """A folder that the hosts mount, a class of it for several servers, and a volume of that."""
    name = f"several-{project}"
    async with mounted_folder(lab, name) as share:
        spec = {"driver": "Shared", "shared": {"folder": share.folder}, "multiAttach": True}
        await cloud.make(VolumeClass, name, spec)
        await cloud.make(Volume, "data", {"size": f"{MEBIBYTES}Mi", "volumeClass": {"name": name}}, project)
        try:
            yield name
            for server in ("one", "two"):
                await cloud.delete(Server, server, project)
            # The last to have it has let go: its host removes it while the share is there.
            await cloud.delete(Volume, "data", project)
            assert raw_files(share.path) == []
        finally:
            await cloud.client.delete(VolumeClass, name)


def raw_files(folder: Path) -> list[Path]:
    """Give what is left of volumes."""
    return list(folder.rglob("*.raw"))


async def counting(cloud: Cloud, project: str, lab: LabSettings, name: str, host: str) -> Path:
    """Have a guest on a host that counts in the volume; give its console."""
    script = COUNTER.replace("OWN", name, 1).replace("OTHER", "two" if name == "one" else "one", 1)
    await cloud.make_server(project, name, volumes=DATA, userData={"inline": script}, placement={"host": host})
    server: Object = await cloud.server_ready(project, name)
    assert on_host(server) == host
    return console.path(lab, server)


def last(log: Path, pattern: str) -> int:
    """Give the last number that a guest has said in such a line; 0 for none."""
    found = re.findall(pattern, console.said(log))
    return int(found[-1]) if found else 0


async def reads_on(log: Path, own: str, other: str) -> None:
    """Wait until a guest has read what the other has written since."""
    seen = last(log, rf"{own}-read-{other}-(\d+)")
    await console.says(log, rf"{own}-read-{other}-({seen + 2}|{seen + 3}|{seen + 4})\b")


@pytest.mark.usefixtures("several")
async def test_two_guests_read_what_the_other_writes(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """They go on as one migrates to the other's host, see growth, and when one is gone the other loses nothing."""
    await cloud.make_network(project)
    one = await counting(cloud, project, lab, "one", HOSTS[0])
    two = await counting(cloud, project, lab, "two", HOSTS[1])
    held = await cloud.until(
        Volume, "data", lambda v: "servers one, two" in condition(v, "Ready")["message"], namespace=project
    )
    given = held["spec"]["assignment"]
    assert (given["attachedTo"], given["alsoAttachedTo"], given["host"]) == ("one", ["two"], HOSTS[0])
    await reads_on(one, "one", "two")
    await reads_on(two, "two", "one")

    await cloud.client.patch_merge(Volume, "data", {"spec": {"size": f"{2 * MEBIBYTES}Mi"}}, project)
    for log in (one, two):
        await console.says(log, rf"volume-sectors={2 * MEBIBYTES << 11}")

    await succeeded(cloud, project, await ask(cloud, project, "one", host=HOSTS[1]))
    moved = await cloud.until(Server, "one", settled_on(HOSTS[1]), namespace=project, seconds=60)
    one = console.path(lab, moved)
    await reads_on(one, "one", "two")
    await reads_on(two, "two", "one")
    for log in (one, two):
        assert "LOST" not in console.said(log)
        assert "WENT-BACK" not in console.said(log)

    await cloud.delete(Server, "one", project)
    await cloud.until(Volume, "data", lambda v: v["spec"]["assignment"]["attachedTo"] == "two", namespace=project)
    await console.says(two, f"two-wrote-{last(two, r'two-wrote-([0-9]+)') + 2}\\b")
    assert "LOST" not in console.said(two)
