"""Volumes that serve guests on other hosts: every block as it was written, also when their host was away."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kumulus_api import Server, Volume, VolumeClass, VolumeSnapshot
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console
from kumulus_lab.testing.cloud import Cloud, Object, condition
from kumulus_lab.testing.migrating import ask, kill_on, succeeded
from kumulus_lab.testing.travelling import on_host, other_than, settled_on

MEBIBYTES = 32
# Writes blocks that name their place once, then reads them past the cache again and again and says their checksum.
CHECKER = """#!/bin/sh
sum() { echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/vdb bs=4096 count=8000 2>/dev/null | md5sum | cut -c1-32; }
if [ "$(dd if=/dev/vdb bs=16 count=1 2>/dev/null | head -c 7)" != block-0 ]; then
  for block in 0 1 2 3 4 5 6 7; do
    printf 'block-%s of the volume' "$block" | dd of=/dev/vdb bs=4096 seek=$((block * 1000)) conv=sync,fsync 2>/dev/null
  done
  echo volume-new
fi
first=$(sum)
echo "volume-sum=$first"
(n=0; while :; do
  n=$((n+1)); [ "$(sum)" = "$first" ] && echo "volume-same-$n" || echo "VOLUME-DIFFERS-$n"
  printf 'turn %s' "$n" | dd of=/dev/vdb bs=4096 seek=8100 conv=sync,fsync 2>/dev/null && echo "volume-takes-$n"
  size=$(cat /sys/block/vdb/size); [ "$size" = "$was" ] || { was=$size; echo "volume-sectors=$size"; }
  sleep 1
done) >/dev/ttyS0 2>&1 &
"""
DATA = [{"name": "data", "volume": {"name": "data"}}]


@pytest.fixture
async def lent(cloud: Cloud, project: str) -> AsyncIterator[str]:
    """A class whose volumes serve servers on other hosts, and a volume of it."""
    name = f"lent-{project}"
    await cloud.make(VolumeClass, name, {"driver": "Local", "export": True})
    await cloud.make(Volume, "data", {"size": f"{MEBIBYTES}Mi", "volumeClass": {"name": name}}, project)
    yield name
    await cloud.client.delete(VolumeClass, name)


async def apart(cloud: Cloud, project: str, lab: LabSettings) -> tuple[Object, str]:
    """Have a volume with data on one host and a guest with it on the other; give the server and the volume's host."""
    await cloud.make_network(project)
    await cloud.make_server(project, "first", volumes=DATA, userData={"inline": CHECKER})
    first = await cloud.server_ready(project, "first")
    home = on_host(first)
    await console.says(console.path(lab, first), "volume-new")
    await cloud.delete(Server, "first", project)
    away = other_than(home)
    placement = {"host": away}
    await cloud.make_server(project, "far", volumes=DATA, userData={"inline": CHECKER}, placement=placement)
    return await cloud.server_ready(project, "far"), home


async def writes_on(log: Path) -> None:
    """Wait until the guest has written twice more than it has said by now."""
    taken = [int(turn) for turn in re.findall(r"volume-takes-(\d+)", console.said(log))]
    await console.says(log, f"volume-takes-{max(taken) + 2}\\b")


@pytest.mark.usefixtures("lent")
async def test_a_guest_reads_elsewhere_what_was_written_at_home(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """A guest on another host finds the data, sees growth, and its volume is snapshotted as it writes."""
    server, home = await apart(cloud, project, lab)
    log = console.path(lab, server)
    await console.says(log, "volume-same-2")
    body = await cloud.until(Volume, "data", lambda v: condition(v, "Ready")["reason"] == "InUse", namespace=project)
    assert body["spec"]["assignment"]["host"] == home
    assert body["spec"]["assignment"]["exportedTo"] == [on_host(server)]

    await cloud.make(VolumeSnapshot, "early", {"volume": {"name": "data"}}, project)
    await cloud.until(VolumeSnapshot, "early", lambda s: condition(s, "Ready")["status"] == "True", namespace=project)
    await cloud.client.patch_merge(Volume, "data", {"spec": {"size": f"{2 * MEBIBYTES}Mi"}}, project)
    await console.says(log, f"volume-sectors={2 * MEBIBYTES << 11}")
    said = console.said(log)
    assert "volume-new" not in said
    assert "VOLUME-DIFFERS" not in said


@pytest.mark.usefixtures("lent")
async def test_a_guest_migrates_and_its_volume_stays(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """A guest goes live to the host of its volume and back, which exports it to where the guest is."""
    server, home = await apart(cloud, project, lab)
    away = on_host(server)
    await console.says(console.path(lab, server), "volume-same-2")
    for host in (home, away):
        await succeeded(cloud, project, await ask(cloud, project, "far", host=host))
        server = await cloud.until(Server, "far", settled_on(host), namespace=project, seconds=60)
        await cloud.until(
            Volume, "data", lambda v, host=host: v["spec"]["assignment"]["exportedTo"] == [host], namespace=project
        )
        await writes_on(console.path(lab, server))
        assert (await cloud.client.get(Volume, "data", project) or {})["spec"]["assignment"]["host"] == home
    assert "VOLUME-DIFFERS" not in console.said(console.path(lab, server))


@pytest.mark.usefixtures("lent")
async def test_a_guest_goes_on_when_what_exports_was_killed(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """The process of either end is killed as the guest writes: it waits, or stands still, goes on, and lost nothing."""
    server, home = await apart(cloud, project, lab)
    log = console.path(lab, server)
    await console.says(log, "volume-takes-2")
    kill_on(lab, home, "qemu-nbd")
    await console.says(log, "volume-takes-6")
    kill_on(lab, on_host(server), "qemu-nbd")
    await console.says(log, "volume-takes-12")
    assert "VOLUME-DIFFERS" not in console.said(log)
