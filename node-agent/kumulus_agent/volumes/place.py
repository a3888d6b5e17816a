"""What a Volume asks of this host (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kumulus_api import Volume
from kumulus_api.quantities import parse_quantity
from kumulus_api.volume import VolumeAssignment, VolumeElsewhere, VolumeOrigin
from kumulus_api.volume_encryption import AssignedEncryption
from kumulus_api.volume_limits import AssignedLimits

Key = tuple[str, str]
VOLUMES: Final = "volumes"
"""Name of every folder with volumes: by it guests' disks are known to be volumes."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Another place of a volume on this host: folder of the share, None for the host's own; class; which move it is.

    One that is `cancelled` ends where it began, unless the volume lies in the other place already.
    """

    folder: Path | None
    volume_class: str
    request: str
    multi_attach: bool = False
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """A volume that was put on this host.

    Attributes:
        key: namespace and name of the Volume.
        volume_id: its identity.
        host: where it was put.
        size: bytes that it was admitted with.
        folder: of the share; None for the host's own.
        volume_class: name of its class, or empty.
        origin: what it is a copy of, if it is.
        known: it was made before.
        attached_to: name of the server that holds it, or empty.
        revert: snapshot and request of the revert that is due, or empty.
        exported_to: hosts that use it from afar; empty for none.
        moving: where it is to be copied to.
        left: where it has lain, and is to be removed.
        told: requests of the moves whose copy was told to be whole, and whose former place to be empty.
        told_size: bytes that it had when that was told the last time; 0 if it never was.
        encryption: how it is encrypted; None if it is not.
        limits: what a guest may do with it; None for all it can.
        multi_attach: guests of several hosts may have it at once: it is one raw file, which its host makes.
    """

    key: Key
    volume_id: str
    host: str
    size: int
    folder: Path | None = None
    volume_class: str = ""
    origin: VolumeOrigin | None = None
    known: bool = False
    attached_to: str = ""
    revert: tuple[str, str] = ("", "")
    told_size: int = 0
    exported_to: frozenset[str] = frozenset()
    moving: Elsewhere | None = None
    left: Elsewhere | None = None
    told: tuple[str, str] = ("", "")
    encryption: AssignedEncryption | None = None
    limits: AssignedLimits | None = None
    multi_attach: bool = False

    @property
    def moves(self) -> bool:
        """Whether a step of a move is due."""
        moving = self.moving is not None and self.moving.request not in self.told
        return moving or (self.left is not None and self.left.request != self.told[1])

    @property
    def awaits_copying(self) -> bool:
        """Whether it is a copy of what lies beside it, and not made yet."""
        return not self.known and self.origin is not None and self.origin.image is None


def read_place(body: dict[str, Any]) -> Place | None:
    """Read a Volume; None if it was not put anywhere, or is another project's by now, whose Volume says so."""
    volume = Volume.model_validate(body)
    given, status = volume.spec.assignment, volume.status
    if given is None or given.given_to is not None:
        return None
    due = given.revert
    return Place(
        key=volume.key,
        volume_id=given.volume_id,
        host=given.host,
        size=_size(volume, given),
        folder=Path(given.folder) if given.folder is not None else None,
        volume_class=given.volume_class or "",
        origin=given.origin,
        known=status is not None and status.used_bytes is not None,
        attached_to=given.attached_to or "",
        revert=(due.snapshot_id, due.request) if due is not None else ("", ""),
        told_size=(status.size_bytes if status is not None else None) or 0,
        exported_to=frozenset(given.exported_to or ()),
        moving=_elsewhere(given.moving),
        left=_elsewhere(given.left),
        told=((status.moved or "", status.cleared or "") if status is not None else ("", "")),
        encryption=given.encryption,
        limits=given.limits,
        multi_attach=bool(given.multi_attach),
    )


def _elsewhere(given: VolumeElsewhere | None) -> Elsewhere | None:
    if given is None:
        return None
    folder = Path(given.folder) if given.folder is not None else None
    several, cancelled = bool(given.multi_attach), given.cancelled
    return Elsewhere(folder, given.volume_class or "", given.request, multi_attach=several, cancelled=cancelled)


def _size(volume: Volume, given: VolumeAssignment) -> int:
    if given.size is not None:
        return parse_quantity(given.size)
    told = volume.status.size_bytes if volume.status is not None else None
    # Bound before sizes were noted: what it has grown to since was not admitted.
    return told if told is not None else parse_quantity(volume.spec.size)
