"""Make a qcow2 file of an image of another format, inspected before: in a sandbox, with bounds on what it writes."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Final

from kumulus_agent.storage.confined import Work, confined
from kumulus_agent.storage.errors import CacheFull, CorruptImage, UnsafeImage
from kumulus_agent.storage.inspect_apart import inspect_apart
from kumulus_agent.storage.inspection import Inspected
from kumulus_agent.storage.qemu_img import check_whole
from kumulus_agent.storage.room import room_at
from kumulus_agent.storage.sandbox import SOURCE, TARGET

_SECONDS: Final = 4 * 3600.0
_MOST_GROWTH: Final = 32
_GROWTH_GRANTED: Final = 1 << 30
"""What compressed files may become: so many times their size and so many bytes more; more is taken for a bomb."""
_TABLES: Final = 64 << 20
"""What qcow2 needs besides the data, and a thousandth of these."""
_TOO_LONG: Final = ("File too large", "No space left on device")
_DRIVERS: Final = {
    "vmdk": "driver=vmdk",
    # Of others the geometry would be taken, which is often less than the disk has.
    "vhd": "driver=vpc,force_size_calc=current_size",
    "vhdx": "driver=vhdx",
    "vdi": "driver=vdi",
}


def needs_conversion(inspected: Inspected) -> bool:
    """Give whether servers' disks cannot lie on an image as it came (pure)."""
    return inspected.format in _DRIVERS


async def convert(source: Path, target: Path, inspected: Inspected) -> None:
    """Make a qcow2 file with the same blocks; what was sparse stays so.

    Args:
        source: the file, which stays.
        target: the file to make, on the same file system as others of the cache; what is there is replaced.
        inspected: what the source was found to be.

    Raises:
        CorruptImage: the source cannot be read to its end.
        UnsafeImage: it becomes more than a compressed disk does, or takes too much memory or time.
        CacheFull: no room.
        Retryable: the conversion could not be run.
    """
    size = (await asyncio.to_thread(source.stat)).st_size
    room = (await asyncio.to_thread(room_at, target.parent)).left
    most = min(inspected.virtual_size + inspected.virtual_size // 1000 + _TABLES, _MOST_GROWTH * size + _GROWTH_GRANTED)
    await asyncio.to_thread(_make_empty, target)
    options = f"{_DRIVERS[inspected.format]},file.driver=file,file.filename={SOURCE}"
    arguments = ("convert", "-q", "--image-opts", options, "-O", "qcow2", "-o", "compat=1.1", TARGET)
    work = Work("convert", arguments, source, target, seconds=_SECONDS, output=max(min(most, room), 0))
    done = await confined(work)
    if done.code == 0:
        await _judge(target, inspected.virtual_size)
    elif not any(word in done.said for word in _TOO_LONG):
        raise CorruptImage(f"the image cannot be converted to its end: {done.said[-500:]}; mend the source")
    elif most <= room:
        raise UnsafeImage(
            f"the image's {size} bytes become more than {most}, which no disk in use does; give it as qcow2"
        )
    else:
        raise CacheFull(
            f"convert an image of {size} bytes: {max(room, 0)} are free for it, more are needed", delay=60.0
        )


def _make_empty(target: Path) -> None:
    target.unlink(missing_ok=True)
    target.touch(mode=0o600)


async def _judge(target: Path, expected: int) -> None:
    """Trust the file no more than one that came: what the source made of qemu-img is not known."""
    await asyncio.to_thread(os.chown, target, os.geteuid(), os.getegid())
    found = (await asyncio.to_thread(inspect_apart, target, "qcow2", expected)).virtual_size
    if found != expected:
        raise CorruptImage(
            f"the image's disk has {expected} bytes by its header, qemu-img finds {found}; write it anew with qemu-img"
        )
    await check_whole(target)
