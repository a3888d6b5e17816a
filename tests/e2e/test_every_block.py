"""What a guest writes to a volume is there through all that is done with the volume, every block in its generation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kumulus_api import Host, Server, Volume, VolumeBackup, VolumeClass, VolumeSnapshot
from kumulus_lab.hosts import Hosts
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import killing
from kumulus_lab.testing.block_guest import BLANK, BLOCK, BlockGuest, Generations, serial_of
from kumulus_lab.testing.bucket_of_hosts import bucket_of_hosts
from kumulus_lab.testing.cloud import SYSTEM_NAMESPACE, Cloud, Object, condition, ready
from kumulus_lab.testing.migrating import ask, succeeded
from kumulus_lab.testing.shares import shared_folder
from kumulus_lab.testing.travelling import on_host, settled_on
from kumulus_runtime.resources import POD

MEBIBYTE = 1 << 20
SIZE = 32 * MEBIBYTE
BLOCKS = SIZE // BLOCK
LARGER = 48 * MEBIBYTE
SECONDS = 240
DATA = [{"name": "data", "volume": {"name": "data"}}]


async def change(cloud: Cloud, project: str, kind: type[Server] | type[Volume], name: str, **spec: object) -> None:
    """Change a spec."""
    await cloud.client.patch_merge(kind, name, {"spec": spec}, project)


async def attach(cloud: Cloud, project: str, server: str, *volumes: str) -> None:
    """Have a running server have these volumes."""
    entries = [{"name": name, "volume": {"name": name}} for name in volumes]
    await change(cloud, project, Server, server, volumes=entries)


async def held(cloud: Cloud, project: str, name: str = "data") -> str:
    """Wait until a server has a volume; give its serial."""
    return serial_of(
        await cloud.until(
            Volume, name, lambda v: condition(v, "Ready")["reason"] == "InUse", namespace=project, seconds=60
        )
    )


async def detach(cloud: Cloud, project: str, server: str, name: str = "data") -> Object:
    """Take all volumes from a running server; give the volume once it is free."""
    await attach(cloud, project, server)
    return await cloud.until(
        Volume, name, lambda v: condition(v, "Ready")["reason"] == "Available", namespace=project, seconds=60
    )


async def snapshot(cloud: Cloud, project: str, name: str) -> None:
    """Have a snapshot of the volume."""
    await cloud.make(VolumeSnapshot, name, {"volume": {"name": "data"}}, project)
    await cloud.until(VolumeSnapshot, name, ready, namespace=project)


async def copy(cloud: Cloud, project: str, name: str, size: int, **source: Object) -> None:
    """Have a volume that is a copy."""
    await cloud.make(Volume, name, {"size": f"{size // MEBIBYTE}Mi", "source": source}, project)
    await cloud.until(Volume, name, ready, namespace=project)


async def revert(cloud: Cloud, project: str, snapshot_name: str) -> None:
    """Put the volume back."""
    asked = {"snapshot": {"name": snapshot_name}, "request": f"to-{snapshot_name}"}
    await change(cloud, project, Volume, "data", revert=asked)
    await cloud.until(
        Volume, "data", lambda v: v["status"].get("reverted") == asked["request"] and ready(v), namespace=project
    )


async def grow(cloud: Cloud, project: str, guest: BlockGuest, serial: str, size: int) -> None:
    """Have the volume grow while its guest runs, and wait until that sees it."""
    await change(cloud, project, Volume, "data", size=f"{size // MEBIBYTE}Mi")
    await cloud.until(Volume, "data", lambda v: condition(v, "Resized")["status"] == "True", namespace=project)
    await guest.sees(serial, size)


async def migrate(cloud: Cloud, project: str, name: str, host: str) -> None:
    """Migrate a server live."""
    await succeeded(cloud, project, await ask(cloud, project, name, host=host))
    await cloud.until(Server, name, settled_on(host), namespace=project)


async def without_operator(cloud: Cloud, lab: LabSettings) -> str:
    """Give a host that can go off while the operator decides on."""
    pods, _ = await cloud.client.list(POD, SYSTEM_NAMESPACE, label_selector="app.kubernetes.io/component=operator")
    decides = {pod["spec"].get("nodeName") for pod in pods}
    return next(host.name for host in lab.host_specs if host.name not in decides)


def way_to(lab: LabSettings, last: str, now: str) -> list[str]:
    """Give the hosts of a way from one to another: by a third one where there is one, and at least one step."""
    between = [host.name for host in lab.host_specs if host.name not in (last, now)][:1]
    return [*between, last]


async def written(cloud: Cloud, lab: LabSettings, project: str, **spec: Object) -> tuple[BlockGuest, str, Generations]:
    """Have a running guest that was given a volume and has written all of it; give the volume's serial, too."""
    await cloud.make_network(project)
    await cloud.make(Volume, "data", {"size": f"{SIZE // MEBIBYTE}Mi"} | spec, project)
    guest = await BlockGuest.made(cloud, lab, project, "writer")
    await attach(cloud, project, "writer", "data")
    serial = await held(cloud, project)
    await guest.write(serial, 1, 0, BLOCKS)
    return guest, serial, Generations.blank(SIZE).written(1, 0, BLOCKS)


