"""Files that are either whole or absent, also after a power cut."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from kumulus_agent.storage.ballast import drop


def publish(part: Path, final: Path) -> None:
    """Flush ``part`` to disk and give it its final name, replacing what was there."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(final)
    sync_directory(final.parent)


def write_file(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a small file atomically and durably; of concurrent writers the last one wins.

    On a full disk it takes the place of ballast (see `kumulus_agent.storage.ballast`).
    """
    while True:
        try:
            _write_once(path, content, mode)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not drop(path.parent):
                raise
        else:
            return


def _write_once(path: Path, content: bytes, mode: int) -> None:
    descriptor, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(content)
        publish(Path(part), path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


def sync_directory(directory: Path) -> None:
    """Make renames and deletions in ``directory`` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
