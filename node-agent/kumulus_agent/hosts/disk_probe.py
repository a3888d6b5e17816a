"""Whether the disk that holds guests still takes writes: write and fsync under a deadline."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

_SECONDS = 10.0


async def probe(directory: Path) -> str:
    """Give what is wrong with the disk of `directory`, or an empty text.

    A disk that hangs keeps one thread until it answers, so a hanging one is not asked again meanwhile.
    """
    hanging = _hanging.get(directory)
    if hanging is not None and not hanging.done():
        return f"{directory} has not answered a write of one block yet"
    task = _hanging[directory] = asyncio.ensure_future(asyncio.to_thread(_write, directory / ".probe"))
    try:
        async with asyncio.timeout(_SECONDS):
            await asyncio.shield(task)
    except TimeoutError:
        return f"{directory} did not take a write of one block within {_SECONDS:.0f} s"
    except OSError as error:
        return f"{directory}: {error.strerror or error}"
    return ""


_hanging: dict[Path, asyncio.Future[None]] = {}


def _write(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.pwrite(descriptor, os.urandom(512), 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
