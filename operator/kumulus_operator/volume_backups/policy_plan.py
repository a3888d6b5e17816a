"""Plan the runs of a BackupPolicy and which of its backups go (pure)."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from kumulus_api import API_VERSION, BackupPolicy, VolumeBackup
from kumulus_api.backup_policy import BackupPolicyReason
from kumulus_api.volume_backup import POLICY_LABEL, RUN_LABEL
from kumulus_operator.bodies import counted
from kumulus_operator.volume_backups.plan import has_ended, is_whole, source_id
from kumulus_operator.volume_backups.selection import Source, named_by
from kumulus_runtime.conditions import set_condition

_STAMP = "%Y%m%dT%H%MZ"
_LONGEST_NAME = 63
_HOPELESS = (
    "VolumeNotFound", "VolumeEncrypted", "HostLost", "QuotaExceeded", "ServerNotFound", "BootsFromVolume",
    "NoEarlierBackup",
)  # fmt: skip


class InvalidSchedule(Exception):
    """The schedule or its time zone cannot be read, or never comes."""


@dataclass(frozen=True)
class Times:
    """When a policy runs.

    Attributes:
        due: the newest moment of the schedule that has come since the last one, or None.
        late: it came so long ago that it is left out.
        next: the first that will come.
    """

    due: datetime | None
    late: bool
    next: datetime


def times_of(policy: BackupPolicy, now: datetime) -> Times:
    """Give when a policy runs: of several moments that were missed the newest counts for all.

    Raises:
        InvalidSchedule: nobody knows.
    """
    spec, status = policy.spec, policy.status
    known = (status.last_run if status is not None else None) or policy.metadata.creation_timestamp
    since = datetime.fromisoformat(known) if known else now
    try:
        local = now.astimezone(ZoneInfo(spec.time_zone))
        # The simulation gives moments that are later, or earlier, than the one it begins with.
        newest = next(CronSim(spec.schedule, local + timedelta(minutes=1), reverse=True), None)
        while newest is not None and newest > now:
            newest = next(CronSim(spec.schedule, newest, reverse=True), None)
        coming = next(CronSim(spec.schedule, local), None)
    except (CronSimError, StopIteration, KeyError, ValueError, OSError) as error:
        raise InvalidSchedule(f"schedule {spec.schedule!r} in {spec.time_zone}: {error}") from error
    if coming is None:
        raise InvalidSchedule(f"schedule {spec.schedule!r} in {spec.time_zone}: it never comes")
    due = newest.astimezone(UTC) if newest is not None and newest > since else None
    deadline = spec.starting_deadline_seconds
    late = due is not None and deadline is not None and (now - due).total_seconds() > deadline
    return Times(due, late, coming.astimezone(UTC))


def backups_of(policy: BackupPolicy, backups: Iterable[VolumeBackup]) -> list[VolumeBackup]:
    """Give the backups that a policy has made, oldest run first."""
    name = policy.metadata.name
    return sorted((item for item in backups if (item.metadata.labels or {}).get(POLICY_LABEL) == name), key=_run)


def _run(backup: VolumeBackup) -> tuple[str, str]:
    return (backup.metadata.labels or {}).get(RUN_LABEL, ""), backup.metadata.name


def going_on(made: Iterable[VolumeBackup]) -> list[str]:
    """Give the names of those that are not made yet; what cannot begin holds nothing up."""
    return [item.metadata.name for item in made if not item.deleting and not has_ended(item) and not _hopeless(item)]


def _hopeless(backup: VolumeBackup) -> bool:
    conditions = backup.status.conditions if backup.status is not None else []
    return any(item.reason in _HOPELESS for item in conditions)


def backup_for(policy: BackupPolicy, source: Source, run: datetime, made: Collection[VolumeBackup]) -> dict[str, Any]:
    """Give the backup of a volume or root disk for a run, by a name that is the same whenever it is asked for.

    Args:
        policy: which.
        source: of what.
        run: the moment of the schedule.
        made: what the policy has made; see `backups_of`.
    """
    whole = [item for item in made if source_id(item) == source.id and is_whole(item) and not item.deleting]
    full = next((at for at, item in enumerate(reversed(whole)) if not item.spec.incremental), None)
    incremental = policy.spec.incremental and full is not None and full + 1 < policy.spec.full_every
    stamp = run.astimezone(UTC).strftime(_STAMP)
    return {
        "apiVersion": API_VERSION,
        "kind": "VolumeBackup",
        "metadata": {
            "name": _name(policy.metadata.name, source, stamp.lower()),
            "namespace": policy.key[0],
            "labels": labels_of(policy, run),
        },
        "spec": {"source": source.spec, "incremental": incremental},
    }


def labels_of(policy: BackupPolicy, run: datetime) -> dict[str, str]:
    """Give the labels of a run's backups."""
    return {POLICY_LABEL: policy.metadata.name, RUN_LABEL: run.astimezone(UTC).strftime(_STAMP)}


