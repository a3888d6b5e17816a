"""Take in volume classes and snapshots, and what a change of a volume means to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kumulus_api import Host, Volume, VolumeClass, VolumeSnapshot, VolumeTransfer
from kumulus_operator.views import Key
from kumulus_operator.volumes.sizes import given_size
from kumulus_operator.waiting import CAPACITY, any_of, quota

if TYPE_CHECKING:
    from kumulus_operator.cloud import Cloud


def counted_name(snapshot: VolumeSnapshot) -> Key:
    """Give the key by which a snapshot is counted beside images of servers, which are snapshots too."""
    return snapshot.key[0], f"volume/{snapshot.key[1]}"


def class_seen(cloud: Cloud, former: VolumeClass | None, new: VolumeClass | None) -> None:
    """Have what waits for a class looked at."""
    name = (new or former).metadata.name  # type: ignore[union-attr]
    cloud.ledger.shares.class_seen(name, new)
    if former is None or new is None or former.spec != new.spec:
        cloud.queues.volume_classes.add(("", name))
        for host in cloud.hosts:
            cloud.ledger.host_seen(cloud.facts_of(host))
        cloud.wake(any_of("VolumeClass", ""), CAPACITY)
    if former is not None and new is not None and _limits(former) != _limits(new):
        for volume in cloud.volumes:
            place = volume.spec.assignment
            if place is not None and place.attached_to is not None and place.volume_class == new.metadata.name:
                cloud.queues.volumes.add(volume.key)


def _limits(item: VolumeClass) -> tuple[object, ...]:
    return item.spec.qos, item.spec.qos_per_volume


def shares_seen(cloud: Cloud, name: str, host: Host | None) -> None:
    """Take in what a host tells of the shares of classes, or that it is gone."""
    for volume_class in cloud.ledger.shares.host_seen(name, host):
        cloud.class_usage_changed(volume_class)
        cloud.wake(("VolumeClass", "", volume_class))


def snapshot_seen(cloud: Cloud, former: VolumeSnapshot | None, new: VolumeSnapshot | None) -> None:
    """Take a snapshot in."""
    item = new or former
    if item is None:
        return
    cloud.queues.volume_snapshots.add(item.key)
    if new is None:
        cloud.counted_snapshots.withdraw(counted_name(item))
        cloud.ledger.snapshots.withdraw(item.key)
        cloud.wake(quota(item.key[0]))
    elif new.spec.assignment is not None:
        cloud.counted_snapshots.admit(counted_name(item), admitted=True)
        cloud.ledger.snapshots.measure(item.key, snapshot_bytes(cloud, new))
    if former is None or new is None or _taken(former) != _taken(new):
        cloud.queues.volumes.add((item.key[0], item.spec.volume.name))
        cloud.wake(("VolumeSnapshot", *item.key), ("Volume", item.key[0], item.spec.volume.name))


def transfer_seen(cloud: Cloud, former: VolumeTransfer | None, new: VolumeTransfer | None) -> None:
    """Have an offer looked at, and who waits for it or for its end."""
    item = new or former
    if item is None:
        return
    cloud.queues.volume_transfers.add(item.key)
    if former is None or new is None or _stands(former) != _stands(new):
        cloud.wake(("VolumeTransfer", *item.key), ("Volume", item.key[0], item.spec.volume.name))


def snapshot_bytes(cloud: Cloud, snapshot: VolumeSnapshot) -> int:
    """Give the bytes of a snapshot, or of its volume while it is not taken; 0 if neither is known yet."""
    status, volume = snapshot.status, cloud.volumes.get(snapshot.key[0], snapshot.spec.volume.name)
    if status is not None and status.restore_size is not None:
        return status.restore_size
    return given_size(volume) if volume is not None else 0


def volume_moved(cloud: Cloud, former: Volume | None, new: Volume) -> None:
    """Have snapshots follow their volume, and what waits for it looked at when it is made."""
    source = new.spec.source.transfer if new.spec.source is not None else None
    if source is not None:
        cloud.queues.volume_transfers.add((source.namespace, source.name))
    for offer in cloud.volume_transfers.in_namespace(new.key[0]):
        if offer.spec.volume.name == new.key[1]:
            cloud.queues.volume_transfers.add(offer.key)
    if former is None or former.spec.assignment != new.spec.assignment or _made(former) != _made(new):
        for snapshot in snapshots_of(cloud, new.key):
            cloud.queues.volume_snapshots.add(snapshot.key)
    if former is not None and _told(former) != _told(new):
        cloud.wake(("Volume", *new.key), any_of("VolumeClass", ""))
        place = new.spec.assignment
        if place is not None and (place.exported_to or place.multi_attach or place.left):
            # Their hosts are told of the size, and of the class, by what the servers were given.
            for server in place.holders:
                cloud.queues.servers.add((new.key[0], server))


def snapshots_of(cloud: Cloud, volume: Key) -> list[VolumeSnapshot]:
    """Give the snapshots of a volume."""
    return [item for item in cloud.volume_snapshots.in_namespace(volume[0]) if item.spec.volume.name == volume[1]]


def _stands(transfer: VolumeTransfer) -> tuple[object, ...]:
    conditions = transfer.status.conditions if transfer.status is not None else []
    return transfer.spec, transfer.deleting, [item.reason for item in conditions]


def travels(cloud: Cloud, volume: Volume) -> bool:
    """Give whether a server that has a volume migrates."""
    place = volume.spec.assignment
    holders = (cloud.servers.get(volume.key[0], name) for name in (place.holders if place is not None else ()))
    given = (holder.spec.assignment for holder in holders if holder is not None)
    return any(item is not None and item.target is not None for item in given)


def _told(volume: Volume) -> tuple[object, ...]:
    status, place = volume.status, volume.spec.assignment
    moves = (place.moving, place.left) if place is not None else ()
    return (*moves, *((status.size_bytes, status.reverted, status.moved, status.cleared) if status is not None else ()))


def _made(volume: Volume) -> bool:
    return volume.status is not None and volume.status.size_bytes is not None


def _taken(snapshot: VolumeSnapshot) -> tuple[bool, bool]:
    return snapshot.deleting, snapshot.status is not None and snapshot.status.restore_size is not None
