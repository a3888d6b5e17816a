"""An instance's root disk: a qcow2 overlay on a cached image."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from kumulus_agent.storage.atomic import publish
from kumulus_agent.storage.errors import DiskTooSmall
from kumulus_agent.storage.image_cache import CachedImage
from kumulus_agent.storage.overlay import write_overlay
from kumulus_agent.storage.qemu_img import qemu_img


async def ensure_root_disk(path: Path, base: CachedImage | None, size_bytes: int) -> None:
    """Make the overlay unless it is there already; an existing one holds the guest's data and is left alone.

    Args:
        path: the overlay; its directory exists.
        base: the image below it, already inspected; None for an empty disk.
        size_bytes: the disk's size in the guest.

    Raises:
        DiskTooSmall: ``size_bytes`` is below the image's own size.
        OSError: it could not be written.
    """
    if not await asyncio.to_thread(path.exists):
        await replace_root_disk(path, base, size_bytes)


async def grow_root_disk(path: Path, size_bytes: int) -> None:
    """Give an overlay at least a size; a larger one is left as it is, since its end may be in use.

    Raises:
        Retryable: qemu-img failed.
    """
    if await asyncio.to_thread(virtual_size, path) < size_bytes:
        await qemu_img("resize", "-q", "-f", "qcow2", str(path), str(size_bytes))


def virtual_size(path: Path) -> int:
    """Read the size of the disk in the guest from the header of a qcow2 file of ours (docs/interop/qcow2.txt)."""
    with path.open("rb") as file:
        file.seek(24)
        return int.from_bytes(file.read(8), "big")


async def replace_root_disk(path: Path, base: CachedImage | None, size_bytes: int) -> None:
    """Make an overlay in the place of what is there, whole or not at all; what a guest wrote to the old one is lost.

    Args and errors as of `ensure_root_disk`; no guest runs on the old one.
    """
    if base is not None and size_bytes < base.virtual_size:
        raise DiskTooSmall(
            f"a root disk of {size_bytes} bytes was asked for, the image needs {base.virtual_size}: use a larger flavor"
        )
    below = (base.path, base.format) if base is not None else None
    await asyncio.to_thread(_replace, path, size_bytes, below)


def _replace(path: Path, size_bytes: int, below: tuple[Path, str] | None) -> None:
    part = path.with_name(f".{path.name}.part")
    write_overlay(part, size_bytes, below)
    publish(part, path)


async def delete_root_disk(path: Path) -> None:
    """Remove the overlay; absent is success."""
    await asyncio.to_thread(path.unlink, missing_ok=True)


async def root_disk_info(path: Path) -> dict[str, Any]:
    """Return ``qemu-img info`` of an overlay of ours, also while a guest runs on it."""
    answer: dict[str, Any] = json.loads(await qemu_img("info", "-U", "-f", "qcow2", "--output=json", str(path)))
    return answer
