"""A disk as one file that stands alone: what an image is made of."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Final

from kumulus_agent.storage.qemu_img import qemu_img
from kumulus_agent.storage.room import room_at
from kumulus_agent.storage.root_disk import virtual_size

_COPY_SECONDS: Final = 6 * 3600.0
_OPTIONS: Final = ("-f", "qcow2", "-o", "compat=1.1")


async def missing_room(disk: Path) -> int:
    """Give by how many bytes a copy beside a disk would not fit; 0 if it does.

    Raises:
        Retryable: qemu-img failed.
    """
    return (await needed_room(disk, disk.parent))[1]


async def needed_room(disk: Path, folder: Path) -> tuple[int, int]:
    """Give the bytes that a copy of a disk takes, and by how many it would not fit into a folder.

    Raises:
        Retryable: qemu-img failed.
    """
    asked = ("measure", "-U", "-f", "qcow2", "-O", "qcow2", "--output=json", str(disk))
    needed = int(json.loads(await qemu_img(*asked))["required"])
    left = (await asyncio.to_thread(room_at, folder)).left
    return needed, max(0, needed - left)


async def empty_copy(disk: Path, part: Path) -> None:
    """Make the file that a running guest's disk is copied into.

    Raises:
        Retryable: qemu-img failed.
    """
    size = await asyncio.to_thread(virtual_size, disk)
    await qemu_img("create", "-q", *_OPTIONS, str(part), str(size))


async def copy_disk(disk: Path, part: Path) -> None:
    """Copy a disk that no guest runs on; what is below it comes along.

    Raises:
        Retryable: qemu-img failed, also because a guest was started on it.
    """
    arguments = ("convert", "-q", "-f", "qcow2", "-O", "qcow2", "-o", "compat=1.1", str(disk), str(part))
    await qemu_img(*arguments, deadline=_COPY_SECONDS)
