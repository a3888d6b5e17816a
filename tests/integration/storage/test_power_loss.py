"""Power is lost before each step by which volumes, images and root disks change files, on a real file system.

What was flushed is all that is left, or all that was written is: either way what had been acknowledged is there, the
act repeated comes to its end, and nothing is left that belongs to nobody.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kumulus_agent.storage.cached_image import CachedImage
from kumulus_agent.storage.disk_copy import copy_disk
from kumulus_agent.storage.download import Downloaded, Validators, hash_file
from kumulus_agent.storage.image_cache import ImageCache
from kumulus_agent.storage.root_disk import ensure_root_disk, grow_root_disk, replace_root_disk, virtual_size
from kumulus_agent.volumes.drivers.layers import read_shelf
from kumulus_agent.volumes.drivers.local import local_driver
from kumulus_agent.volumes.drivers.protocol import ImageOrigin, SnapshotOrigin, VolumeDriver
from kumulus_agent.volumes.drivers.testing import (
    BLOCK,
    left_over,
    read_blocks,
    read_snapshots,
    read_volume,
    write,
    write_block,
)
from kumulus_api.image import held_address
from kumulus_lab.testing.origin import serve
from kumulus_lab.testing.power_cut import Host

pytestmark = pytest.mark.skipif(shutil.which("qemu-io") is None, reason="needs qemu-img and qemu-io")

MOST_STEPS = 60
LARGE = 1 << 30


@dataclass(frozen=True)
class Case:
    """An act and what is looked at.

    Attributes:
        before: makes what is there, in a folder.
        act: what the power is lost in.
        look: gives what a user can read, by name.
        left: gives files that belong to nobody.
    """

    before: Callable[[Path], Awaitable[Any]]
    act: Callable[[Path], Awaitable[Any]]
    look: Callable[[Path], Mapping[str, Any]]
    left: Callable[[Path], list[str]]


# Volumes.


def driver(path: Path) -> VolumeDriver:
    """Give a driver that remembers nothing."""
    return local_driver(path / "volumes")


def volumes(path: Path) -> dict[str, Any]:
    """Read all volumes and their snapshots."""
    root, found = path / "volumes", dict[str, Any]()
    for known, record in read_shelf(root).records.items() if root.exists() else ():
        if record.active:
            found[known] = (read_volume(root, known, path.parent), read_snapshots(root, known, path.parent))
    return found


def strays(path: Path) -> list[str]:
    """Give what belongs to no volume."""
    return left_over(path / "volumes") if (path / "volumes").exists() else []


async def nothing(_path: Path) -> None:
    """Have an empty disk."""


async def one(path: Path) -> None:
    """Have a volume with a snapshot."""
    await driver(path).make("v", 2 * BLOCK)
    await write(driver(path), "v", 0, 1)
    await driver(path).snapshot("v", "s")
    await write(driver(path), "v", 1, 2)


async def raw(path: Path) -> None:
    """Have a volume of before there were layers."""
    (path / "volumes").mkdir()
    await asyncio.to_thread((path / "volumes" / "old.raw").write_bytes, b"\x08" * BLOCK)


async def with_image(path: Path) -> None:
    """Have an image."""
    await asyncio.to_thread((path / "image").write_bytes, b"\x03" * BLOCK)


async def begun(path: Path) -> None:
    """Have a volume of which a snapshot was begun."""
    await one(path)
    await driver(path).begin_snapshot("v", "t")


async def to_merge(path: Path) -> None:
    """Have a volume that lies on a layer that nothing else needs."""
    await one(path)
    await driver(path).remove_snapshot("v", "s")
    await write(driver(path), "v", 0, 6)


async def last_copy(path: Path) -> None:
    """Have the copy of a volume that is gone."""
    await one(path)
    await driver(path).make("copy", 2 * BLOCK, SnapshotOrigin("v", "s"))
    await driver(path).remove_snapshot("v", "s")
    await driver(path).remove("v")


async def arrived(path: Path) -> None:
    """Have a volume's data that came with a migration."""
    await driver(path).make("w", 2 * BLOCK)
    await write(driver(path), "w", 0, 9)
    found = await driver(path).look("w")
    assert found is not None
    await asyncio.to_thread(shutil.copyfile, found.path, path / "volumes" / "v.came")


async def adopt(path: Path) -> None:
    """Take it; who repeats it finds the volume there."""
    if await driver(path).look("v") is None:
        await asyncio.to_thread(shutil.copyfile, path / "volumes" / "v.came", path / "volumes" / "v.qcow2")
        await driver(path).adopt("v", path / "volumes" / "v.qcow2")


