"""Put a volume in its place: by the server that first uses it, or beside what it is a copy of."""

from __future__ import annotations

import uuid

from kumulus_api import Volume
from kumulus_api.quantities import parse_quantity
from kumulus_api.volume import AssignedRevert, VolumeAssignment, VolumeOrigin, VolumeReason, VolumeStatus
from kumulus_api.volume_class import DriverName
from kumulus_api.volume_encryption import AssignedEncryption
from kumulus_api.volume_limits import AssignedLimits
from kumulus_operator.bodies import MANAGER, identity
from kumulus_operator.cloud import Cloud
from kumulus_operator.images.of_volumes import image_to_come
from kumulus_operator.refusal import Refusal, Refused, refuse
from kumulus_operator.volumes.classes import assigned_image, check_size, class_of, is_copy
from kumulus_operator.volumes.holders import for_several, have
from kumulus_operator.volumes.intake import snapshots_of, travels
from kumulus_operator.volumes.keys import encryption_for, encryption_of_copy
from kumulus_operator.volumes.limits import limits_of
from kumulus_operator.volumes.restoring import restored_place
from kumulus_operator.volumes.sizes import given_size


def first_place(cloud: Cloud, volume: Volume, host: str) -> VolumeAssignment:
    """Give the place of a volume that a server on a host is the first to use.

    Raises:
        Refused: its class or its image is missing.
    """
    found = class_of(volume, cloud)
    shared = found is not None and found.spec.driver is DriverName.SHARED and found.spec.shared is not None
    image = assigned_image(volume, cloud)
    return VolumeAssignment(
        volume_id=str(uuid.uuid4()),
        host=host,
        volume_class=found.metadata.name if found is not None else None,
        folder=found.spec.shared.folder if shared and found is not None and found.spec.shared is not None else None,
        size=volume.spec.size,
        origin=VolumeOrigin(image=image) if image is not None else None,
        encryption=encryption_for(volume, found),
        limits=limits_of(found, parse_quantity(volume.spec.size), volume.spec.qos),
        multi_attach=for_several(found) or None,
    )


def copy_place(cloud: Cloud, volume: Volume) -> VolumeAssignment | None:
    """Give the place of a volume that is a copy of a snapshot or of another volume; None if it is of neither.

    Raises:
        Refused: what it is of is missing, not Ready, of another class, or larger.
    """
    source, namespace = volume.spec.source, volume.key[0]
    if source is None or source.image is not None or source.transfer is not None:
        return None
    volume_id = str(uuid.uuid4())
    if source.volume_backup is not None:
        return restored_place(cloud, volume)
    if source.snapshot is not None:
        name = source.snapshot.name
        snapshot = cloud.volume_snapshots.get(namespace, name)
        what, need = f"snapshot {name}", ("VolumeSnapshot", namespace, name)
        given = snapshot.spec.assignment if snapshot is not None and not snapshot.deleting else None
        size = snapshot.status.restore_size if snapshot is not None and snapshot.status is not None else None
        if snapshot is None or given is None or size is None:
            raise _not_ready(what, need, there=snapshot is not None)
        origin = VolumeOrigin(volume_id=given.volume_id, snapshot_id=given.snapshot_id)
        host, volume_class, folder = given.host, given.volume_class, given.folder
        place = _place_of(cloud.volumes.get(namespace, snapshot.spec.volume.name), given.volume_id)
    else:
        name = source.volume.name if source.volume is not None else ""
        other = cloud.volumes.get(namespace, name)
        what, need = f"volume {name}", ("Volume", namespace, name)
        place = other.spec.assignment if other is not None and not other.deleting else None
        size = other.status.size_bytes if other is not None and other.status is not None else None
        elsewhere = place is not None and (place.given_to is not None or place.moving is not None)
        if other is None or place is None or size is None or elsewhere or travels(cloud, other):
            raise _not_ready(what, need, there=other is not None)
        if place.multi_attach:
            message = f"{what} is for several servers, and is not copied; transient: goes on in another class"
            raise refuse(VolumeReason.MULTI_ATTACH, message, need)
        origin = VolumeOrigin(volume_id=place.volume_id, snapshot_id=volume_id, taken=True)
        host, volume_class, folder = place.host, place.volume_class, place.folder
    check_size(volume, size, what)
    if volume.spec.volume_class is not None and volume.spec.volume_class.name != volume_class:
        theirs = f"class {volume_class}" if volume_class else "no class"
        message = f"{what} is of {theirs}, where the copy lies too; permanent: leave spec.volumeClass out"
        raise refuse(VolumeReason.SOURCE_ELSEWHERE, message)
    return VolumeAssignment(
        volume_id=volume_id,
        host=host,
        volume_class=volume_class,
        folder=folder,
        size=volume.spec.size,
        origin=origin,
        encryption=encryption_of_copy(volume, place),
        limits=limits_of(
            cloud.volume_classes.get("", volume_class or ""), parse_quantity(volume.spec.size), volume.spec.qos
        ),
    )


def origin_encryption(cloud: Cloud, namespace: str, place: VolumeAssignment) -> AssignedEncryption | None:
    """Give how the volume is encrypted of which one is a copy, or of whose snapshot."""
    wanted = place.origin.volume_id if place.origin is not None else None
    there = (item.spec.assignment for item in cloud.volumes.in_namespace(namespace))
    return next((item.encryption for item in there if item is not None and item.volume_id == wanted), None)


def _place_of(volume: Volume | None, volume_id: str) -> VolumeAssignment | None:
    place = volume.spec.assignment if volume is not None else None
    return place if place is not None and place.volume_id == volume_id else None


