"""Disks that fill, and what guests give back: real guests stand still in time, and their host has what they discard."""

from __future__ import annotations

from pathlib import Path

import pytest

from kumulus_api import Server, Volume
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import console
from kumulus_lab.testing.block_guest import BLOCK, BlockGuest, Generations, serial_of
from kumulus_lab.testing.cloud import Cloud, Object, condition, ready
from kumulus_lab.testing.shares import shared_disk
from kumulus_runtime.resources import EVENT

MEBIBYTE = 1 << 20
SECONDS = 90


async def attach(cloud: Cloud, project: str, server: str, *volumes: str) -> None:
    """Have a running server have these volumes, and wait until its host says so."""
    entries = [{"name": name, "volume": {"name": name}} for name in volumes]
    await cloud.client.patch_merge(Server, server, {"spec": {"volumes": entries}}, project)


async def volume_is(cloud: Cloud, project: str, reason: str) -> Object:
    """Wait for the reason of the volume's Ready condition, and give it."""
    return await cloud.until(
        Volume, "data", lambda v: condition(v, "Ready")["reason"] == reason, namespace=project, seconds=60
    )


async def events(cloud: Cloud, project: str, name: str) -> list[str]:
    """Give the reasons of a server's Events."""
    found, _ = await cloud.client.list(EVENT, namespace=project)
    return [event["reason"] for event in found if (event.get("regarding") or {}).get("name") == name]


async def test_a_full_disk_stops_a_guest_that_goes_on_when_there_is_room(cloud: Cloud, lab: LabSettings) -> None:
    """The guest hears of no error: its Server says that the disk is full, and every block is as written in the end."""
    blocks = 48 * MEBIBYTE // BLOCK
    async with shared_disk(cloud, lab, "fills", 96 * MEBIBYTE) as (share, disk), cloud.project() as project:
        await cloud.make_network(project)
        spec = {"size": "64Mi", "volumeClass": {"name": share.volume_class}}
        await cloud.make(Volume, "data", spec, project)
        guest = await BlockGuest.made(cloud, lab, project, "writer")
        await attach(cloud, project, "writer", "data")
        serial = serial_of(await volume_is(cloud, project, "InUse"))
        await guest.write(serial, 1, 0, 100)
        disk.fill(leave=16 * MEBIBYTE)
        turn = await guest.begin(serial, "write", 2, 50, blocks)
        told = await cloud.until(
            Server, "writer", lambda s: condition(s, "Ready")["reason"] == "HostDiskFull",
            namespace=project, seconds=SECONDS,
        )  # fmt: skip
        assert share.folder in condition(told, "Ready")["message"]
        assert told["status"]["powerState"] == "Paused"
        assert f"ran-{turn} " not in console.said(await guest.log())

        disk.empty()
        await cloud.until(Server, "writer", ready, namespace=project, seconds=SECONDS)
        assert await guest.answer(turn) == "written"
        await guest.holds(serial, Generations.blank(64 * MEBIBYTE).written(1, 0, 100).written(2, 50, blocks))
        assert {"HostDiskFull", "Resumed"} <= set(await events(cloud, project, "writer"))


def taken(lab: LabSettings, volume: Object) -> int:
    """Give how many bytes of its host's disk a volume takes."""
    place = volume["spec"]["assignment"]
    folder = console.host_path(lab, place["host"], f"/var/lib/kumulus/volumes/{place['volumeID']}")
    return sum(path.stat().st_blocks * 512 for path in Path(folder).iterdir())


@pytest.mark.tenant
async def test_what_a_guest_discards_its_host_has_again(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """A guest gives most of what it wrote back: the volume takes less and says so, and what was kept is as written."""
    blocks = 96 * MEBIBYTE // BLOCK
    await cloud.make_network(project)
    await cloud.make(Volume, "data", {"size": "128Mi"}, project)
    guest = await BlockGuest.made(cloud, lab, project, "writer")
    await attach(cloud, project, "writer", "data")
    serial = serial_of(await volume_is(cloud, project, "InUse"))
    await guest.write(serial, 1, 0, blocks)
    await attach(cloud, project, "writer")
    full = await cloud.until(
        Volume, "data", lambda v: v["status"].get("usedBytes", 0) >= 96 * MEBIBYTE, namespace=project
    )
    assert taken(lab, full) >= 96 * MEBIBYTE

    await attach(cloud, project, "writer", "data")
    await volume_is(cloud, project, "InUse")
    await guest.discard(serial, 1024, blocks - 2048)
    assert taken(lab, full) < 16 * MEBIBYTE
    kept = Generations.blank(128 * MEBIBYTE).written(1, 0, 1024).written(1, blocks - 1024, 1024)
    await guest.holds(serial, kept)
    await attach(cloud, project, "writer")
    await cloud.until(Volume, "data", lambda v: v["status"]["usedBytes"] < 16 * MEBIBYTE, namespace=project)


@pytest.mark.tenant
async def test_a_file_system_that_is_trimmed_takes_less(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """What was a file is free on the host after fstrim in the guest."""
    await cloud.make_network(project)
    await cloud.make(Volume, "data", {"size": "128Mi"}, project)
    guest = await BlockGuest.made(cloud, lab, project, "writer")
    await attach(cloud, project, "writer", "data")
    held = await volume_is(cloud, project, "InUse")
    device = await guest.run(f"blocks {serial_of(held)} device")
    make = f"mke2fs {device} >/dev/null && mount -t ext4 {device} /seed"
    fill = "dd if=/dev/urandom of=/seed/file bs=1M count=64 conv=fsync 2>/dev/null && echo filled"
    assert await guest.run(f"{make} && {fill}") == "filled"
    assert taken(lab, held) >= 64 * MEBIBYTE
    assert await guest.run("rm /seed/file && sync && fstrim /seed && echo trimmed") == "trimmed"
    assert taken(lab, held) < 16 * MEBIBYTE
