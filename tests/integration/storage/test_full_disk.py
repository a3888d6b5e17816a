"""A real file system that is full, or nearly: what was there stays, and nothing of ours fills it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from kumulus_agent.hosts.storage import pressing, read_folders
from kumulus_agent.storage import ballast
from kumulus_agent.storage.atomic import write_file
from kumulus_agent.storage.errors import CacheFull, DiskFull
from kumulus_agent.storage.image_cache import ImageCache
from kumulus_agent.storage.room import room_at
from kumulus_agent.volumes.drivers.local import local_driver
from kumulus_agent.volumes.drivers.protocol import ImageOrigin
from kumulus_agent.volumes.drivers.testing import BLOCK, left_over, read_volume, write
from kumulus_api.storage_usage import StorageName
from kumulus_lab.testing.origin import serve
from kumulus_lab.testing.small_disk import SmallDisk, small_disk

pytestmark = pytest.mark.skipif(shutil.which("qemu-io") is None, reason="needs qemu-img and qemu-io")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A file system of 64 MiB with ballast."""
    with small_disk(tmp_path / "small", 64 << 20) as made:
        assert ballast.load(made.path)
        yield made


def fill_up(path: Path) -> None:
    """Write until nothing more is taken, as guests do."""
    with (path / "guest").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


async def test_records_survive_a_full_disk(disk: SmallDisk, tmp_path: Path) -> None:
    """On a disk that is full to the last block a volume's record is whole and can be changed, and volumes go."""
    driver = local_driver(disk.path / "volumes")
    for name in ("v", "w"):
        await driver.make(name, 2 * BLOCK)
        await write(driver, name, 0, 7)
    await driver.snapshot("v", "s")
    fill_up(disk.path)
    assert room_at(disk.path).free < ballast.PIECE
    with pytest.raises(DiskFull, match="beside a reserve"):
        await driver.snapshot("v", "t")
    await driver.remove_snapshot("v", "s")
    await driver.remove("w")
    assert read_volume(disk.path / "volumes", "v", tmp_path) == [7, 0]
    assert left_over(disk.path / "volumes") in ([], ["v/first.qcow2"])
    (disk.path / "guest").unlink()
    await driver.merge("v")
    assert read_volume(disk.path / "volumes", "v", tmp_path) == [7, 0]
    assert left_over(disk.path / "volumes") == []
    assert ballast.load(disk.path)


def test_without_ballast_a_record_stays_as_it_was(disk: SmallDisk) -> None:
    """When not even the ballast is left, a write fails, and what was written before is read."""
    record = disk.path / "record"
    write_file(record, b"before")
    (disk.path / ballast.NAME).unlink()
    fill_up(disk.path)
    with pytest.raises(OSError, match="No space left"):
        write_file(record, bytes(1 << 16))
    assert record.read_bytes() == b"before"
    assert sorted(item.name for item in disk.path.iterdir()) == ["guest", "lost+found", "record"]
    assert not ballast.load(disk.path)


async def test_an_import_leaves_the_reserve(disk: SmallDisk, tmp_path: Path) -> None:
    """An image that would take the reserve is refused before a byte of it has come, and comes when there is room."""
    served = tmp_path / "served"
    served.mkdir()
    content = bytes(range(256)) * (16 << 12)
    (served / "image").write_bytes(content)
    disk.fill(leave=18 << 20)
    cache = ImageCache(disk.path / "images", 1 << 30)
    checksum = f"sha256:{hashlib.sha256(content).hexdigest()}"
    async with serve("127.0.0.1", served) as origin:
        with pytest.raises(CacheFull):
            await cache.ensure(origin.file("image"), checksum, "raw", 1 << 30)
        assert not list((disk.path / "images").rglob("*.part"))
        disk.empty()
        assert (await cache.ensure(origin.file("image"), checksum, "raw", 1 << 30)).size == len(content)
    await cache.close()


async def test_a_volume_of_an_image_leaves_the_reserve(disk: SmallDisk, tmp_path: Path) -> None:
    """A copy that would take the reserve is refused with what is missing, and leaves nothing."""
    image = tmp_path / "image"
    image.write_bytes(b"x" * (16 << 20))
    disk.fill(leave=18 << 20)
    driver = local_driver(disk.path / "volumes")
    with pytest.raises(DiskFull, match="a copy of an image needs"):
        await driver.make("v", 16 << 20, ImageOrigin(image, "raw"))
    assert await driver.look("v") is None


async def test_what_a_host_tells_is_what_the_disk_has(disk: SmallDisk) -> None:
    """Capacity and free are the file system's, allocated what files take, provisioned what guests may write."""
    driver = local_driver(disk.path / "volumes")
    await driver.make("v", 1 << 30)
    await write(driver, "v", 0, 7)
    found = {folder.name: folder for folder in await asyncio.to_thread(read_folders, disk.path)}
    volumes = found[StorageName.VOLUMES]
    assert (volumes.provisioned, found[StorageName.ROOT_DISKS].provisioned) == (1 << 30, 0)
    assert BLOCK < volumes.allocated < 1 << 20
    assert volumes.room == room_at(disk.path)
    assert pressing(found.values(), before=False) == ()
    disk.fill(leave=1 << 20)
    pressed = pressing(await asyncio.to_thread(read_folders, disk.path), before=False)
    assert [room.device for room in pressed] == [volumes.room.device]
