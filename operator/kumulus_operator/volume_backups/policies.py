"""Reconcile a BackupPolicy: its runs, what goes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from kumulus_api import BackupPolicy, VolumeBackup
from kumulus_operator.cloud import Cloud
from kumulus_operator.views import Key
from kumulus_operator.volume_backups.policy_plan import (
    InvalidSchedule,
    Times,
    backup_for,
    backups_of,
    going_on,
    labels_of,
    outdated,
    policy_conditions,
    text_of,
    times_of,
)
from kumulus_operator.volume_backups.selection import Source, selected
from kumulus_runtime.errors import AlreadyExists

_LONGEST = 86400.0
_SOONEST = 1.0


class BackupPolicyController:
    """Makes backups by their schedules, and deletes those that are old.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    async def reconcile(self, key: Key) -> float | None:
        """Bring one policy to its desired state; look again when it runs the next time."""
        cloud, now = self._cloud, datetime.now(UTC)
        policy = cloud.backup_policies.get(*key)
        if policy is None or policy.deleting:
            return None
        sources = selected(policy, cloud.volumes.in_namespace(key[0]), cloud.servers.in_namespace(key[0]))
        made, status, fault, times = self._made(policy), _told(policy), "", None
        try:
            times = times_of(policy, now)
        except InvalidSchedule as error:
            fault = str(error)
        if times is not None:
            status |= await self._run(policy, times, sources, made)
            status["nextRun"] = text_of(times.next)
        if policy.spec.suspend or fault:
            status.pop("nextRun", None)
        for item in outdated(policy, self._made(policy), now):
            await cloud.client.delete(VolumeBackup, item.metadata.name, key[0])
        status["conditions"] = policy_conditions(policy, self._made(policy), fault, not sources, now)
        if status != (_told(policy) | {"conditions": _conditions(policy)}):
            await cloud.write_status(policy, status)
        if times is None or policy.spec.suspend:
            return _LONGEST  # what is old goes
        return min(max((times.next - datetime.now(UTC)).total_seconds(), _SOONEST), _LONGEST)

    async def _run(
        self, policy: BackupPolicy, times: Times, sources: list[Source], made: list[VolumeBackup]
    ) -> dict[str, Any]:
        """Begin the run that is due, unless one goes on; give what the status says of it."""
        if times.due is None or policy.spec.suspend:
            return {}
        if times.late:
            return {"lastRun": text_of(times.due)}
        stamp = labels_of(policy, times.due)
        if going_on([item for item in made if (item.metadata.labels or {}).items() & stamp.items() != stamp.items()]):
            return {}  # The last of them wakes us.
        for source in sources:
            body = backup_for(policy, source, times.due, made)
            try:
                written = await self._cloud.client.create(VolumeBackup, body)
            except AlreadyExists:
                continue  # by an attempt before that did not come to its end
            self._cloud.take(VolumeBackup, written)
        disks = sum(source.field == "server" for source in sources)
        return {"lastRun": text_of(times.due), "volumes": len(sources) - disks, "rootDisks": disks}

    def _made(self, policy: BackupPolicy) -> list[VolumeBackup]:
        return backups_of(policy, self._cloud.volume_backups.in_namespace(policy.key[0]))


def _told(policy: BackupPolicy) -> dict[str, Any]:
    status = policy.status.dump() if policy.status is not None else {}
    return {name: status[name] for name in ("lastRun", "nextRun", "volumes", "rootDisks") if name in status}


def _conditions(policy: BackupPolicy) -> list[dict[str, Any]]:
    conditions: list[dict[str, Any]] = policy.status.dump().get("conditions", []) if policy.status is not None else []
    return conditions
