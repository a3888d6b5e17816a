"""Volumes that are one raw file, to which guests of several hosts may write."""

from __future__ import annotations

from pathlib import Path

from kumulus_agent.volumes.drivers.files import Files
from kumulus_agent.volumes.drivers.layers import FIRST_RAW, RECORD, Record
from kumulus_agent.volumes.drivers.protocol import ImageOrigin, Origin, WrittenBySeveral


async def fill_raw(files: Files, part: Path, volume_id: str, origin: Origin | None, size: int) -> None:
    """Make all that such a volume has, in a folder that is to get its name.

    Args:
        files: what changes files.
        part: the folder, which is absent.
        volume_id: of the volume.
        origin: an image that is not larger; None for a blank volume.
        size: in bytes.

    Raises:
        WrittenBySeveral: it would lie on a snapshot.
    """
    await files.make_folder(part)
    if origin is None:
        await files.make_raw(part / FIRST_RAW, size)
    elif isinstance(origin, ImageOrigin):
        await files.copy_raw(origin.path, origin.format, part / FIRST_RAW, size)
    else:
        raise WrittenBySeveral(f"volume {volume_id} cannot lie on a snapshot: several hosts may write to it")
    await files.write(part / RECORD, Record(f"{volume_id}/{FIRST_RAW}").dump())