def _not_ready(what: str, need: tuple[str, str, str], *, there: bool) -> Exception:
    if there:
        return refuse(VolumeReason.SOURCE_NOT_READY, f"{what} is not Ready; transient: goes on when it is", need)
    return refuse(VolumeReason.SOURCE_NOT_FOUND, f"{what} was not found; transient: goes on when it is made", need)


def grown(cloud: Cloud, volume: Volume) -> tuple[VolumeAssignment | None, Refusal | None]:
    """Give the place of a bound volume with its new size if that was admitted, or why it was not; nothing if it has it.

    The books count it from then on.
    """
    place = volume.spec.assignment
    if place is None or parse_quantity(volume.spec.size) <= given_size(volume):
        return None, None
    refusal = cloud.ledger.grow_volume(volume, parse_quantity(volume.spec.size))
    if refusal is not None:
        return None, refusal
    larger = place.model_copy(update={"size": volume.spec.size})
    return larger.model_copy(update={"limits": limits_now(cloud, volume, larger)}), None


def limits_now(cloud: Cloud, volume: Volume, place: VolumeAssignment) -> AssignedLimits | None:
    """Give the limits of a bound volume, as its class and it say them now; those that it has if its class is gone."""
    found = cloud.volume_classes.get("", place.volume_class or "")
    if place.volume_class is None or found is None or place.size is None:
        return place.limits
    return limits_of(found, parse_quantity(place.size), volume.spec.qos)


def retuned(cloud: Cloud, volume: Volume) -> VolumeAssignment | None:
    """Give the place of a volume that a server has with the limits of its class; None if it has those.

    One that no server has gets them with the next.
    """
    place = volume.spec.assignment
    if place is None or place.attached_to is None or (now := limits_now(cloud, volume, place)) == place.limits:
        return None
    return place.model_copy(update={"limits": now})


def reverting(cloud: Cloud, volume: Volume) -> tuple[VolumeAssignment | None, Refusal | None]:
    """Give the place of a bound volume with the revert that is due, or why there is none; nothing if none is due."""
    place, wanted = volume.spec.assignment, volume.spec.revert
    if place is None or wanted is None or (place.revert is not None and place.revert.request == wanted.request):
        return None, None
    name, namespace = wanted.snapshot.name, volume.key[0]
    snapshot = cloud.volume_snapshots.get(namespace, name)
    given = snapshot.spec.assignment if snapshot is not None and not snapshot.deleting else None
    taken = snapshot is not None and snapshot.status is not None and snapshot.status.restore_size is not None
    if given is None or given.volume_id != place.volume_id or not taken:
        message = f"there is no Ready snapshot {name} of volume {volume.key[1]}; transient: goes on when there is"
        need = ("VolumeSnapshot", namespace, name)
        return None, Refusal(VolumeReason.SNAPSHOT_NOT_FOUND, message, frozenset({need}))
    if place.attached_to is not None:
        message = f"{have(place)} the volume; transient: goes back when it is detached"
        return None, Refusal(VolumeReason.IN_USE, message)
    revert = AssignedRevert(snapshot_id=given.snapshot_id, request=wanted.request)
    return place.model_copy(update={"revert": revert}), None


def work_on(cloud: Cloud, volume: Volume) -> str:
    """Give what the host of a bound volume has still to do with it; empty if nothing."""
    place, status = volume.spec.assignment, volume.status
    if place is None:
        return ""
    for snapshot in snapshots_of(cloud, volume.key):
        taken = snapshot.status is not None and snapshot.status.restore_size is not None
        if snapshot.spec.assignment is not None and (snapshot.deleting or not taken):
            return f"takes or removes snapshot {snapshot.metadata.name}"
    if status is None or status.size_bytes is None:
        # One for several servers is made by its host alone, and by no server that is faster.
        return "makes it" if is_copy(volume) or place.multi_attach else ""
    if status.size_bytes < given_size(volume):
        return "makes it larger"
    if asked := _asked(place, status):
        return asked
    copies, image = cloud.volumes.in_namespace(volume.key[0]), image_to_come(cloud, volume)
    return (f"begins image {image} of it" if image else "") or next(
        (f"makes the copy {item.metadata.name}" for item in copies if _awaits(item, place.volume_id)), ""
    )


def _asked(place: VolumeAssignment, status: VolumeStatus) -> str:
    if place.moving is not None or place.left is not None:
        return "moves it to another class"
    reverting = place.revert is not None and place.revert.request != status.reverted
    return "puts it back to a snapshot" if reverting else ""


def _awaits(copy: Volume, volume_id: str) -> bool:
    place = copy.spec.assignment
    made = copy.status is not None and copy.status.size_bytes is not None
    return place is not None and place.origin is not None and place.origin.volume_id == volume_id and not made


async def write_place(cloud: Cloud, volume: Volume, place: VolumeAssignment, *, admitted: bool = False) -> Volume:
    """Write a volume's assignment, unless the volume was changed meanwhile; give it as it is then.

    Args:
        cloud: what the operator works with.
        volume: as it is.
        place: as it shall be.
        admitted: its host's room was counted otherwise; see `kumulus_operator.ledger.promises`.

    Raises:
        Refused: its host, or the share of its class, has no room for what it would take more.
        Conflict: it was changed.
    """
    refusal = cloud.ledger.promises.begin(volume, place, admitted=admitted)
    if refusal is not None:
        raise Refused(refusal)
    try:
        body = identity(volume)
        body["metadata"]["resourceVersion"] = volume.metadata.resource_version
        body["spec"] = {"assignment": place.dump()}
        written = await cloud.client.apply(Volume, body, manager=MANAGER)
        cloud.take(Volume, written)
    finally:
        cloud.ledger.promises.end(volume.key, cloud.volumes.get(*volume.key))
    return Volume.model_validate(written)
