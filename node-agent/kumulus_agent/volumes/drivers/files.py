"""Thin verbs on the files of volumes: each is done whole or not at all, also through a power cut."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from pathlib import Path
from typing import Final

from kumulus_agent.storage.atomic import publish, sync_directory, write_file
from kumulus_agent.storage.qemu_img import qemu_img
from kumulus_agent.storage.room import require_room
from kumulus_agent.volumes.drivers.keys import check_encryption
from kumulus_agent.volumes.drivers.layers import MOST_LAYERS, layer_format, read_below
from kumulus_agent.volumes.drivers.protocol import Format

# No option beyond compat: the host's QEMU may be older than this qemu-img and must know every feature.
_QCOW2: Final = ("-f", "qcow2", "-o", "compat=1.1")
_COPY_SECONDS: Final = 6 * 3600.0
_TABLES: Final = 1 << 20
"""Bytes that a qcow2 file takes before there is anything in it, and more."""


class Files:
    """The actuator of all drivers. `Retryable` and `OSError` say that something did not succeed."""

    async def make_folder(self, path: Path) -> None:
        """Make a folder that QEMU, which may run as its own user, can pass through."""
        await asyncio.to_thread(path.mkdir, mode=0o711, parents=True, exist_ok=True)

    async def make_layer(self, path: Path, size: int, below: tuple[str, Format] | None = None) -> None:
        """Make a layer of `size` bytes; `below` is what its header says of the one that it lies on, and its format."""
        part = path.with_name(f".{path.name}.part")
        await require_room(path.parent, _TABLES, "a new layer of a volume")
        # Not opened by qemu-img (-u): a guest may be writing to it.
        lies_on = ("-u", "-b", below[0], "-F", below[1]) if below is not None else ()
        if below is not None and below[1] == "qcow2":
            # What lies on an encrypted layer is encrypted too, or the next thing that is written is for all to read.
            await asyncio.to_thread(check_encryption, path.parent / below[0], wanted=False)
        await qemu_img("create", "-q", *_QCOW2, *lies_on, str(part), str(size))
        await asyncio.to_thread(publish, part, path)

    async def copy_image(self, image: Path, image_format: Format, path: Path, size: int) -> None:
        """Make a layer that lies on nothing out of an inspected image or a layer, and larger if `size` says so."""
        part = path.with_name(f".{path.name}.part")
        if image_format == "qcow2":
            await asyncio.to_thread(check_encryption, image, wanted=False)
        needed = await asyncio.to_thread(taken, image, image_format)
        await require_room(path.parent, needed + _TABLES, "a copy of an image")
        arguments = ("convert", "-q", "-f", image_format, "-O", "qcow2", "-o", "compat=1.1", str(image), str(part))
        await qemu_img(*arguments, deadline=_COPY_SECONDS)
        await self.resize(part, "qcow2", size)
        await asyncio.to_thread(publish, part, path)

    async def make_raw(self, path: Path, size: int) -> None:
        """Make a file of `size` bytes without any block."""
        part = path.with_name(f".{path.name}.part")
        await require_room(path.parent, _TABLES, "a new volume")
        await asyncio.to_thread(part.touch, 0o600)
        await asyncio.to_thread(os.truncate, part, size)
        await asyncio.to_thread(publish, part, path)

    async def copy_raw(self, image: Path, image_format: Format, path: Path, size: int) -> None:
        """Make a file with the blocks of an inspected image or a layer, and larger if `size` says so."""
        part = path.with_name(f".{path.name}.part")
        if image_format == "qcow2":
            await asyncio.to_thread(check_encryption, image, wanted=False)
        needed = await asyncio.to_thread(taken, image, image_format)
        await require_room(path.parent, needed + _TABLES, "a copy of an image")
        await qemu_img("convert", "-q", "-f", image_format, "-O", "raw", str(image), str(part), deadline=_COPY_SECONDS)
        await self.resize(part, "raw", size)
        await asyncio.to_thread(publish, part, path)

    async def resize(self, path: Path, layer_format: Format, size: int) -> None:
        """Make a layer larger that no guest runs on."""
        if layer_format == "qcow2":
            await qemu_img("resize", "-q", "-f", "qcow2", str(path), str(size))
        else:
            await asyncio.to_thread(os.truncate, path, size)
        await asyncio.to_thread(_sync, path)

    async def lower(self, path: Path, below: tuple[str, Format] | None) -> None:
        """Have a layer that no guest runs on take in what it lies on, and lie on `below` from then on."""
        lies_on = ("-b", below[0], "-F", below[1]) if below is not None else ("-b", "")
        await require_room(path.parent, await asyncio.to_thread(_taken_below, path) + _TABLES, "merging two layers")
        # Written through: its header must not be on the disk before the data that it spares looking for.
        arguments = ("rebase", "-q", "-t", "writethrough", "-f", "qcow2", *lies_on, str(path))
        await qemu_img(*arguments, deadline=_COPY_SECONDS)
        await asyncio.to_thread(_sync, path)

    async def write(self, path: Path, content: bytes) -> None:
        """Write a small file."""
        await asyncio.to_thread(write_file, path, content)

    async def move(self, path: Path, final: Path) -> None:
        """Give a file that is whole another place on the same file system."""
        await asyncio.to_thread(publish, path, final)

    async def publish_folder(self, part: Path, final: Path) -> None:
        """Give a folder its name, with all that is in it; none has that name."""
        await asyncio.to_thread(_publish_folder, part, final)

    async def remove_file(self, path: Path) -> None:
        """Remove a file; absent is success."""
        await asyncio.to_thread(_remove_file, path)

    async def remove_folder(self, path: Path) -> None:
        """Remove a folder with all that is in it; absent is success."""
        await asyncio.to_thread(shutil.rmtree, path, True)


def taken(path: Path, image_format: Format) -> int:
    """Give the bytes that a disk takes with all that it lies on: at most so many are copied."""
    root, found, below = path.parent.parent, path.stat().st_blocks * 512, ""
    for _ in range(2 * MOST_LAYERS):
        is_layer = image_format == "qcow2" if not below else layer_format(below) == "qcow2"
        below = read_below(root / below if below else path, root) if is_layer else ""
        if not below:
            break
        found += (root / below).stat().st_blocks * 512
    return found


def _taken_below(path: Path) -> int:
    """Give the bytes that the layer takes on the disk that a layer lies on: at most so many are taken in."""
    below = read_below(path, path.parent.parent)
    return (path.parent.parent / below).stat().st_blocks * 512 if below else 0


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _publish_folder(part: Path, final: Path) -> None:
    sync_directory(part)
    part.rename(final)
    sync_directory(final.parent)


def _remove_file(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
        sync_directory(path.parent)
