"""Reconcile a VolumeSnapshot: quota, the host that takes it, deletion."""

from __future__ import annotations

from datetime import UTC, datetime

from kumulus_api import FINALIZER, Server, VolumeSnapshot
from kumulus_api.volume_snapshot import SnapshotReason
from kumulus_operator.bodies import MANAGER, identity
from kumulus_operator.cloud import Cloud
from kumulus_operator.refusal import Refusal
from kumulus_operator.views import Key
from kumulus_operator.volume_snapshots.plan import place_of, snapshot_status
from kumulus_operator.volumes.intake import counted_name, snapshot_bytes
from kumulus_operator.waiting import Need, quota

_MOVED_BY_THEN = 5.0
"""Seconds after which a server is looked at again that migrates: its end changes neither volume nor snapshot."""


class VolumeSnapshotController:
    """Admits snapshots, names their hosts, lets go those that no host has.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    async def reconcile(self, key: Key) -> float | None:
        """Bring one snapshot to its desired state."""
        cloud = self._cloud
        cloud.volume_snapshot_waiters.forget(key)
        snapshot = cloud.volume_snapshots.get(*key)
        if snapshot is None:
            return None
        if snapshot.deleting and await self._let_go(snapshot):
            return None
        needs: set[Need] = set()
        excess = refusal = None
        volume = cloud.volumes.get(key[0], snapshot.spec.volume.name)
        wanted = place_of(snapshot, volume, self._holder(snapshot))
        if snapshot.deleting and (snapshot.spec.assignment is None or isinstance(wanted, Refusal)):
            return None
        if isinstance(wanted, Refusal):
            refusal, wanted = wanted, None
            needs |= refusal.needs
        if wanted is not None:
            excess = self._excess(snapshot)
            if excess is None:
                body = identity(snapshot) | {"spec": {"assignment": wanted.dump()}}
                body["metadata"]["resourceVersion"] = snapshot.metadata.resource_version
                written = await cloud.client.apply(VolumeSnapshot, body, manager=MANAGER)
                cloud.take(VolumeSnapshot, written)
                snapshot = VolumeSnapshot.model_validate(written)
            else:
                needs.add(quota(key[0]))
        if needs:
            cloud.volume_snapshot_waiters.wait(key, needs)
        status = snapshot_status(snapshot, excess, refusal, datetime.now(UTC))
        if status is not None:
            await cloud.write_status(snapshot, status)
        return _MOVED_BY_THEN if refusal is not None and refusal.reason == SnapshotReason.MIGRATING else None

    def _excess(self, snapshot: VolumeSnapshot) -> str | None:
        """Count a snapshot and its bytes, or say by what it would exceed the quota."""
        cloud, name = self._cloud, counted_name(snapshot)
        excess = cloud.counted_snapshots.admit(name, admitted=snapshot.spec.assignment is not None)
        if excess is None and snapshot.spec.assignment is None:
            used = cloud.ledger.stored(snapshot.key[0])
            excess = cloud.ledger.snapshots.admit(snapshot.key, snapshot_bytes(cloud, snapshot), used)
            if excess is not None:
                cloud.counted_snapshots.withdraw(name)
        return excess

    def _holder(self, snapshot: VolumeSnapshot) -> Server | None:
        volume = self._cloud.volumes.get(snapshot.key[0], snapshot.spec.volume.name)
        place = volume.spec.assignment if volume is not None else None
        if place is None or place.attached_to is None:
            return None
        return self._cloud.servers.get(snapshot.key[0], place.attached_to)

    async def _let_go(self, snapshot: VolumeSnapshot) -> bool:
        """Remove the finalizer of a snapshot that no host has, or whose host never returns; give whether it was so."""
        cloud = self._cloud
        live = await cloud.client.get(VolumeSnapshot, snapshot.metadata.name, snapshot.metadata.namespace)
        if live is None or live["metadata"]["uid"] != snapshot.metadata.uid:
            return True
        current = VolumeSnapshot.model_validate(live)
        given = current.spec.assignment
        host = cloud.hosts.get("", given.host) if given is not None else None
        if given is not None and given.folder is not None:
            return False  # Any host removes it; it follows its volume.
        if not current.deleting or (given is not None and (host is None or not host.spec.decommissioned)):
            return False
        await cloud.let_go(current, FINALIZER)
        return True
