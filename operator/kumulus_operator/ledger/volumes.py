"""Decide on the growth of a volume (pure)."""

from __future__ import annotations

from kumulus_api.quantities import format_quantity
from kumulus_api.tenancy import Quota
from kumulus_api.volume import VolumeReason
from kumulus_operator.refusal import Refusal
from kumulus_operator.waiting import CAPACITY, quota


def volume_growth_excess(more: int, used: int, limits: Quota) -> str | None:
    """Say by what `more` bytes of a volume would exceed the quota, given the project's bytes, or None."""
    if limits.gigabytes is not None and used + more > limits.gigabytes * 2**30:
        return f"{format_quantity(used)} of {limits.gigabytes}Gi are in use, {format_quantity(more)} more is asked for"
    return None


def growth_over_quota(namespace: str, excess: str) -> Refusal:
    """Say that the quota does not allow it."""
    message = f"quota: {excess}; transient: grows when volumes are deleted or the quota is raised"
    return Refusal(VolumeReason.QUOTA_EXCEEDED, message, frozenset({quota(namespace)}))


def growth_without_room(host: str, more: int) -> Refusal:
    """Say that the host has no room."""
    message = f"placement: host {host} lacks {format_quantity(more)} of disk; transient: grows when it has room"
    return Refusal(VolumeReason.HOST_FULL, message, frozenset({CAPACITY}))


def move_without_room(host: str, size: int) -> Refusal:
    """Say that the host where a volume would lie has no room for it."""
    message = f"placement: host {host} lacks {format_quantity(size)} of disk; transient: moves when it has room"
    return Refusal(VolumeReason.HOST_FULL, message, frozenset({CAPACITY}))
