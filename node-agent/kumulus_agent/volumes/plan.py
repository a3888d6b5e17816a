"""What a Volume's status says, as a pure function of its file."""

from __future__ import annotations

from typing import Any

LEAST_STEP = 64 << 20
"""Bytes by which the usage must have changed to be worth a write of its own; or a twentieth of the size."""


def worth_telling(used: int, told: int | None, size: int) -> bool:
    """Say whether a usage differs enough from the one in the status, all in bytes."""
    return told is None or abs(used - told) >= max(LEAST_STEP, size // 20)


def volume_status(body: dict[str, Any], used: int | None, size: int) -> dict[str, Any] | None:
    """Give what the agent knows of a Volume of this host; None if its status says so already.

    Who holds it and whether it is Ready is the operator's word.

    Args:
        body: the Volume, with its assignment.
        used: bytes that its file occupies; None if there is no file.
        size: bytes that the guest sees.
    """
    told = (body.get("status") or {}).get("usedBytes")
    if used is None or not worth_telling(used, told, size):
        return None
    return {"usedBytes": used}
