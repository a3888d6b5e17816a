"""How much room the disks of this host have, and what of it is left for guests and for records."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kumulus_agent.storage.errors import DiskFull

RESERVE: Final = 256 << 20
"""Bytes that copies of ours leave free: guests on the same disk write meanwhile; of a small disk a twentieth."""


@dataclass(frozen=True, slots=True)
class Room:
    """A file system: its identity, size and what root may still write, in bytes."""

    device: int
    capacity: int
    free: int

    @property
    def reserve(self) -> int:
        """What copies leave free."""
        return min(RESERVE, self.capacity // 20)

    @property
    def left(self) -> int:
        """What copies may take; less than 0 where the reserve is being used."""
        return self.free - self.reserve


def room_at(path: Path) -> Room:
    """Look at the file system that a path is on, or would be."""
    while not path.exists() and path != path.parent:
        path = path.parent
    found = os.statvfs(path)
    # f_bavail: QEMU may run as a user of its own.
    return Room(path.stat().st_dev, found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)


def leave_reserve(where: Path | int, more: int) -> None:
    """Check that so many bytes more leave the reserve. Blocks.

    Args:
        where: they are written: a path that is there, or a descriptor.
        more: how many.

    Raises:
        OSError: ENOSPC; they do not.
    """
    found = os.statvfs(where)
    room = Room(0, found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)
    if more > room.left:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def require_room(path: Path, needed: int, what: str) -> None:
    """Check that so many bytes more leave the reserve.

    Args:
        path: where they are written.
        needed: how many.
        what: is written, for the message.

    Raises:
        DiskFull: they do not.
    """
    room = await asyncio.to_thread(room_at, path)
    if needed > room.left:
        raise DiskFull(
            f"{what} needs {needed} bytes in {path}, where {max(room.left, 0)} are free beside a reserve of "
            f"{room.reserve}; transient: goes on when there is room"
        )


def can_go_on(files: Iterable[str]) -> bool:
    """Say whether all the files' disks have room again for guests that wait for it."""
    return all(room.left > 0 for room in map(room_at, map(Path, files)))
