"""Volumes that come while guests write to them: the record names the layer as arriving until it is the volume.

Until then the volume is not there for anybody (`VolumeDriver.look` gives None), and `VolumeDriver.remove` removes what
has come of it. The caller holds the volume, and has seen that the folder is the one that it should be.
"""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

from kumulus_agent.volumes.drivers.files import Files
from kumulus_agent.volumes.drivers.layers import RECORD, Record, check_name, read_record
from kumulus_agent.volumes.drivers.lock import locked
from kumulus_agent.volumes.drivers.protocol import DataGone


def arriving(root: Path, volume_id: str) -> Path | None:
    """Give the layer into which a volume is being copied; None if none is. Blocks.

    Args:
        root: the folder of the volumes.
        volume_id: which.

    Raises:
        Unreadable: its record cannot be read.
    """
    record = read_record(root, check_name(volume_id))
    return root / record.arriving if record is not None and record.arriving else None


async def begin_arrival(root: Path, volume_id: str, size: int, files: Files | None = None) -> Path:
    """Make the empty layer into which a volume is copied, of which nothing is there yet; give it.

    Its name is a new one: a definition that names it is of this copy.

    Args:
        root: the folder of the volumes.
        volume_id: of the volume.
        size: bytes as the guest sees them.
        files: what changes files.

    Raises:
        DataGone: something of the volume is there.
        StorageError, OSError: it cannot be made now.
    """
    acts, layer = files or Files(), f"{uuid.uuid4().hex}.qcow2"
    await acts.make_folder(root)
    if await asyncio.to_thread(read_record, root, check_name(volume_id)) is not None:
        raise DataGone(f"something of volume {volume_id} is in {root} already: it does not come there")
    part = root / f".{volume_id}.{uuid.uuid4().hex}"
    async with locked(root):
        await acts.make_folder(part)
        await acts.make_layer(part / layer, size)
        await acts.write(part / RECORD, Record("", pending=("", f"{volume_id}/{layer}")).dump())
        await acts.publish_folder(part, root / volume_id)
    return root / volume_id / layer


async def end_arrival(root: Path, volume_id: str, files: Files | None = None) -> None:
    """Note that a volume lies here from now on, in the layer that has arrived; done already is success.

    Raises:
        StorageError, OSError: it cannot be noted now.
    """
    acts = files or Files()
    async with locked(root):
        record = await asyncio.to_thread(read_record, root, check_name(volume_id))
        if record is not None and record.arriving:
            await acts.write(root / volume_id / RECORD, Record(record.arriving).dump())
