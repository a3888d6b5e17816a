"""Take in backups and their policies, and what a change means to others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kumulus_api import BackupPolicy, Server, VolumeBackup
from kumulus_api.volume_backup import POLICY_LABEL
from kumulus_operator.volume_backups.plan import has_ended, is_whole
from kumulus_operator.volume_backups.root_disks import has_root_disk, root_disk_size
from kumulus_operator.waiting import any_of, quota

if TYPE_CHECKING:
    from kumulus_operator.cloud import Cloud


def backup_seen(cloud: Cloud, former: VolumeBackup | None, new: VolumeBackup | None) -> None:
    """Take a backup in."""
    item = new or former
    if item is None:
        return
    namespace = item.key[0]
    cloud.queues.volume_backups.add(item.key)
    if new is None:
        cloud.backup_book.withdraw(item.key)
        cloud.wake(quota(namespace))
    elif new.status is not None and new.status.size is not None:
        cloud.backup_book.measure(item.key, new.status.size)
    elif new.spec.assignment is not None and item.key not in cloud.backup_book:
        cloud.backup_book.measure(item.key, _size_of_source(cloud, new))
    if _means(former) != _means(new):
        # Others of its chain may wait for it, and volumes that are made of it.
        cloud.wake(any_of("VolumeBackup", namespace), ("VolumeBackup", *item.key))
        if item.spec.source.volume is not None:
            cloud.wake(("Volume", namespace, item.spec.source.volume.name))
        policy = (item.metadata.labels or {}).get(POLICY_LABEL)
        if policy is not None:
            cloud.queues.backup_policies.add((namespace, policy))


def policy_seen(cloud: Cloud, former: BackupPolicy | None, new: BackupPolicy | None) -> None:
    """Take a policy in."""
    if new is not None and (former is None or former.spec != new.spec):
        cloud.queues.backup_policies.add(new.key)


def _means(backup: VolumeBackup | None) -> tuple[object, ...] | None:
    if backup is None:
        return None
    given = backup.spec.assignment
    return backup.metadata.uid, backup.deleting, given, is_whole(backup), has_ended(backup)


def root_disk_seen(cloud: Cloud, former: Server | None, new: Server) -> None:
    """Take in what a server means to backups of its root disk that wait for it."""
    if former is None or _root_disk(former) != _root_disk(new):
        cloud.wake(("Server", *new.key))


def _root_disk(server: Server) -> tuple[object, ...]:
    given = server.spec.assignment
    return has_root_disk(server), server.deleting, (given.host, given.target) if given is not None else None


def _size_of_source(cloud: Cloud, backup: VolumeBackup) -> int:
    if backup.spec.source.server is not None:
        return root_disk_size(cloud.servers.get(backup.key[0], backup.spec.source.server.name))
    name = backup.spec.source.volume.name if backup.spec.source.volume is not None else ""
    volume = cloud.volumes.get(backup.key[0], name)
    return (volume.status.size_bytes if volume is not None and volume.status is not None else None) or 0
