"""Reconcile a VolumeBackup: quota, parent, the host that works on it, removal."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from weakref import WeakValueDictionary

from kumulus_api import FINALIZER, VolumeBackup
from kumulus_operator.bodies import MANAGER, identity
from kumulus_operator.cloud import Cloud
from kumulus_operator.refusal import Refusal
from kumulus_operator.views import Key
from kumulus_operator.volume_backups.plan import World, backup_status, has_ended, plan
from kumulus_operator.volume_backups.root_disks import root_disk_size
from kumulus_operator.waiting import Need, quota

_LOOK_AGAIN = 30.0
"""Seconds after which it is asked whether the host still speaks that works on a backup."""


class VolumeBackupController:
    """Admits backups, names their hosts, says when their objects may go.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._deciding: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def reconcile(self, key: Key) -> float | None:
        """Bring one backup to its desired state; of one project's one after the other, see `plan`."""
        async with self._deciding.setdefault(key[0], asyncio.Lock()):
            return await self._reconcile(key)

    async def _reconcile(self, key: Key) -> float | None:
        cloud = self._cloud
        cloud.volume_backup_waiters.forget(key)
        backup = cloud.volume_backups.get(*key)
        if backup is None:
            return None
        if backup.deleting and backup.spec.assignment is None:
            await cloud.let_go(backup, FINALIZER)
            return None
        needs: set[Need] = set()
        excess = refusal = None
        world = self._world(backup)
        wanted = plan(backup, world)
        if isinstance(wanted, Refusal):
            refusal, wanted = wanted, None
            needs |= refusal.needs
        if wanted is not None:
            bound = backup.spec.assignment is not None
            excess = None if bound else cloud.backup_book.admit(key, _size(world))
            if excess is None:
                body = identity(backup) | {"spec": {"assignment": wanted.dump()}}
                body["metadata"]["resourceVersion"] = backup.metadata.resource_version
                written = await cloud.client.apply(VolumeBackup, body, manager=MANAGER)
                cloud.take(VolumeBackup, written)
                backup = VolumeBackup.model_validate(written)
            else:
                needs.add(quota(key[0]))
        if needs:
            cloud.volume_backup_waiters.wait(key, needs)
        status = backup_status(backup, excess, refusal, world, datetime.now(UTC))
        if status is not None:
            await cloud.write_status(backup, status)
        return _LOOK_AGAIN if backup.deleting or not has_ended(backup) else None

    def _world(self, backup: VolumeBackup) -> World:
        cloud, namespace, source = self._cloud, backup.key[0], backup.spec.source
        snapshot = (
            cloud.volume_snapshots.get(namespace, source.volume_snapshot.name) if source.volume_snapshot else None
        )
        name = source.volume.name if source.volume is not None else ""
        if snapshot is not None:
            name = snapshot.spec.volume.name
        volume = cloud.volumes.get(namespace, name) if name else None
        place = volume.spec.assignment if volume is not None else None
        holder = cloud.servers.get(namespace, place.attached_to) if place is not None and place.attached_to else None
        facts, given = cloud.host_facts(), backup.spec.assignment
        return World(
            volume=volume,
            snapshot=snapshot,
            server=cloud.servers.get(namespace, source.server.name) if source.server is not None else None,
            holder=holder,
            others=[item for item in cloud.volume_backups.in_namespace(namespace) if item.key != backup.key],
            volumes=cloud.volumes.in_namespace(namespace),
            able=[host.name for host in facts if host.ready and host.fresh and not host.decommissioned],
            lost=[given.host] if given is not None and cloud.host_lost(given.host) else [],
        )


def _size(world: World) -> int:
    if world.server is not None:
        return root_disk_size(world.server)
    if world.snapshot is not None and world.snapshot.status is not None:
        return world.snapshot.status.restore_size or 0
    status = world.volume.status if world.volume is not None else None
    return (status.size_bytes if status is not None else None) or 0
