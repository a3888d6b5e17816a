"""Plan a Volume's status (pure)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from kumulus_api import Volume
from kumulus_api.volume import VolumeReason
from kumulus_runtime.conditions import set_condition


def admitted_before(volume: Volume) -> bool:
    """Give whether an earlier operator counted the volume against the quota: it is bound, or says that it waits."""
    if volume.spec.assignment is not None:
        return True
    conditions = volume.status.conditions if volume.status is not None else []
    return any(item.type == "Ready" and item.reason != VolumeReason.QUOTA_EXCEEDED for item in conditions)


def volume_status(volume: Volume, excess: str | None, now: datetime) -> dict[str, Any] | None:
    """Give the conditions of a volume, or None if it has them already.

    Args:
        volume: as it is.
        excess: by what it would exceed the quota, or None if it is admitted; a bound volume always is.
        now: the present.
    """
    found = volume.status.dump().get("conditions", []) if volume.status is not None else []
    status, reason, message = _ready(volume, excess)
    conditions = set_condition(found, "Ready", status, reason, message, volume.metadata.generation, now)
    return None if conditions == found else {"conditions": conditions}


def _ready(volume: Volume, excess: str | None) -> tuple[bool, VolumeReason, str]:
    place = volume.spec.assignment
    if place is not None and place.attached_to is not None:
        return True, VolumeReason.IN_USE, f"is attached to server {place.attached_to} on host {place.host}"
    if place is not None:
        return True, VolumeReason.AVAILABLE, f"is kept on host {place.host}: the next server that uses it runs there"
    if excess is not None:
        message = f"quota: {excess}; transient: admitted when volumes are deleted or the quota is raised"
        return False, VolumeReason.QUOTA_EXCEEDED, message
    return False, VolumeReason.WAITING_FOR_FIRST_SERVER, "is made on the host of the first server that uses it"
