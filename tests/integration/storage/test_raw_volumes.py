"""Volumes that are one raw file, on real files: what several hosts may write has nothing below it and nothing above."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kumulus_agent.volumes.controller import VolumeController
from kumulus_agent.volumes.drivers.lock import locked
from kumulus_agent.volumes.drivers.protocol import (
    DataGone,
    ImageOrigin,
    SizeTooSmall,
    SnapshotOrigin,
    VolumeDriver,
    WrittenBySeveral,
)
from kumulus_agent.volumes.drivers.shared import MARKER, shared_driver
from kumulus_agent.volumes.drivers.testing import BLOCK, DyingFiles, PowerCut, left_over, read_volume, write_block
from kumulus_agent.volumes.multi_attach import BeingMade, NotShareable, have_shareable
from kumulus_agent.volumes.place import Place
from kumulus_agent.volumes.shelves import Shelves
from kumulus_agent.volumes.snapshots import Taker
from kumulus_api.testing import VOLUME_ID
from kumulus_runtime.store import Store

pytestmark = pytest.mark.skipif(shutil.which("qemu-io") is None, reason="needs qemu-img and qemu-io")


@pytest.fixture
def driver(tmp_path: Path) -> VolumeDriver:
    (tmp_path / MARKER).write_text("several\n")
    return shared_driver(tmp_path, "several")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image of three blocks, the second of which has something."""
    path = tmp_path / "image.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, str(3 * BLOCK)], check=True)
    write_block(path, "qcow2", 1, 6)
    return path


async def test_it_is_sparse_grows_and_never_shrinks(driver: VolumeDriver, tmp_path: Path) -> None:
    """It takes no room at first, keeps its data as it grows, and leaves nothing when it is removed."""
    found = await driver.make("v", 64 * BLOCK, raw=True)
    assert (found.format, found.size, found.layers, found.used) == ("raw", 64 * BLOCK, 1, 0)
    write_block(found.path, "raw", 1, 7)
    await driver.grow("v", 65 * BLOCK)
    await driver.grow("v", BLOCK)
    again = await driver.make("v", 2 * BLOCK, known=True, raw=True)
    assert (again.path, again.size) == (found.path, 65 * BLOCK)
    assert again.used >= BLOCK
    assert read_volume(tmp_path / "volumes", "v", tmp_path) == [0, 7, *[0] * 63]
    assert await driver.merge("v") == 0
    await driver.remove("v")
    assert await driver.look("v") is None
    assert left_over(tmp_path / "volumes") == []
    with pytest.raises(DataGone):
        await driver.make("v", BLOCK, known=True, raw=True)


async def test_two_hosts_that_grow_it_never_shorten_it(driver: VolumeDriver, tmp_path: Path) -> None:
    """Who has looked before another host made it larger, and comes after, leaves it so."""
    found = await driver.make("v", 2 * BLOCK, raw=True)
    async with locked(tmp_path / "volumes"):
        late = asyncio.create_task(driver.grow("v", 4 * BLOCK))
        done, _ = await asyncio.wait([late], timeout=0.5)
        assert not done, "it waits for the lock"
        os.truncate(found.path, 6 * BLOCK)
        write_block(found.path, "raw", 5, 9)
    await late
    assert read_volume(tmp_path / "volumes", "v", tmp_path) == [0, 0, 0, 0, 0, 9]


async def test_an_image_becomes_raw(driver: VolumeDriver, image: Path, tmp_path: Path) -> None:
    """Of an image it has the blocks, and the size that it was asked for, which is not less than the image's."""
    with pytest.raises(SizeTooSmall):
        await driver.make("v", 2 * BLOCK, ImageOrigin(image, "qcow2"), raw=True)
    found = await driver.make("v", 5 * BLOCK, ImageOrigin(image, "qcow2"), raw=True)
    assert (found.format, found.size) == ("raw", 5 * BLOCK)
    assert read_volume(tmp_path / "volumes", "v", tmp_path) == [0, 6, 0, 0, 0]
    await driver.remove("v")
    assert left_over(tmp_path / "volumes") == []


async def test_nothing_lies_on_it(driver: VolumeDriver, tmp_path: Path) -> None:
    """A snapshot is refused, taken or begun, and changes nothing; nor does it lie on one."""
    found = await driver.make("v", 2 * BLOCK, raw=True)
    write_block(found.path, "raw", 0, 4)
    for asked in (driver.snapshot("v", "s"), driver.begin_snapshot("v", "s")):
        with pytest.raises(WrittenBySeveral):
            await asked
    assert await driver.look("v") == replace(found, used=found.path.stat().st_blocks * 512)
    assert read_volume(tmp_path / "volumes", "v", tmp_path) == [4, 0]
    one = await driver.make("one", 2 * BLOCK)
    assert one.format == "qcow2"
    await driver.snapshot("one", "s")
    with pytest.raises(WrittenBySeveral):
        await driver.make("w", 2 * BLOCK, SnapshotOrigin("one", "s"), raw=True)
    assert await driver.look("w") is None


