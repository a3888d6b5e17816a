"""Plan where a VolumeSnapshot is taken, and what it says (pure)."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from kumulus_api import Server, Volume, VolumeSnapshot
from kumulus_api.volume import VolumeAssignment
from kumulus_api.volume_snapshot import SnapshotAssignment, SnapshotReason
from kumulus_operator.refusal import Refusal
from kumulus_runtime.conditions import set_condition


def place_of(
    snapshot: VolumeSnapshot, volume: Volume | None, holder: Server | None
) -> SnapshotAssignment | Refusal | None:
    """Give where a snapshot is to be taken and kept; a refusal if it cannot be now; None if it says so already.

    Args:
        snapshot: as it is.
        volume: that it is of, if it is there.
        holder: the server that has the volume.
    """
    given, name = snapshot.spec.assignment, snapshot.spec.volume.name
    need = ("Volume", snapshot.key[0], name)
    place = volume.spec.assignment if volume is not None else None
    if given is not None:
        # It follows its volume from host to host.
        if place is None or place.volume_id != given.volume_id or place.host == given.host:
            return None
        return given.model_copy(update={"host": place.host})
    if volume is None or volume.deleting or (place is not None and place.given_to is not None):
        message = f"reference: volume {name} was not found; transient: goes on when it is made"
        return Refusal(SnapshotReason.VOLUME_NOT_FOUND, message, frozenset({need}))
    if place is None or volume.status is None or volume.status.size_bytes is None:
        message = f"volume {name} has no data yet: no server has used it; transient: goes on when one has"
        return Refusal(SnapshotReason.VOLUME_NOT_READY, message, frozenset({need}))
    if (moving := _on_its_way(name, place, holder)) or place.multi_attach:
        message = f"volume {name} is for several servers, and has no snapshots; transient: goes on in another class"
        reason = SnapshotReason.MIGRATING if moving else SnapshotReason.MULTI_ATTACH
        return Refusal(reason, moving or message, frozenset({need}))
    return SnapshotAssignment(
        snapshot_id=str(uuid.uuid4()),
        volume_id=place.volume_id,
        host=place.host,
        volume_class=place.volume_class,
        folder=place.folder,
    )


def _on_its_way(name: str, place: VolumeAssignment, holder: Server | None) -> str:
    """Say how a volume moves; empty if it does not."""
    if place.moving is not None:
        return f"volume {name} moves to class {place.moving.volume_class}; transient: goes on when it is there"
    target = holder.spec.assignment.target if holder is not None and holder.spec.assignment is not None else None
    if target is None or place.attached_to is None:
        return ""
    return f"server {place.attached_to}, which has volume {name}, migrates; transient: goes on when it is there"


def snapshot_status(
    snapshot: VolumeSnapshot, excess: str | None, refusal: Refusal | None, now: datetime
) -> dict[str, Any] | None:
    """Give the condition of a snapshot, or None if it has it already.

    Args:
        snapshot: as it is.
        excess: by what it would exceed the quota, or None.
        refusal: why it is not taken.
        now: the present.
    """
    found = snapshot.status.dump().get("conditions", []) if snapshot.status is not None else []
    ready, reason, message = _ready(snapshot, excess, refusal)
    conditions = set_condition(found, "Ready", ready, reason, message, snapshot.metadata.generation, now)
    return None if conditions == found else {"conditions": conditions}


def _ready(snapshot: VolumeSnapshot, excess: str | None, refusal: Refusal | None) -> tuple[bool, str, str]:
    given, status = snapshot.spec.assignment, snapshot.status
    if status is not None and status.fault is not None:
        return False, status.fault.reason, status.fault.message
    if status is not None and status.restore_size is not None:
        return True, SnapshotReason.AVAILABLE, f"is of volume {snapshot.spec.volume.name}, {status.restore_size} bytes"
    if excess is not None:
        message = f"quota: {excess}; transient: taken when snapshots are deleted or the quota is raised"
        return False, SnapshotReason.QUOTA_EXCEEDED, message
    if refusal is not None:
        return False, refusal.reason, refusal.message
    host = given.host if given is not None else "its volume"
    return False, SnapshotReason.TAKING, f"host {host} takes it"