def volume_case(before: Callable[[Path], Awaitable[Any]], act: Callable[[VolumeDriver, Path], Awaitable[Any]]) -> Case:
    """Make a case of an act of the driver."""
    return Case(before, lambda path: act(driver(path), path), volumes, strays)


VOLUMES = {
    "make a volume": volume_case(nothing, lambda d, _: d.make("v", 2 * BLOCK)),
    "make a volume of an image": volume_case(
        with_image, lambda d, path: d.make("v", 2 * BLOCK, ImageOrigin(path / "image", "raw"))
    ),
    "copy a snapshot": volume_case(one, lambda d, _: d.make("copy", 3 * BLOCK, SnapshotOrigin("v", "s"))),
    "grow": volume_case(one, lambda d, _: d.grow("v", 4 * BLOCK)),
    "grow a raw volume": volume_case(raw, lambda d, _: d.grow("old", 4 * BLOCK)),
    "take a snapshot": volume_case(one, lambda d, _: d.snapshot("v", "t")),
    "take a snapshot of a raw volume": volume_case(raw, lambda d, _: d.snapshot("old", "t")),
    "begin a snapshot": volume_case(one, lambda d, _: d.begin_snapshot("v", "t")),
    "end a snapshot": volume_case(begun, lambda d, _: d.end_snapshot("v")),
    "take a snapshot back": volume_case(begun, lambda d, _: d.cancel_snapshot("v")),
    "revert": volume_case(one, lambda d, _: d.revert("v", "s", "r")),
    "remove a snapshot": volume_case(one, lambda d, _: d.remove_snapshot("v", "s")),
    "merge": volume_case(to_merge, lambda d, _: d.merge("v")),
    "remove a volume": volume_case(one, lambda d, _: d.remove("v")),
    "remove the last copy": volume_case(last_copy, lambda d, _: d.remove("copy")),
    "take what has migrated": Case(arrived, adopt, volumes, lambda path: [x for x in strays(path) if x != "v.came"]),
}


# Images.


async def with_cache(path: Path, act: Callable[[ImageCache], Awaitable[Any]]) -> Any:
    """Do something with the cache of images, as an agent that has just started."""
    cache = ImageCache(path / "images", LARGE, from_host=copied)
    try:
        return await act(cache)
    finally:
        await cache.close()


async def copied(address: str, _digest: str, part: Path, _limit: int) -> Downloaded:
    """Fetch an image as from another host: what is there stays, the rest is appended."""
    content = GIVEN["raw"]
    with part.open("ab") as file:
        file.write(content[file.tell() :])
    found = hash_file(part)
    return Downloaded(Validators(address), found.size, found.sha256.hexdigest(), found.sha512.hexdigest())


GIVEN: dict[str, bytes] = {}
"""Images by name, as `content` gives them."""


def sum_of(name: str) -> str:
    """Give the checksum of an image."""
    return f"sha256:{hashlib.sha256(GIVEN[name]).hexdigest()}"


async def ensure(path: Path, name: str, declared: Any) -> CachedImage:
    """Import an image by HTTP."""
    served = path.parent / "served"
    await asyncio.to_thread(served.mkdir, exist_ok=True)
    await asyncio.to_thread((served / name).write_bytes, GIVEN[name])
    async with serve("127.0.0.1", served) as origin:
        found: CachedImage = await with_cache(
            path, lambda cache: cache.ensure(origin.file(name), sum_of(name), declared, LARGE)
        )
        return found


async def replicate(path: Path) -> None:
    """Fetch an image from another host."""
    address = held_address("team", "image")
    await with_cache(path, lambda cache: cache.ensure(address, sum_of("raw"), "raw", LARGE))


async def cached(path: Path) -> None:
    """Have an image in the cache."""
    await ensure(path, "raw", "raw")


async def with_root(path: Path) -> None:
    """Have a server's disk on an image, with something written to it."""
    await asyncio.to_thread((path / "images").mkdir)
    await prepare_root(path)
    await asyncio.to_thread(write_block, path / "instances" / "i" / "root.qcow2", "qcow2", 1, 5)


async def prepare_root(path: Path) -> None:
    """Make a server's disk."""
    folder = path / "instances" / "i"
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    await ensure_root_disk(folder / "root.qcow2", await base(path), 3 * BLOCK)


