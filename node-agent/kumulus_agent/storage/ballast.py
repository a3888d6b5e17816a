"""A little room that only our own records may take, when guests have filled the disk."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Final

NAME: Final = ".ballast"
SIZE: Final = 8 << 20
PIECE: Final = 1 << 20
"""Given up at once: enough for some records and the blocks of their folders."""


def load(folder: Path) -> bool:
    """Have the ballast of a folder whole; give whether it is. It is not while the disk has no room for it."""
    path = folder / NAME
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_blocks * 512 < SIZE:
                os.posix_fallocate(descriptor, 0, SIZE)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return False
    return True


def drop(folder: Path) -> bool:
    """Give a piece of the ballast of a folder, or of the next above that has some, to the disk; False if none has."""
    for above in (folder, *folder.parents):
        path = above / NAME
        with contextlib.suppress(FileNotFoundError):
            left = path.stat().st_size
            if left:
                os.truncate(path, max(0, left - PIECE))
                return True
    return False
