"""What a Volume's status says, as a pure function of its file."""

from __future__ import annotations

from typing import Any

from kumulus_api import Volume
from kumulus_api.volume import VolumeReason
from kumulus_runtime.conditions import get_condition, set_condition

LEAST_STEP = 64 << 20
"""Bytes by which the usage must have changed to be worth a write of its own; or a twentieth of the size."""


def worth_telling(used: int, told: int | None, size: int) -> bool:
    """Say whether a usage differs enough from the one in the status, all in bytes."""
    return told is None or abs(used - told) >= max(LEAST_STEP, size // 20)


def volume_status(body: dict[str, Any], used: int | None, size: int) -> dict[str, Any] | None:
    """Give the status of a Volume of this host; None if it says so already.

    Args:
        body: the Volume, with its assignment.
        used: bytes that its file occupies; None if there is no file: the operator's word stands then.
        size: bytes that the guest sees.
    """
    volume = Volume.model_validate(body)
    if used is None or volume.spec.assignment is None:
        return None
    old = body.get("status") or {}
    conditions = [condition for condition in old.get("conditions") or [] if condition["type"] == "Ready"]
    holder = volume.spec.assignment.attached_to
    reason = VolumeReason.IN_USE if holder else VolumeReason.AVAILABLE
    message = f"held by server {holder}" if holder else f"lies on host {volume.spec.assignment.host}"
    told = get_condition(conditions, "Ready") or {}
    same = (told.get("status"), told.get("reason"), told.get("message")) == ("True", reason.value, message)
    if same and not worth_telling(used, old.get("usedBytes"), size):
        return None
    generation = volume.metadata.generation
    conditions = set_condition(conditions, "Ready", True, reason.value, message, generation)
    return {"conditions": conditions, "observedGeneration": generation, "usedBytes": used}