@pytest.mark.parametrize("of_image", [False, True])
@pytest.mark.parametrize("how", ["before", "amid", "after"])
async def test_power_may_go_as_it_is_made(tmp_path: Path, image: Path, how: str, *, of_image: bool) -> None:
    """Whatever act is the last one, it is there whole or not at all, and made when it is asked for again."""
    for last in range(1, 20):
        folder = tmp_path / str(last)
        folder.mkdir()
        (folder / MARKER).write_text("several\n")
        files, origin = DyingFiles(last, how), ImageOrigin(image, "qcow2") if of_image else None
        with suppress(PowerCut):
            await shared_driver(folder, "several", files).make("v", 4 * BLOCK, origin, raw=True)
        driver = shared_driver(folder, "several")
        found = await driver.look("v")
        assert found is None or (found.format, found.size) == ("raw", 4 * BLOCK)
        await driver.make("v", 4 * BLOCK, origin, raw=True)
        assert read_volume(folder / "volumes", "v", tmp_path) == [0, 6 if of_image else 0, 0, 0]
        assert left_over(folder / "volumes") == []
        if not files.died:
            assert last > 3
            return
    pytest.fail("it acts for ever")


async def no_image(_image: Any) -> Any:
    raise LookupError


async def test_its_host_makes_it_and_the_others_find_it(driver: VolumeDriver, tmp_path: Path) -> None:
    """Another host waits until it is there, makes none, and takes no file that only one host can write."""
    key, state = ("demo", "data"), tmp_path / "state"
    place = Place(key, "v", "h1", 2 * BLOCK, tmp_path, "several", multi_attach=True)
    with pytest.raises(BeingMade, match="is being made by host h1"):
        await have_shareable(Shelves(), state, place, no_image, "h2")
    assert await driver.look("v") is None
    made = await have_shareable(Shelves(), state, place, no_image, "h1")
    larger = replace(place, size=4 * BLOCK)
    assert await have_shareable(Shelves(), state, larger, no_image, "h2") == made
    assert (await have_shareable(Shelves(), state, larger, no_image, "h1")).size == 4 * BLOCK
    await driver.remove("v")
    with pytest.raises(DataGone):
        await have_shareable(Shelves(), state, replace(place, known=True), no_image, "h2")
    await driver.make("one", 2 * BLOCK)
    for host in ("h1", "h2"):
        with pytest.raises(NotShareable, match="only one host can write"):
            await have_shareable(Shelves(), state, replace(place, volume_id="one"), no_image, host)
    with pytest.raises(NotShareable, match="O_DIRECT"):
        await have_shareable(Shelves(), state, replace(place, folder=None), no_image, "h1")


class OneVolume:
    """An API server that knows one Volume, and takes what is told of it."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.body = body
        self.store = Store()
        self.see()

    def see(self, **assignment: Any) -> None:
        """Have the agent's watch show it, changed."""
        self.body["spec"]["assignment"] |= assignment
        self.store.apply("MODIFIED", {"kind": "Volume", **self.body})

    async def get(self, *_: Any) -> dict[str, Any]:
        """Give it."""
        return self.body

    async def apply_status(self, _kind: type, body: dict[str, Any], *, manager: str) -> dict[str, Any]:
        """Take what is told."""
        self.body |= {"status": body["status"]}
        return {"kind": "Volume", **self.body}

    def post(self, *_: Any, **__: Any) -> None:
        """Take an Event."""


async def test_its_agent_makes_it_and_grows_it_while_others_have_it(driver: VolumeDriver, tmp_path: Path) -> None:
    """No server of that host is needed: it is made for those of others, and made larger under them, asking no guest."""
    given: dict[str, Any] = {"volumeID": VOLUME_ID, "host": "h1", "size": str(2 * BLOCK), "multiAttach": True}
    given |= {"folder": str(tmp_path), "volumeClass": "several", "attachedTo": "a", "alsoAttachedTo": ["b"]}
    metadata = {"name": "data", "namespace": "demo", "uid": "u"}
    api: Any = OneVolume({"metadata": metadata, "spec": {"size": "1Mi", "assignment": given}})
    nobody: Any = None  # Whoever asked a guest would fail.
    taker = Taker(tmp_path / "state", Shelves(), nobody)
    for host, made in (("h2", False), ("h1", True)):
        controller = VolumeController(host, api, api.store, api, taker, no_image)
        await controller.reconcile(("demo", "data"))
        assert (await driver.look(VOLUME_ID) is not None) is made
    assert api.body["status"] == {"sizeBytes": 2 * BLOCK, "usedBytes": 0}
    found = await driver.look(VOLUME_ID)
    assert found is not None
    write_block(found.path, "raw", 1, 8)
    api.see(size=str(4 * BLOCK))
    await controller.reconcile(("demo", "data"))
    assert api.body["status"]["sizeBytes"] == 4 * BLOCK
    assert read_volume(tmp_path / "volumes", VOLUME_ID, tmp_path) == [0, 8, 0, 0]
    await driver.remove(VOLUME_ID)
    await controller.reconcile(("demo", "data"))
    assert api.body["status"]["fault"]["reason"] == "VolumeDataGone"
    assert await driver.look(VOLUME_ID) is None
