"""Brings a volume that no guest writes to from one folder of this host to another; see `copying` for the others."""

from __future__ import annotations

import asyncio
from pathlib import Path

from kumulus_agent.storage.errors import Retryable
from kumulus_agent.volumes.drivers.arrivals import arriving
from kumulus_agent.volumes.drivers.protocol import DataGone, ImageOrigin, VolumeDriver
from kumulus_agent.volumes.place import VOLUMES, Elsewhere, Place
from kumulus_agent.volumes.shelves import Shelves


class FormerLayers(Retryable):
    """Copies lie on layers that the volume has left in the place where it is to go."""

    reason = "FormerLayersInUse"


def driver_at(shelves: Shelves, state_dir: Path, there: Elsewhere) -> VolumeDriver:
    """Give the driver of another place."""
    return shelves.driver(state_dir, there.folder, there.volume_class)


def former_layers(place: Place, there: Elsewhere) -> FormerLayers:
    """Give what is raised where something is left of a volume in the place where it goes: only copies keep that."""
    return FormerLayers(
        f"in class {there.volume_class} there are copies on what volume {place.key[1]} has left there; "
        "transient: it is moved when they are deleted, and stays when its present class is asked for",
        delay=60.0,
    )


async def move(shelves: Shelves, state_dir: Path, place: Place) -> None:
    """Do what is due of a move, by what a live read has said; done already is success. The volume is held, and off.

    A copy appears whole. What is left is removed only where the volume lies whole in its place.

    Raises:
        StorageError, OSError: it cannot be done now.
    """
    driver = shelves.driver(state_dir, place.folder, place.volume_class)
    found = await driver.look(place.volume_id)
    if found is None:
        raise DataGone(f"the data of volume {place.key[1]} is not where it shall be: put it back, nothing is removed")
    if place.moving is not None:
        there = driver_at(shelves, state_dir, place.moving)
        if await there.look(place.volume_id) is None:
            # What has come of it while a guest wrote is not whole, and the guest is off.
            await there.remove(place.volume_id)
        if place.moving.cancelled:
            return
        try:
            origin = ImageOrigin(found.path, found.format)
            await there.make(place.volume_id, found.size, origin, raw=place.moving.multi_attach)
        except DataGone as error:
            # Said of a volume whose folder is there without its data, which lies here.
            raise former_layers(place, place.moving) from error
    if place.left is not None:
        await driver_at(shelves, state_dir, place.left).remove(place.volume_id)


async def moved(shelves: Shelves, state_dir: Path, place: Place) -> dict[str, str]:
    """Give what there is to tell of a move, by what lies where.

    Raises:
        StorageError, OSError: it cannot be looked at.
    """
    said = {}
    if place.moving is not None:
        if await driver_at(shelves, state_dir, place.moving).look(place.volume_id) is not None:
            said["moved"] = place.moving.request
        elif place.moving.cancelled and not await asyncio.to_thread(_comes, state_dir, place.moving, place.volume_id):
            said["cleared"] = place.moving.request
    if place.left is not None and await driver_at(shelves, state_dir, place.left).look(place.volume_id) is None:
        said["cleared"] = place.left.request
    return said


def _comes(state_dir: Path, there: Elsewhere, volume_id: str) -> bool:
    return arriving((there.folder or state_dir) / VOLUMES, volume_id) is not None


async def clear(shelves: Shelves, state_dir: Path, place: Place) -> None:
    """Remove what a move has made, or left, of a volume that is removed.

    Raises:
        StorageError, OSError: it cannot be done now.
    """
    for there in (place.moving, place.left):
        if there is not None:
            await driver_at(shelves, state_dir, there).remove(place.volume_id)