async def base(path: Path) -> CachedImage:
    """Have the image that a server's disk lies on, which nobody cuts."""
    file = path.parent / "base.raw"
    if not file.exists():
        await asyncio.to_thread(file.write_bytes, b"\x04" * BLOCK)
    return CachedImage(file, "sha256:b", "raw", BLOCK, BLOCK)


async def rebuild(path: Path) -> None:
    """Make the disk anew."""
    await replace_root_disk(path / "instances" / "i" / "root.qcow2", await base(path), 4 * BLOCK)


async def create_image(path: Path) -> None:
    """Make an image of a server's disk that is off: as `DiskCopies` does, which looks whether there is one first."""
    root = path / "instances" / "i" / "root.qcow2"
    part = root.with_name("snapshot-a.part")

    async def make(cache: ImageCache) -> None:
        await asyncio.to_thread(part.unlink, missing_ok=True)  # its sweep
        if await cache.owned("team/made") is None:
            await copy_disk(root, part)
            await cache.adopt(part, held_address("team", "made"), "team/made", LARGE)

    await with_cache(path, make)


def images(path: Path) -> dict[str, Any]:
    """Read all images that are known, and what is written of their owners; an image that is not whole is there as such.

    And the disk of a server.
    """
    found: dict[str, Any] = {}
    if (path / "images").exists():

        async def look(cache: ImageCache) -> None:
            for image in await cache.images():
                digest = f"sha256:{hashlib.sha256(image.path.read_bytes()).hexdigest()}"
                found["image " + image.came.format] = "whole" if digest == image.digest else "broken"

        asyncio.run(with_cache(path, look))
    root = path / "instances" / "i" / "root.qcow2"
    if root.exists():
        found["root"] = (virtual_size(root), read_blocks(root, "qcow2", path.parent))
    return found


def unknown(path: Path) -> list[str]:
    """Give files of cache and instance that nothing knows of."""
    found = []
    for file in sorted(item for item in path.rglob("*") if item.is_file()):
        known = file.suffix == ".json" and file.with_suffix(".img").exists()
        known = known or (file.suffix == ".img" and file.with_suffix(".json").exists())
        if not known and file.name != "root.qcow2":
            found.append(str(file.relative_to(path)))
    return found


IMAGES = {
    "import an image": Case(nothing, lambda path: ensure(path, "raw", "raw"), images, unknown),
    "import and convert an image": Case(nothing, lambda path: ensure(path, "dynamic.vdi", "vdi"), images, unknown),
    "replicate an image": Case(nothing, replicate, images, unknown),
    "remove an image": Case(
        cached, lambda path: with_cache(path, lambda cache: cache.remove(sum_of("raw"))), images, unknown
    ),
    "make an image of a server": Case(with_root, create_image, images, unknown),
    "prepare a root disk": Case(nothing, prepare_root, images, unknown),
    "grow a root disk": Case(
        with_root, lambda path: grow_root_disk(path / "instances/i/root.qcow2", 5 * BLOCK), images, unknown
    ),
    "rebuild a root disk": Case(with_root, rebuild, images, unknown),
}
CASES = VOLUMES | IMAGES
SLOW = {"import and convert an image", "make an image of a server"}
"""Each of their steps is tried with three Python processes and sandboxes."""


@pytest.mark.parametrize("name", [pytest.param(it, marks=[pytest.mark.long] * (it in SLOW)) for it in CASES])
def test_power_lost_before_each_step_loses_nothing(name: str, content: dict[str, bytes], tmp_path: Path) -> None:
    """All reads as before the act or after it, whatever of it has reached the disk; repeated, it is done and clean."""
    GIVEN.update(content)
    case, host = CASES[name], Host(tmp_path)
    before = host.prepare(case.before, case.look)
    after = host.complete(case.act, case.look)
    for step in range(1, MOST_STEPS):
        with host.cut(case.act, step) as cut:
            if cut is None:
                assert step > 1
                return
            for path in (cut.flushed, cut.written):
                there = case.look(path)
                known = before.keys() | after.keys() | there.keys()
                wrong = [item for item in known if there.get(item) not in (before.get(item), after.get(item))]
                assert wrong == [], f"{path.name} at {cut.what}: {there}"
                asyncio.run(_act(case, path))
                assert case.look(path) == after, f"{path.name} at {cut.what}"
                assert case.left(path) == [], f"{path.name} at {cut.what}"
    raise AssertionError("the act has no end")


async def _act(case: Case, path: Path) -> None:
    await case.act(path)
