"""What every driver of volumes does, and how it says no.

::

    Terminal
    ├── DataGone          a volume that was here is not
    ├── OriginGone        what a volume shall be a copy of is not here
    ├── SnapshotMissing   a volume shall go back to a snapshot that it has not
    ├── SizeTooSmall      a copy is smaller than what it is of
    ├── WrittenBySeveral  a snapshot of what several hosts may write
    └── TooManyLayers     a snapshot more, and each read would look through too many files
    Retryable
    ├── Unreadable        a record or a layer cannot be read, so nothing is removed
    ├── FolderBusy        another host works in the folder for too long
    └── NotShared         what hosts should share is not mounted on this one
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from kumulus_agent.storage.errors import Retryable, Terminal
from kumulus_agent.volumes.drivers.keys import VolumeKey

Format = Literal["qcow2", "raw"]


class DataGone(Terminal):
    """A volume that was here is not; a blank one in its place would hide that."""

    reason = "VolumeDataGone"


class OriginGone(Terminal):
    """The snapshot or volume that a new volume is made of is not here."""

    reason = "VolumeSourceGone"


class SnapshotMissing(Terminal):
    """The volume has no such snapshot."""

    reason = "SnapshotNotFound"


class SizeTooSmall(Terminal):
    """A volume cannot be smaller than what it is a copy of."""

    reason = "SizeTooSmall"


class TooManyLayers(Terminal):
    """The volume lies on as many files as are allowed."""

    reason = "TooManyLayers"


class WrittenBySeveral(Terminal):
    """Nothing lies on what several hosts may write at once: none of them could be told of another file."""

    reason = "VolumeMultiAttach"


class Unreadable(Retryable):
    """Something in the folder cannot be read; what nothing seems to need is kept until it can."""


class FolderBusy(Retryable):
    """Another process, maybe on another host, holds the folder."""


class NotShared(Retryable):
    """The folder is not the one that hosts share: an administrator has to mount it."""

    reason = "ShareNotMounted"


@dataclass(frozen=True, slots=True)
class SnapshotOrigin:
    """A new volume is a copy of a snapshot in the same folder."""

    volume_id: str
    snapshot_id: str


@dataclass(frozen=True, slots=True)
class ImageOrigin:
    """A new volume is a copy of an inspected image of this host's cache."""

    path: Path
    format: Format


Origin = SnapshotOrigin | ImageOrigin


@dataclass(frozen=True, slots=True)
class Found:
    """A volume as its files say.

    Attributes:
        path: of the file that is written.
        format: of that file.
        size: bytes that the guest sees.
        used: bytes that its own files take on the disk, its snapshots' included.
        snapshots: bytes that a copy of each needs at least, by the snapshot's id.
        pending: id of the snapshot that was begun and has not ended; empty if none.
        layers: files that a read may have to look through.
        reverted: what the volume went back for the last time; see `VolumeDriver.revert`.
    """

    path: Path
    format: Format
    size: int
    used: int
    snapshots: Mapping[str, int] = field(default_factory=dict)
    pending: str = ""
    layers: int = 1
    reverted: str = ""


class VolumeDriver(Protocol):
    """Volumes in one folder, each by its id.

    All may be repeated after any failure: what was done stays done, what half a step has left is cleared by the next.
    Everything raises `Retryable` or `OSError` when it may succeed later, and `Terminal` when it cannot. Sizes are in
    bytes. "Off" means that no guest has the volume, neither running nor saved: the caller knows that.
    """

    @property
    def key(self) -> VolumeKey | None:
        """What the volumes that it is used for are encrypted with."""
        ...

    def with_key(self, key: VolumeKey) -> VolumeDriver:
        """Give the driver for volumes that are encrypted, or shall be, with a key.

        Without it only `look`, `end_snapshot`, `cancel_snapshot`, `remove_snapshot` and `remove` work on them.
        """
        ...

    async def look(self, volume_id: str) -> Found | None:
        """Give a volume as it is; None if it is not here. A guest may be writing."""
        ...

    async def make(
        self,
        volume_id: str,
        size_bytes: int,
        origin: Origin | None = None,
        *,
        known: bool = False,
        raw: bool = False,
    ) -> Found:
        """Have a volume that no guest runs on: blank, or a copy; one that is there grows to the size.

        A snapshot that was begun for a guest that is off by now is ended.

        Args:
            volume_id: of the volume.
            size_bytes: as the guest shall see it.
            origin: what a new one is a copy of.
            known: the volume was here before.
            raw: a new one is one raw file, to which guests of several hosts may write; it has no snapshots and no key.

        Raises:
            DataGone: it is known, or was removed, and is not here.
            OriginGone, SizeTooSmall: it cannot be made of `origin`.
        """
        ...

    async def grow(self, volume_id: str, size_bytes: int) -> None:
        """Give a volume at least a size while it is off; it never shrinks. One raw file may be written meanwhile.

        Raises:
            DataGone: it is not here.
        """
        ...

    async def begin_snapshot(self, volume_id: str, snapshot_id: str) -> Path | None:
        """Prepare a snapshot: give the file that the guest writes to from the snapshot on; None if it is taken.

        Until `end_snapshot` the guest may be on either file: the new one has all that the old one has.

        Raises:
            DataGone, TooManyLayers, WrittenBySeveral: it cannot be prepared.
        """
        ...

    async def end_snapshot(self, volume_id: str) -> None:
        """Note that the guest writes to the new file, or is off; without a snapshot that was begun nothing happens."""
        ...

    async def cancel_snapshot(self, volume_id: str) -> None:
        """Take back a snapshot that was begun: the guest runs on the old file."""
        ...

    async def snapshot(self, volume_id: str, snapshot_id: str) -> None:
        """Take a snapshot of a volume that is off.

        Raises:
            DataGone, TooManyLayers, WrittenBySeveral: it cannot be taken.
        """
        ...

    async def revert(self, volume_id: str, snapshot_id: str, request: str) -> None:
        """Put a volume that is off back to a snapshot, keeping its size and all snapshots.

        Args:
            volume_id: of the volume.
            snapshot_id: to which it goes back.
            request: it does so once for each; the one before is forgotten.

        Raises:
            DataGone, SnapshotMissing: it cannot go back.
        """
        ...

    async def remove_snapshot(self, volume_id: str, snapshot_id: str) -> None:
        """Remove a snapshot; its data goes when nothing lies on it. Absent is success. A guest may be running."""
        ...

    async def merge(self, volume_id: str) -> int:
        """Free the files that only lie below the next one of a volume that is off; give how many went."""
        ...

    async def adopt(self, volume_id: str, file: Path) -> None:
        """Take a qcow2 file that lies on nothing as the data of a volume that is not here.

        Args:
            volume_id: of the volume.
            file: in the driver's folder, named by the id; it is moved.
        """
        ...

    async def remove(self, volume_id: str) -> None:
        """Remove a volume that is off, with its snapshots; what copies lie on stays. Absent is success."""
        ...
