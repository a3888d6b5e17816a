"""For tests of volumes: disks with known content, and a host that loses its power at any file operation."""

from __future__ import annotations

import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from kumulus_agent.volumes.drivers.encrypted import EncryptedFiles, opened
from kumulus_agent.volumes.drivers.files import Files
from kumulus_agent.volumes.drivers.keys import VolumeKey, is_encrypted
from kumulus_agent.volumes.drivers.layers import Record, layer_format, read_record, read_shelf
from kumulus_agent.volumes.drivers.local import local_driver
from kumulus_agent.volumes.drivers.protocol import Format, VolumeDriver
from kumulus_agent.volumes.drivers.shared import MARKER, shared_driver

BLOCK: Final = 64 << 10
"""Bytes of a block."""
ENCRYPTED_KEY: Final = VolumeKey(b"a key of tests, which is as long as one of a volume")
"""Of all encrypted volumes of tests."""


@dataclass
class Made:
    """A driver over a folder, which can be made anew as after a power cut."""

    kind: str
    folder: Path

    def __post_init__(self) -> None:
        if self.kind == "shared":
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / MARKER).write_text("fast\n")

    @property
    def root(self) -> Path:
        """Where the volumes are."""
        return self.folder / "volumes"

    def driver(self, files: Files | None = None) -> VolumeDriver:
        """Give a driver that remembers nothing."""
        if self.kind == "shared":
            return shared_driver(self.folder, "fast", files)
        if self.kind == "encrypted":
            return local_driver(self.root).with_key(ENCRYPTED_KEY, files)
        return local_driver(self.root, files)


class PowerCut(Exception):
    """The host went off."""


class DyingFiles(Files):
    """The actuator of a host that loses its power: before an act, amid it, or after it."""

    # How it dies is "before", "amid" or "after" its last act.
    def __init__(self, last: int, how: str) -> None:
        self.left = last
        self.how = how
        self.died = False

    async def _die(self, act: Callable[[], Awaitable[None]], half: Callable[[], object] = lambda: None) -> None:
        self.left -= 1
        if self.left > 0:
            await act()
            return
        self.died = True
        if self.how == "after":
            await act()
        elif self.how == "amid":
            half()
        raise PowerCut

    async def make_folder(self, path: Path) -> None:
        """See `Files`."""
        await self._die(lambda: super(DyingFiles, self).make_folder(path))

    async def make_layer(self, path: Path, size: int, below: tuple[str, Format] | None = None) -> None:
        """See `Files`."""
        half = path.with_name(f".{path.name}.part")
        await self._die(lambda: super(DyingFiles, self).make_layer(path, size, below), lambda: half.write_bytes(b"QFI"))

    async def copy_image(self, image: Path, image_format: Format, path: Path, size: int) -> None:
        """See `Files`."""
        half = path.with_name(f".{path.name}.part")
        copied = partial(super().copy_image, image, image_format, path, size)
        await self._die(copied, lambda: half.write_bytes(b"Q"))

    async def make_raw(self, path: Path, size: int) -> None:
        """See `Files`."""
        half = path.with_name(f".{path.name}.part")
        await self._die(lambda: super(DyingFiles, self).make_raw(path, size), lambda: half.write_bytes(b"0"))

    async def copy_raw(self, image: Path, image_format: Format, path: Path, size: int) -> None:
        """See `Files`."""
        half = path.with_name(f".{path.name}.part")
        copied = partial(super().copy_raw, image, image_format, path, size)
        await self._die(copied, lambda: half.write_bytes(b"0"))

    async def resize(self, path: Path, layer_format: Format, size: int) -> None:
        """See `Files`."""
        await self._die(lambda: super(DyingFiles, self).resize(path, layer_format, size))

    async def lower(self, path: Path, below: tuple[str, Format] | None) -> None:
        """See `Files`."""
        await self._die(lambda: super(DyingFiles, self).lower(path, below))

    async def write(self, path: Path, content: bytes) -> None:
        """See `Files`."""
        half = path.with_name(f".{path.name}.half")
        await self._die(lambda: super(DyingFiles, self).write(path, content), lambda: half.write_bytes(content[:9]))

    async def publish_folder(self, part: Path, final: Path) -> None:
        """See `Files`."""
        await self._die(lambda: super(DyingFiles, self).publish_folder(part, final))

    async def remove_file(self, path: Path) -> None:
        """See `Files`."""
        await self._die(lambda: super(DyingFiles, self).remove_file(path))

    async def remove_folder(self, path: Path) -> None:
        """See `Files`."""

        def half() -> None:
            for file in list(path.iterdir()) if path.exists() else ():
                file.unlink()

        await self._die(lambda: super(DyingFiles, self).remove_folder(path), half)


