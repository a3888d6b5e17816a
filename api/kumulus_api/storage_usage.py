"""What the folders of a host take of its disks (Cinder: capacity, free, allocated and provisioned of a pool)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

from kumulus_api.base import Model, ObjectName, Quantity


class StorageName(StrEnum):
    """Folders of a host."""

    ROOT_DISKS = "RootDisks"
    VOLUMES = "Volumes"
    """Of the driver Local, with their snapshots."""
    IMAGES = "Images"
    """The cache, of which what nothing needs goes when there is no room."""


class StorageUsage(Model):
    """A folder and the file system that it is on. Folders may share one: capacity and free are the same then."""

    name: StorageName
    capacity: Quantity
    """Of the file system."""
    free: Quantity
    """Of the file system, as it was found."""
    allocated: Quantity
    """Bytes that the folder's files take."""
    provisioned: Quantity
    """Bytes that they take when guests have filled them; of images, what they take."""
    overcommit: Annotated[str, Field(max_length=16)] | None = None
    """How many times over the disk is promised, unless a VolumeClass says another ratio; not of images."""


class ShareUsage(Model):
    """The share of a VolumeClass, which this host has mounted."""

    volume_class: ObjectName
    capacity: Quantity
    """Of the file system."""
    free: Quantity
    """Of the file system, as it was found."""


_LEAST_STEP: Final = 1 << 30


def step_of(capacity: int) -> int:
    """Give by how many bytes a number of a file system has to move to be told anew."""
    return min(max(_LEAST_STEP, capacity // 100), max(1, capacity // 20))