@pytest.mark.tenant
async def test_through_attachment_and_growth(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """Each block is as it was written when the volume comes back to a guest and when it grows; what is new is blank."""
    guest, serial, now = await written(cloud, lab, project)
    await guest.holds(serial, now)
    await detach(cloud, project, "writer")
    await attach(cloud, project, "writer", "data")
    await guest.holds(serial, now)
    await grow(cloud, project, guest, serial, LARGER)
    now = now.grown(LARGER)
    await guest.holds(serial, now)
    await guest.write(serial, 2, BLOCKS - 1001, 2003)
    await guest.holds(serial, now.written(2, BLOCKS - 1001, 2003))


@pytest.mark.tenant
async def test_through_snapshots_copies_and_a_revert(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """Copies are as the volume was when they were made, whatever is written to any, and a revert gives what was then.

    The volume grows between a snapshot and a copy of it, which is blank where the snapshot has nothing.
    """
    guest, serial, early = await written(cloud, lab, project)
    await snapshot(cloud, project, "early")
    await grow(cloud, project, guest, serial, LARGER)
    await guest.write(serial, 2, 100, BLOCKS)
    late = early.grown(LARGER).written(2, 100, BLOCKS)
    await copy(cloud, project, "of-snapshot", LARGER, snapshot={"name": "early"})
    await copy(cloud, project, "of-volume", LARGER, volume={"name": "data"})
    await guest.write(serial, 3, 0, 7)
    both = [{"name": name, "volume": {"name": name}} for name in ("of-snapshot", "of-volume")]
    reader = await BlockGuest.made(cloud, lab, project, "reader", volumes=both)
    copies = [await held(cloud, project, name) for name in ("of-snapshot", "of-volume")]
    await reader.write(copies[0], 4, 50, 60)
    await reader.holds(copies[0], early.grown(LARGER).written(4, 50, 60))
    await reader.holds(copies[1], late)
    await guest.holds(serial, late.written(3, 0, 7))

    await detach(cloud, project, "writer")
    await revert(cloud, project, "early")
    await attach(cloud, project, "writer", "data")
    await guest.holds(serial, early.grown(LARGER))


async def lose_power(
    cloud: Cloud, lab: LabSettings, host: str, *, first: Callable[[str], object] | None = None
) -> None:
    """Cut a host's power and give it back, with what its boot does `first`; wait until all of ours there is ready."""
    hosts, restarts = Hosts(lab), await cloud.restarts()
    await asyncio.to_thread(hosts.power_off, host)
    await asyncio.to_thread(hosts.start, host)
    if first is not None:
        await asyncio.to_thread(first, host)
    await killing.host_back(cloud, host, restarts)
    await cloud.until(Host, host, ready, seconds=SECONDS)


@pytest.mark.long
@pytest.mark.disturbs
@pytest.mark.timeout(900)
async def test_through_migration_and_a_hosts_reboot(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """A volume of a host goes with its guest to another and back, and what was flushed outlives both hosts' power."""
    guest, serial, now = await written(cloud, lab, project)
    last = await without_operator(cloud, lab)
    for turn, host in enumerate(way_to(lab, last, on_host(await guest.server())), start=1):
        await migrate(cloud, project, "writer", host)
        await guest.holds(serial, now)
        await guest.write(serial, turn + 1, 3000 * turn - 7, 2000)
        now = now.written(turn + 1, 3000 * turn - 7, 2000)
    volume = await cloud.until(Volume, "data", ready, namespace=project)
    assert volume["spec"]["assignment"]["host"] == last
    await lose_power(cloud, lab, last)
    await guest.booted(2)
    await guest.holds(serial, now)
    await guest.write(serial, 4, 0, BLOCKS)
    await guest.holds(serial, now.written(4, 0, BLOCKS))


@pytest.mark.long
@pytest.mark.disturbs
@pytest.mark.timeout(900)
async def test_on_a_share_through_snapshot_migration_reboot_and_revert(cloud: Cloud, lab: LabSettings) -> None:
    """On a share a volume of several layers serves its guest wherever that is, and after a host has lost its power."""
    async with shared_folder(cloud, lab, "every-block") as share, cloud.project() as project:
        guest, serial, early = await written(cloud, lab, project, volumeClass={"name": share.volume_class})
        await snapshot(cloud, project, "early")
        await guest.write(serial, 2, 1000, 3001)
        late = early.written(2, 1000, 3001)
        last = await without_operator(cloud, lab)
        for host in way_to(lab, last, on_host(await guest.server())):
            await migrate(cloud, project, "writer", host)
            await guest.holds(serial, late)
        await guest.write(serial, 3, 8000, 100)
        late = late.written(3, 8000, 100)

        await lose_power(cloud, lab, last, first=share.mount)
        await guest.booted(2)
        await guest.holds(serial, late)
        await copy(cloud, project, "of-snapshot", SIZE, snapshot={"name": "early"})
        await detach(cloud, project, "writer")
        await revert(cloud, project, "early")
        elsewhere = next(spec.name for spec in lab.host_specs if spec.name != last)
        reader = await BlockGuest.made(cloud, lab, project, "reader", placement={"host": elsewhere})
        await attach(cloud, project, "reader", "data", "of-snapshot")
        for name in ("data", "of-snapshot"):
            await reader.holds(await held(cloud, project, name), early)


@pytest.mark.disturbs
async def test_through_backups_and_their_restores(cloud: Cloud, lab: LabSettings, tmp_path: Path) -> None:
    """Volumes of a full and of an incremental backup have every block of then, wherever they were restored."""
    async with bucket_of_hosts(lab, tmp_path / "s3"), cloud.project() as project:
        guest, serial, full = await written(cloud, lab, project)
        then = {"full": full}
        await back_up(cloud, project, "full")
        await guest.discard(serial, 1008, 480)
        await guest.write(serial, 2, 5000, 1111)
        await grow(cloud, project, guest, serial, LARGER)
        await guest.write(serial, 2, LARGER // BLOCK - 9, 9)
        changed = then["full"].written(BLANK, 1008, 480).written(2, 5000, 1111).grown(LARGER)
        then["changed"] = changed.written(2, LARGER // BLOCK - 9, 9)
        await back_up(cloud, project, "changed", incremental=True)
        await guest.write(serial, 3, 0, BLOCKS)
        await guest.holds(serial, then["changed"].written(3, 0, BLOCKS))

        await detach(cloud, project, "writer")
        await cloud.delete(Volume, "data", project)
        for name, size in (("full", SIZE), ("changed", LARGER)):
            source = {"size": f"{size // MEBIBYTE}Mi", "source": {"volumeBackup": {"name": name}}}
            await cloud.make(Volume, f"of-{name}", source, project)
            await cloud.until(Volume, f"of-{name}", ready, namespace=project, seconds=120)
            reader = await BlockGuest.made(
                cloud, lab, project, f"reads-{name}", volumes=[{"name": "data", "volume": {"name": f"of-{name}"}}]
            )
            await reader.holds(await held(cloud, project, f"of-{name}"), then[name])


async def back_up(cloud: Cloud, project: str, name: str, **spec: object) -> None:
    """Have a backup of the volume."""
    await cloud.make(VolumeBackup, name, {"source": {"volume": {"name": "data"}}} | spec, project)
    await cloud.until(VolumeBackup, name, ready, namespace=project, seconds=120)


@pytest.mark.long
@pytest.mark.disturbs
@pytest.mark.timeout(900)
async def test_from_another_host_that_loses_its_power(cloud: Cloud, project: str, lab: LabSettings) -> None:
    """A guest writes to a volume of another host as that loses its power: it waits, goes on, and all is as written."""
    await cloud.make_network(project)
    home = await without_operator(cloud, lab)
    away = next(spec.name for spec in lab.host_specs if spec.name != home)
    async with lent(cloud, project) as name:
        spec = {"size": f"{SIZE // MEBIBYTE}Mi", "volumeClass": {"name": name}}
        await cloud.make(Volume, "data", spec, project)
        near = await BlockGuest.made(cloud, lab, project, "near", placement={"host": home}, volumes=DATA)
        serial = await held(cloud, project)
        await near.write(serial, 1, 0, BLOCKS)
        await cloud.delete(Server, "near", project)
        far = await BlockGuest.made(cloud, lab, project, "far", placement={"host": away}, volumes=DATA)
        now = Generations.blank(SIZE).written(1, 0, BLOCKS)
        await far.holds(serial, now)
        turn = await far.begin(serial, "write", 2, 100, BLOCKS - 200)
        await lose_power(cloud, lab, home)
        assert await far.answer(turn, SECONDS) == "written"
        await far.holds(serial, now.written(2, 100, BLOCKS - 200))


@asynccontextmanager
async def lent(cloud: Cloud, project: str) -> AsyncIterator[str]:
    """Have a class whose volumes serve servers on other hosts."""
    name = f"lent-{project}"
    await cloud.make(VolumeClass, name, {"driver": "Local", "export": True})
    try:
        yield name
    finally:
        await cloud.client.delete(VolumeClass, name)