class DyingEncryptedFiles(DyingFiles, EncryptedFiles):
    """The same where volumes are encrypted: it may die between the two halves of a merge, too."""

    def __init__(self, last: int, how: str) -> None:
        DyingFiles.__init__(self, last, how)
        self._key = ENCRYPTED_KEY

    async def lower(self, path: Path, below: tuple[str, Format] | None) -> None:
        """See `Files`."""
        half = ["qemu-img", "commit", "-q", "-d", *_named(path, "qcow2")]
        act = partial(EncryptedFiles.lower, self, path, below)
        await self._die(act, lambda: subprocess.run(half, check=True))


def _named(path: Path, disk_format: str) -> list[str]:
    """Give what qemu-img and qemu-io are told of a disk."""
    if not is_encrypted(path):
        return ["-f", disk_format, str(path)]
    return ["--object", f"secret,id=key,data={ENCRYPTED_KEY.content.decode()}".replace(", ", ",, "), opened(path)]


def write_block(path: Path, disk_format: str, block: int, value: int) -> None:
    """Write a block as a guest does."""
    command = f"write -P {value} {block * BLOCK} {BLOCK}"
    subprocess.run(["qemu-io", "-c", command, *_named(path, disk_format)], check=True, stdout=subprocess.DEVNULL)


def read_blocks(path: Path, disk_format: str, scratch: Path) -> list[int]:
    """Read a disk whole through all its layers: the byte of each block, -1 for one that is not of one byte."""
    out = scratch / "read.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", *_named(path, disk_format), out], check=True)
    content = out.read_bytes()
    pieces = [content[at : at + BLOCK] for at in range(0, len(content), BLOCK)]
    return [piece[0] if piece == piece[:1] * BLOCK else -1 for piece in pieces]


def read_volume(root: Path, volume_id: str, scratch: Path) -> list[int]:
    """Read what a guest would."""
    active = _record(root, volume_id).active
    return read_blocks(root / active, layer_format(active), scratch)


def read_snapshots(root: Path, volume_id: str, scratch: Path) -> dict[str, list[int]]:
    """Read all snapshots of a volume."""
    layers = _record(root, volume_id).snapshots
    return {known: read_blocks(root / layer, layer_format(layer), scratch) for known, layer in layers.items()}


def _record(root: Path, volume_id: str) -> Record:
    record = read_record(root, volume_id)
    if record is None or not record.active:
        raise LookupError(volume_id)
    return record


def left_over(root: Path) -> list[str]:
    """Give what is in a folder and belongs to no volume."""
    shelf = read_shelf(root)
    needed = {below for record in shelf.records.values() for top in record.roots for below in shelf.chain(top)}
    found = {file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file()}
    kept = {".lock"} | needed | {f"{known}/volume.json" for known in shelf.records}
    empty = {folder.name for folder in root.iterdir() if folder.is_dir() and not any(folder.iterdir())}
    return sorted((found - kept) | empty)


async def written(made: Made, volume_id: str, blocks: list[int]) -> VolumeDriver:
    """Have a volume with known blocks, of which 0 is not written."""
    driver = made.driver()
    found = await driver.make(volume_id, len(blocks) * BLOCK)
    for block, value in enumerate(blocks):
        if value:
            write_block(found.path, found.format, block, value)
    return driver


async def write(driver: VolumeDriver, volume_id: str, block: int, value: int) -> None:
    """Write a block of the active layer as a guest does."""
    found = await driver.look(volume_id)
    if found is None:
        raise LookupError(volume_id)
    write_block(found.path, found.format, block, value)
