"""Files that are either whole or absent, also after a power cut."""

from __future__ import annotations

import os
from pathlib import Path


def publish(part: Path, final: Path) -> None:
    """Flush ``part`` to disk and give it its final name, replacing what was there."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(final)
    sync_directory(final.parent)


def write_file(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a small file atomically and durably."""
    part = path.with_name(f".{path.name}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    publish(part, path)


def sync_directory(directory: Path) -> None:
    """Make renames and deletions in ``directory`` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
