"""What a VolumeBackup asks of this host, and what it says (pure)."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto
from typing import Any, Final

from kumulus_api import FINALIZER, VolumeBackup
from kumulus_api.volume_backup import POLICY_LABEL, RUN_LABEL, BackupAssignment

Object = dict[str, Any]
STEP_PERCENT: Final = 10
"""Of a volume, between two writes of how far a backup is."""
_OURS: Final = (
    "size", "digest", "storedBytes", "chain", "parent", "rootDisk", "sealed", "consistency", "takenAt", "progress",
    "verified", "failed", "fault",
)  # fmt: skip


class Work(Enum):
    """What is to be done next."""

    NOTHING = auto()
    MAKE = auto()
    FIND = auto()
    """It is in the bucket, or is not."""
    VERIFY = auto()
    CLEAR = auto()
    """What was made here for it goes; the bucket keeps what it has."""
    REMOVE = auto()


def work_of(body: Object | None, host: str) -> Work:
    """Give what a host is to do with a backup.

    Args:
        body: the VolumeBackup, if there is one.
        host: which.
    """
    if body is None:
        return Work.NOTHING
    backup = VolumeBackup.model_validate(body)
    given, status = backup.spec.assignment, backup.status
    if given is None or given.host != host:
        return Work.NOTHING
    if backup.deleting:
        return (
            (Work.REMOVE if given.remove else Work.CLEAR) if FINALIZER in backup.metadata.finalizers else Work.NOTHING
        )
    if status is not None and status.digest is not None:
        done = status.verified.request if status.verified is not None else None
        return Work.VERIFY if backup.spec.verify not in (None, done) else Work.CLEAR
    if status is not None and status.failed:
        return Work.CLEAR
    return Work.MAKE if backup.spec.source.existing is None else Work.FIND


def head_of(backup: VolumeBackup) -> dict[str, Any]:
    """Give what a backup says of itself in the bucket, as far as it is known before it is made."""
    given = backup.spec.assignment
    assert given is not None  # noqa: S101 - it is ours
    return {
        "backup_id": given.backup_id,
        "chain": given.chain or given.backup_id,
        "parent": given.parent or "",
        "volume_id": given.volume_id or "",
        "name": backup.metadata.name,
        "root_disk": given.root_disk.dump() if given.root_disk is not None else None,
    }


def mates_of(backup: VolumeBackup, bodies: Iterable[Object], host: str) -> dict[str, BackupAssignment]:
    """Give the backups, by their ids, that are to be of the same moment as one is.

    They are those of one run of a policy, which are made here and have not ended.
    """
    run = _run(backup)
    if run is None:
        return {}
    found = {}
    for body in bodies:
        other = VolumeBackup.model_validate(body)
        given = other.spec.assignment
        if other.key == backup.key or _run(other) != run or given is None:
            continue
        if given.snapshot_id is None and work_of(body, host) is Work.MAKE:
            found[given.backup_id] = given
    return found


def _run(backup: VolumeBackup) -> tuple[str, str, str] | None:
    labels = backup.metadata.labels or {}
    if POLICY_LABEL not in labels or RUN_LABEL not in labels:
        return None
    return backup.key[0], labels[POLICY_LABEL], labels[RUN_LABEL]


def status_of(body: Object, **changes: Any) -> Object | None:
    """Give the agent's part of a status with changes, of which None takes a field away; None if it says so already."""
    told = {name: value for name, value in (body.get("status") or {}).items() if name in _OURS}
    wanted = {name: value for name, value in (told | changes).items() if value is not None}
    return None if wanted == told else wanted


def shown_progress(done: int, total: int, told: Object | None) -> Object | None:
    """Give how far a piece of work is, if that is worth a write; else what was told."""
    last = told["doneBytes"] if told is not None and told["totalBytes"] == total else 0
    if told is not None and 0 <= done - last < total * STEP_PERCENT // 100:
        return told
    return {"doneBytes": done, "totalBytes": total}
