"""Images that are made of volumes, or of snapshots of them: by the host that has these, of what was found once."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from kumulus_api import Image, Volume
from kumulus_api.image import ImageOriginal, ImageReason
from kumulus_api.image_volume import OriginalVolume
from kumulus_operator.bodies import identity
from kumulus_operator.refusal import Refused, refuse
from kumulus_operator.volumes.intake import travels
from kumulus_operator.waiting import CAPACITY, Need
from kumulus_runtime.conditions import set_condition

if TYPE_CHECKING:
    from kumulus_operator.cloud import Cloud

_MANAGER: Final = "kumulus-operator-copies"
"""As of images that are made of others: what else the operator writes of the spec takes nothing of this back."""
_BEGUN: Final = frozenset({ImageReason.COPYING.value, ImageReason.COPY_FAILED.value})
"""The host has what it reads, whatever becomes of the volume."""
_TO_COME: Final = frozenset(
    {"", ImageReason.IMPORTING.value, ImageReason.WAITING_FOR_HOST.value}
    | {ImageReason.VOLUME_NOT_FOUND.value, ImageReason.VOLUME_NOT_READY.value, ImageReason.QUOTA_EXCEEDED.value}
)


def find_volume(image: Image, cloud: Cloud) -> OriginalVolume:
    """Decide what an image is made of, by what is there now (pure, but for the new id).

    Raises:
        Refused: it is missing, encrypted, has no data yet, goes, or is on its way to another host.
    """
    source, namespace, copy_id = image.spec.source, image.key[0], str(uuid.uuid4())
    if source.volume_snapshot is not None:
        name = source.volume_snapshot.name
        what, need = f"volume snapshot {name}", ("VolumeSnapshot", namespace, name)
        snapshot = cloud.volume_snapshots.get(namespace, name)
        given = snapshot.spec.assignment if snapshot is not None and not snapshot.deleting else None
        taken = snapshot is not None and snapshot.status is not None and snapshot.status.restore_size is not None
        if snapshot is None or given is None or not taken:
            raise _not_ready(what, need, there=snapshot is not None)
        _check_clear(cloud.volumes.get(namespace, snapshot.spec.volume.name), what)
        return OriginalVolume(
            volume_id=given.volume_id,
            snapshot_id=given.snapshot_id,
            copy_id=copy_id,
            volume_class=given.volume_class,
            folder=given.folder,
        )
    name = source.volume.name if source.volume is not None else ""
    what, need = f"volume {name}", ("Volume", namespace, name)
    volume = cloud.volumes.get(namespace, name)
    place = volume.spec.assignment if volume is not None and not volume.deleting else None
    made = volume is not None and volume.status is not None and volume.status.size_bytes is not None
    elsewhere = place is not None and (place.given_to is not None or place.moving is not None)
    if volume is None or place is None or not made or elsewhere or travels(cloud, volume):
        raise _not_ready(what, need, there=volume is not None)
    _check_clear(volume, what)
    return OriginalVolume(
        volume_id=place.volume_id, copy_id=copy_id, volume_class=place.volume_class, folder=place.folder
    )


def _check_clear(volume: Volume | None, what: str) -> None:
    place = volume.spec.assignment if volume is not None else None
    if volume is not None and place is not None and place.multi_attach:
        message = f"image: {what} is for several servers; transient: goes on when it is of a class without multiAttach"
        raise refuse(ImageReason.VOLUME_MULTI_ATTACH, message, ("Volume", *volume.key))
    if place is not None and place.encryption is not None:
        message = (
            f"image: {what} is encrypted, and an image is not; permanent: copy its data to a volume that is not, and "
            "make the image of that, or make a backup"
        )
        raise refuse(ImageReason.VOLUME_ENCRYPTED, message)


def _not_ready(what: str, need: Need, *, there: bool) -> Refused:
    if there:
        message = f"image: {what} has no data yet, is being deleted or moves; transient: goes on when it is there"
        return refuse(ImageReason.VOLUME_NOT_READY, message, need)
    return refuse(
        ImageReason.VOLUME_NOT_FOUND, f"image: {what} was not found; transient: goes on when it is made", need
    )


async def name_volume(cloud: Cloud, image: Image) -> Image:
    """Write what an image is made of, unless that was done; give the image as it is then.

    Raises:
        Refused: as `find_volume`.
        Conflict, NotFound, Invalid: it is gone, or goes.
    """
    if image.spec.original is not None:
        return image
    wanted = ImageOriginal(volume=find_volume(image, cloud))
    body = identity(image) | {"spec": {"original": wanted.dump()}}
    written = await cloud.client.apply(Image, body, manager=_MANAGER)
    cloud.take(Image, written)
    return Image.model_validate(written)


def maker_of(image: Image, cloud: Cloud, holders: Collection[str]) -> tuple[str, set[Need]]:
    """Give the host that makes an image, and what may make it another one (pure).

    Args:
        image: with its original.
        cloud: what is known of volumes and hosts.
        holders: hosts that say that they keep the image, as after a restore of the API.

    Raises:
        Refused: what it is made of is gone, or nobody who speaks has it.
    """
    told, given = _told(image), image.spec.original.volume if image.spec.original is not None else None
    if holders:
        return (told if told is not None and told in holders else min(holders)), set()
    volume = None
    if given is not None:
        in_project = cloud.volumes.in_namespace(image.key[0])
        volume = next((item for item in in_project if _volume_id(item) == given.volume_id), None)
    place = volume.spec.assignment if volume is not None else None
    gone = told is None or cloud.host_lost(told)
    if not gone and told is not None:
        # Its copy does not travel with the volume; of one on a share another host makes as good an image.
        shares = given is not None and given.folder is not None and cloud.host_silent(told)
        if place is None or (_reason(image) in _BEGUN and not shares):
            return told, {("Host", "", told)}
        if _reason(image) in _BEGUN:
            able = (host.name for host in cloud.host_facts() if host.ready and host.fresh and not host.decommissioned)
            return min(able, default=told), {CAPACITY, ("Host", "", told)}
    if volume is None or place is None or cloud.host_lost(place.host):
        message = "image: the volume that it shall be made of is gone, or its host is; permanent: delete the image"
        raise refuse(ImageReason.SOURCE_GONE, message)
    needs: set[Need] = {("Volume", *volume.key), ("Host", "", place.host)}
    if told != place.host and cloud.host_silent(place.host):
        message = f"image: host {place.host}, which has its volume, does not answer; transient: goes on when it does"
        raise refuse(ImageReason.WAITING_FOR_HOST, message, *needs)
    return place.host, needs


def made_status(image: Image, host: str, now: datetime) -> dict[str, Any] | None:
    """Give the status with which a host is told that it makes an image; None if it was told (pure)."""
    if _told(image) == host:
        return None
    found = [item.dump() for item in image.status.conditions if item.type == "Ready"] if image.status else []
    message, generation = f"host {host} makes it of a volume", image.metadata.generation
    # Where another host goes on, the volume is free already.
    reason = ImageReason.COPYING if on_share(image) and _reason(image) in _BEGUN else ImageReason.IMPORTING
    conditions = set_condition(found, "Ready", False, reason, message, generation, now)
    return {"importHost": host, "conditions": conditions}


def image_to_come(cloud: Cloud, volume: Volume) -> str:
    """Give the name of an image for which the volume's host has yet to read it; empty if there is none."""
    volume_id = _volume_id(volume)
    for image in cloud.images.in_namespace(volume.key[0]):
        given = image.spec.original.volume if image.spec.original is not None else None
        ours = given is not None and given.volume_id == volume_id and given.snapshot_id is None
        if ours and not image.deleting and _reason(image) in _TO_COME:
            return image.metadata.name
    return ""


def volume_image_seen(cloud: Cloud, former: Image | None, new: Image | None) -> None:
    """Have the volume looked at that an image is made of, and what waits for it, as its host begins and has begun."""
    source = (new or former).spec.source.volume  # type: ignore[union-attr]
    if source is None or (new is not None and former is not None and _stage(former) == _stage(new)):
        return
    volume = (new or former).key[0], source.name  # type: ignore[union-attr]
    cloud.queues.volumes.add(volume)
    cloud.wake(("Volume", *volume))


def _stage(image: Image) -> tuple[bool, bool, bool]:
    return image.spec.original is None, image.deleting, _reason(image) in _TO_COME


def on_share(image: Image) -> bool:
    """Give whether what an image of a volume was begun with lies where any host finds it (pure)."""
    given = image.spec.original.volume if image.spec.original is not None else None
    return given is not None and given.folder is not None


def _volume_id(volume: Volume) -> str:
    return volume.spec.assignment.volume_id if volume.spec.assignment is not None else ""


def _told(image: Image) -> str | None:
    return image.status.import_host if image.status is not None else None


def _reason(image: Image) -> str:
    conditions = image.status.conditions if image.status is not None else []
    return next((item.reason for item in conditions if item.type == "Ready"), "")
