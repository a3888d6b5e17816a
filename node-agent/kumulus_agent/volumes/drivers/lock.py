"""One process at a time in a folder, on whatever host."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from kumulus_agent.volumes.drivers.protocol import FolderBusy

_PAUSE: Final = 0.02
_ATTEMPTS: Final = 1500
_NAME: Final = ".lock"


@asynccontextmanager
async def locked(folder: Path) -> AsyncIterator[None]:
    """Hold a folder: what only takes moments is done inside.

    The lock is one of the kernel, which frees it when its holder ends; of a folder that hosts share the file system
    carries it to the others (NFS 4, CephFS).

    Raises:
        FolderBusy: another has held it for half a minute.
        OSError: the file system has no locks.
    """
    descriptor = await asyncio.to_thread(os.open, folder / _NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        for _ in range(_ATTEMPTS):
            try:
                await asyncio.to_thread(fcntl.flock, descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(_PAUSE)
        else:
            raise FolderBusy(f"{folder} is held by another process; it is tried again")
        yield
    finally:
        os.close(descriptor)
