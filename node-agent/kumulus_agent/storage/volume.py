"""Volumes of the local driver: sparse raw files, one per volume."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from pathlib import Path

from kumulus_agent.storage.atomic import sync_directory
from kumulus_agent.storage.errors import Terminal

_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def volume_path(root: Path, volume_id: str) -> Path:
    """Return the file of a volume.

    Raises:
        Terminal: the id could leave ``root``.
    """
    if not _SAFE_ID.fullmatch(volume_id):
        raise Terminal(f"volume id {volume_id!r} is not a plain name")
    return root / f"{volume_id}.raw"


async def ensure_volume(root: Path, volume_id: str, size_bytes: int, *, known: bool = False) -> Path:
    """Make a blank volume, or grow an existing one to ``size_bytes``; it never shrinks.

    Args:
        root: the volumes' folder.
        volume_id: names the file.
        size_bytes: as the guest shall see it.
        known: the volume was here before, so that a blank one would hide the loss of its data.

    Returns:
        The volume's file.

    Raises:
        Terminal: it is known and its file is gone.
    """
    path = volume_path(root, volume_id)
    if known and not await asyncio.to_thread(path.exists):
        raise Terminal(f"the data of volume {volume_id} is gone: put {path} back, or delete the Volume")
    await asyncio.to_thread(_ensure, path, size_bytes)
    return path


async def delete_volume(root: Path, volume_id: str) -> None:
    """Remove a volume; absent is success."""
    await asyncio.to_thread(_delete, volume_path(root, volume_id))


async def volume_size(root: Path, volume_id: str) -> int | None:
    """Return a volume's size in bytes as the guest sees it; None if it is not here."""
    try:
        return (await asyncio.to_thread(volume_path(root, volume_id).stat)).st_size
    except FileNotFoundError:
        return None


async def volume_used(root: Path, volume_id: str) -> int | None:
    """Return the bytes that a volume occupies on the host; None if it is not here."""
    try:
        return (await asyncio.to_thread(volume_path(root, volume_id).stat)).st_blocks * 512
    except FileNotFoundError:
        return None


def _ensure(path: Path, size_bytes: int) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if os.fstat(descriptor).st_size < size_bytes:
            os.ftruncate(descriptor, size_bytes)
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_directory(path.parent)


def _delete(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
        sync_directory(path.parent)