def _name(policy: str, source: Source, stamp: str) -> str:
    name = f"{policy}-{source.word}-{stamp}"
    if len(name) <= _LONGEST_NAME and not source.ambiguous:
        return name
    mark = hashlib.sha256(f"{policy}/{source.field}/{source.name}".encode()).hexdigest()[:10]
    return f"{name[: _LONGEST_NAME - len(stamp) - len(mark) - 2].rstrip('-.')}-{mark}-{stamp}"


def outdated(policy: BackupPolicy, made: Iterable[VolumeBackup], now: datetime) -> list[VolumeBackup]:
    """Give the backups of a policy that go: of each volume and disk the newest whole one stays, and what is kept."""
    limits = policy.spec.retention
    if limits is None or (limits.count is None and limits.days is None):
        return []
    of_each: dict[tuple[str, str], list[VolumeBackup]] = {}
    for item in made:
        of_each.setdefault(named_by(item), []).append(item)
    gone: list[VolumeBackup] = []
    for items in of_each.values():
        whole = [item for item in reversed(items) if is_whole(item) and not item.deleting]
        kept = {item.metadata.name for item in whole[: max(1, limits.count or 0)]}
        if limits.days is not None:
            oldest = now - timedelta(days=limits.days)
            kept |= {item.metadata.name for item in whole if _moment(item) > oldest}
        gone += [item for item in whole if item.metadata.name not in kept]
        # What could not be made says so until one is made after it.
        newest = _run(whole[0]) if whole else None
        ended = (item for item in items if not is_whole(item) and not item.deleting and not going_on([item]))
        gone += [item for item in ended if newest is not None and _run(item) < newest]
    return gone


def _moment(backup: VolumeBackup) -> datetime:
    stamp = (backup.metadata.labels or {}).get(RUN_LABEL, "")
    try:
        return datetime.strptime(stamp, _STAMP).replace(tzinfo=UTC)
    except ValueError:
        return datetime.max.replace(tzinfo=UTC)  # somebody has changed its label: it stays


def text_of(moment: datetime) -> str:
    """Give a moment as it stands in a status."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def policy_conditions(
    policy: BackupPolicy, made: Collection[VolumeBackup], fault: str, none: bool, now: datetime
) -> list[dict[str, Any]]:
    """Give the conditions of a policy.

    Args:
        policy: as it is.
        made: what it has made.
        fault: what is wrong with its schedule, or empty.
        none: it selects nothing.
        now: the present.
    """
    found = policy.status.dump().get("conditions", []) if policy.status is not None else []
    ready, reason, message = _ready(policy, made, fault, none)
    conditions: list[dict[str, Any]] = set_condition(
        found, "Ready", ready, reason, message, policy.metadata.generation, now
    )
    return conditions


def _ready(policy: BackupPolicy, made: Collection[VolumeBackup], fault: str, none: bool) -> tuple[bool, str, str]:
    if fault:
        return False, BackupPolicyReason.INVALID_SCHEDULE, f"{fault}; permanent: correct spec.schedule or spec.timeZone"
    if policy.spec.suspend:
        return True, BackupPolicyReason.SUSPENDED, "no run begins while spec.suspend is true"
    running = going_on(made)
    if running:
        return True, BackupPolicyReason.RUNNING, f"{counted('backup', running)} being made"
    newest = max((_run(item)[0] for item in made), default="")
    failed = [item.metadata.name for item in made if _run(item)[0] == newest and not is_whole(item)]
    if failed:
        message = f"{counted('backup', failed)} of the last run failed; their conditions say why"
        return False, BackupPolicyReason.BACKUPS_FAILED, message
    if none:
        message = "nothing with data has the labels; transient: a run backs up what has them then"
        return True, BackupPolicyReason.NOTHING_SELECTED, message
    return True, BackupPolicyReason.SCHEDULED, "runs by its schedule"
