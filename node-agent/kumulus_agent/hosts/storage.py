"""What the folders with disks, volumes and images take of this host: looked at often, told seldom."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kumulus_agent.storage.errors import StorageError
from kumulus_agent.storage.room import Room, room_at
from kumulus_agent.storage.root_disk import virtual_size
from kumulus_agent.volumes.drivers.layers import layer_format, read_record
from kumulus_agent.volumes.place import VOLUMES
from kumulus_api.quantities import format_quantity, parse_quantity
from kumulus_api.storage_usage import StorageName, StorageUsage, step_of

_BLOCK: Final = 512
"""Bytes that stat counts in, whatever the file system."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder: the file system that it is on, and bytes that its files take and may take."""

    name: StorageName
    room: Room
    allocated: int
    provisioned: int

    @property
    def amounts(self) -> dict[str, int]:
        """Give all numbers by name."""
        room = {"capacity": self.room.capacity, "free": self.room.free}
        return {**room, "allocated": self.allocated, "provisioned": self.provisioned}


def read_folders(state_dir: Path) -> tuple[Folder, ...]:
    """Look at all folders. Blocks; a file that goes meanwhile is not counted."""
    instances, volumes, images = state_dir / "instances", state_dir / VOLUMES, state_dir / "images"
    return (
        Folder(StorageName.IMAGES, room_at(images), taken := _taken(images), taken),
        Folder(StorageName.ROOT_DISKS, room_at(instances), _taken(instances), _promised_roots(instances)),
        Folder(StorageName.VOLUMES, room_at(volumes), _taken(volumes), _promised_volumes(volumes)),
    )


def _taken(folder: Path) -> int:
    total = 0
    for where, _folders, files in os.walk(folder):
        for name in files:
            try:
                total += Path(where, name).lstat().st_blocks * _BLOCK
            except OSError:
                continue
    return total


def _promised_roots(folder: Path) -> int:
    return sum(_size(path) for path in (folder.glob("*/root.qcow2") if folder.exists() else ()))


def _promised_volumes(folder: Path) -> int:
    """Give the sizes of the active layers: what lies below them is counted in what is taken."""
    names = {entry.name.removesuffix(".raw") for entry in (folder.iterdir() if folder.exists() else ())}
    total = 0
    for name in names:
        if name.startswith("."):
            continue
        try:
            record = read_record(folder, name)
        except StorageError:
            continue
        if record is not None and record.active:
            total += _size(folder / record.active)
    return total


def _size(path: Path) -> int:
    try:
        return virtual_size(path) if layer_format(path.name) == "qcow2" else path.stat().st_size
    except OSError:
        return 0


def told_usage(
    found: Iterable[Folder], told: Sequence[Mapping[str, Any]], ratio: str | None = None
) -> tuple[StorageUsage, ...]:
    """Give what is to be told: what was told before, where nothing has moved enough to be worth a write (pure).

    Args:
        found: the folders.
        told: before.
        ratio: how many times over the disk is promised.
    """
    known = {item.name: item for item in map(StorageUsage.model_validate, told)}
    return tuple(
        _told(folder, known.get(folder.name), ratio if folder.name is not StorageName.IMAGES else None)
        for folder in found
    )


def _told(folder: Folder, known: StorageUsage | None, ratio: str | None) -> StorageUsage:
    fresh = StorageUsage(
        name=folder.name,
        capacity=format_quantity(folder.room.capacity),
        free=format_quantity(folder.room.free),
        allocated=format_quantity(folder.allocated),
        provisioned=format_quantity(folder.provisioned),
        overcommit=ratio,
    )
    if known is None or (known.capacity, known.overcommit) != (fresh.capacity, ratio):
        return fresh
    step = step_of(folder.room.capacity)
    pairs = ((known.free, fresh.free), (known.allocated, fresh.allocated), (known.provisioned, fresh.provisioned))
    moved = any(abs(parse_quantity(new) - parse_quantity(old)) >= step for old, new in pairs)
    return fresh if moved else known


def pressing(found: Iterable[Folder], *, before: bool) -> tuple[Room, ...]:
    """Give the file systems of which the reserve is being used, each once (pure).

    Args:
        found: the folders.
        before: some were at the last look; they are until twice the reserve is free.
    """
    rooms = {folder.room.device: folder.room for folder in found}
    return tuple(room for room in rooms.values() if room.free < room.reserve * (2 if before else 1))
