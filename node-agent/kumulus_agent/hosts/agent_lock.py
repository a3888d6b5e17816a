"""One agent per host: a rolled DaemonSet's new pod waits until the old one has let go."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

_log = structlog.stdlib.get_logger(__name__)
_LOOK_AGAIN = 0.2


@asynccontextmanager
async def agent_lock(path: Path) -> AsyncIterator[None]:
    """Hold the lock; wait for it as long as it takes.

    The kernel lets go of it when the process ends, however that happens.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        waited = False
        while not _try(descriptor):
            if not waited:
                _log.info("another agent runs on this host, waiting until it has ended", lock=str(path))
                waited = True
            await asyncio.sleep(_LOOK_AGAIN)
        yield
    finally:
        os.close(descriptor)


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
