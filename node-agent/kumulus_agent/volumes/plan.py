"""What Volumes and their snapshots say, as pure functions of their files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kumulus_agent.volumes.drivers.protocol import Found
from kumulus_api.volume_snapshot import Consistency

LEAST_STEP = 64 << 20
"""Bytes by which the usage must have changed to be worth a write of its own; or a twentieth of the size."""
_LONGEST = 1024


Export = tuple[int, frozenset[str]]


@dataclass(frozen=True, slots=True)
class Fault:
    """Why something is not done: a reason in CamelCase, and a sentence."""

    reason: str
    message: str

    def dump(self) -> dict[str, str]:
        """Give it as it stands in a status."""
        return {"reason": self.reason, "message": self.message}


@dataclass(frozen=True, slots=True)
class Word:
    """What there is to say of a snapshot: that it is taken, or why not."""

    restore_size: int | None = None
    consistency: Consistency | None = None
    fault: Fault | None = None


def fault_of(error: Exception) -> Fault:
    """Give an error as a status tells it."""
    return Fault(str(getattr(error, "reason", "")) or "StorageFailed", str(error)[:_LONGEST])


def worth_telling(used: int, told: int | None, size: int) -> bool:
    """Say whether a usage differs enough from the one in the status, all in bytes."""
    return told is None or abs(used - told) >= max(LEAST_STEP, size // 20)


def volume_status(
    body: dict[str, Any],
    found: Found | None,
    fault: Fault | None = None,
    *,
    export: Export | None = None,
    moved: Mapping[str, str] | None = None,
    moving: tuple[str, int] | None = None,
) -> dict[str, Any] | None:
    """Give what the agent knows of a Volume of this host; None if its status says so already.

    Who holds it and whether it is Ready is the operator's word.

    Args:
        body: the Volume, with its assignment.
        found: its files; None if there are none.
        fault: why something that was asked is not done.
        moved: requests of moves by `moved` and `cleared`.
        moving: request and percent of the move whose copy is being made; None if none is.
        export: the port at which it is exported, and to whom; None if it is not.
    """
    told = {name: value for name, value in (body.get("status") or {}).items() if name in _OURS}
    wanted = {name: value for name, value in told.items() if name not in _PASSING} | dict(moved or {})
    if moving is not None:
        wanted["moving"] = _progress(told.get("moving"), *moving)
    if export is not None:
        wanted["export"] = {"port": export[0], "hosts": sorted(export[1])}
    if found is not None:
        wanted["sizeBytes"] = found.size
        if worth_telling(found.used, told.get("usedBytes"), found.size):
            wanted["usedBytes"] = found.used
        if found.reverted:
            wanted["reverted"] = found.reverted
    if fault is not None:
        wanted["fault"] = fault.dump()
    return None if wanted == told else wanted


def _progress(told: Mapping[str, Any] | None, request: str, percent: int) -> Mapping[str, Any]:
    """Give how far a copy is: as it was told if it is hardly further, since each word is a write."""
    if told is not None and told["request"] == request and 0 <= percent - told["progress"] < LEAST_PERCENT:
        return told
    return {"request": request, "progress": percent}


LEAST_PERCENT = 10
_PASSING = frozenset({"fault", "export", "moving"})
_OURS = frozenset({"usedBytes", "sizeBytes", "reverted", "moved", "cleared"}) | _PASSING


def snapshot_status(body: dict[str, Any], word: Word) -> dict[str, Any] | None:
    """Give what the agent knows of a VolumeSnapshot; None if its status says so already."""
    status = body.get("status") or {}
    told = {name: status[name] for name in ("restoreSize", "consistency", "fault") if name in status}
    wanted: dict[str, Any] = {name: value for name, value in told.items() if name != "fault"}
    if word.restore_size is not None:
        wanted["restoreSize"] = word.restore_size
    if word.consistency is not None:
        wanted["consistency"] = word.consistency.value
    if word.fault is not None:
        wanted["fault"] = word.fault.dump()
    return None if wanted == told else wanted
