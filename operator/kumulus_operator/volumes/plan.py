"""Plan a Volume's status while no host has it (pure)."""

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


def unbound_status(volume: Volume, excess: str | None, now: datetime) -> dict[str, Any] | None:
    """Give the status of a volume that is not bound to a host, or None if it says so already.

    Args:
        volume: as it is.
        excess: by what it would exceed the quota, or None if it is admitted.
        now: the present.
    """
    found = volume.status.dump() if volume.status is not None else {}
    if excess is not None:
        reason = VolumeReason.QUOTA_EXCEEDED
        message = f"quota: {excess}; transient: admitted when volumes are deleted or the quota is raised"
    else:
        reason = VolumeReason.WAITING_FOR_FIRST_SERVER
        message = "is made on the host of the first server that uses it"
    generation = volume.metadata.generation
    conditions = set_condition(found.get("conditions", []), "Ready", False, reason, message, generation, now)
    wanted = {"conditions": conditions}
    return None if wanted["conditions"] == found.get("conditions", []) else wanted
