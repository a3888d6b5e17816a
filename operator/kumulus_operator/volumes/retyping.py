"""Bring a volume to another class: copied, then switched, then removed where it was; a server may be writing to it."""

from __future__ import annotations

import uuid

from kumulus_api import Volume
from kumulus_api.volume import VolumeAssignment, VolumeElsewhere, VolumeReason
from kumulus_operator.cloud import Cloud
from kumulus_operator.refusal import Refusal, Refused
from kumulus_operator.volume_backups.plan import being_made
from kumulus_operator.volumes.binding import limits_now, work_on
from kumulus_operator.volumes.classes import class_of
from kumulus_operator.volumes.holders import for_several, have
from kumulus_operator.volumes.intake import snapshots_of, travels
from kumulus_operator.waiting import any_of

Step = tuple[VolumeAssignment | None, Refusal | None]
"""The place of a volume after the next step, or why there is none; nothing if nothing is to do."""


def retyping(cloud: Cloud, volume: Volume) -> Step:
    """Give the next step of a bound volume to its class.

    In `spec.assignment` it lies in exactly one place at any moment, which is whole.
    """
    place, wanted = volume.spec.assignment, volume.spec.volume_class
    if place is None:
        return None, None
    if place.left is not None or place.moving is not None:
        return _next(cloud, volume, place), None
    if wanted is None or wanted.name == place.volume_class:
        return None, None
    refusal = _objection(cloud, volume, place)
    return (None, refusal) if refusal is not None else _begin(cloud, volume, place)


def _next(cloud: Cloud, volume: Volume, place: VolumeAssignment) -> VolumeAssignment | None:
    status, wanted, moving = volume.status, volume.spec.volume_class, place.moving
    if place.left is not None:
        done = status is not None and status.cleared == place.left.request
        return place.model_copy(update={"left": None}) if done else None
    if moving is None:
        return None
    if status is not None and status.moved == moving.request:
        # Also where it was thought better of: a guest may write there already, and it goes back as it came.
        former = VolumeElsewhere(request=moving.request, volume_class=place.volume_class, folder=place.folder)
        there = {"volume_class": moving.volume_class, "folder": moving.folder, "multi_attach": moving.multi_attach}
        return _limited(cloud, volume, place.model_copy(update={**there, "moving": None, "left": former}))
    if moving.cancelled:
        done = status is not None and status.cleared == moving.request
        return place.model_copy(update={"moving": None}) if done else None
    if wanted is None or wanted.name != moving.volume_class or travels(cloud, volume):
        # A migration that was decided on at the same moment comes first: the volume goes when that is over.
        return place.model_copy(update={"moving": moving.model_copy(update={"cancelled": True})})
    return None


def _limited(cloud: Cloud, volume: Volume, place: VolumeAssignment) -> VolumeAssignment:
    """Give a place with the limits of its class: a server that has the volume is held to them at once."""
    if place.attached_to is None:
        return place
    return place.model_copy(update={"limits": limits_now(cloud, volume, place)})


def _objection(cloud: Cloud, volume: Volume, place: VolumeAssignment) -> Refusal | None:
    if place.exported_to is not None:
        there = " and ".join(sorted(place.exported_to))
        message = (
            f"host {place.host} exports the volume to {there} for server {place.attached_to}, and only a server on its "
            "own host writes on as it is copied; transient: moves when it is detached"
        )
        return Refusal(VolumeReason.IN_USE, message)
    if travels(cloud, volume):
        message = f"server {place.attached_to}, which has the volume, migrates; transient: moves when that is done"
        return Refusal(VolumeReason.RETYPING, message)
    if place.multi_attach and place.attached_to is not None:
        return _in_use_by_several(place)
    # Of a volume for several servers none is taken: what is asked for waits for the other class.
    taken = (item for item in snapshots_of(cloud, volume.key) if item.spec.assignment or not place.multi_attach)
    if names := sorted(item.metadata.name for item in taken):
        message = f"there are {len(names)} snapshots of it ({', '.join(names[:5])}); transient: moves without them"
        return Refusal(VolumeReason.HAS_SNAPSHOTS, message)
    backups = cloud.volume_backups.in_namespace(volume.key[0])
    if backup := being_made(place.volume_id, backups):
        message = f"backup {backup} of it is being made; transient: moves when that is done"
        return Refusal(VolumeReason.RETYPING, message, frozenset({any_of("VolumeBackup", volume.key[0])}))
    busy = work_on(cloud, volume)
    message = f"host {place.host} {busy}; transient: moves when that is done"
    return Refusal(VolumeReason.RETYPING, message) if busy else None


def _begin(cloud: Cloud, volume: Volume, place: VolumeAssignment) -> Step:
    try:
        found = class_of(volume, cloud)
    except Refused as refused:
        return None, refused.refusal
    if found is None:
        return None, None
    if place.encryption is not None or found.spec.encryption is not None:
        what = "the volume" if place.encryption is not None else f"class {found.metadata.name}"
        message = f"{what} is encrypted, and copies between classes are not; permanent: ask for the former class again"
        return None, Refusal(VolumeReason.ENCRYPTED, message)
    name, folder = found.metadata.name, found.spec.shared.folder if found.spec.shared is not None else None
    unmade = volume.status is None or volume.status.size_bytes is None
    several = for_several(found) or None
    if unmade or (folder == place.folder and several == place.multi_attach):
        # Its files lie where they shall, or nowhere yet.
        there = {"volume_class": name, "folder": folder, "multi_attach": several}
        return _limited(cloud, volume, place.model_copy(update=there)), None
    if (refusal := _cannot_copy(place, name, folder, several=bool(several))) is not None:
        return None, refusal
    elsewhere = VolumeElsewhere(request=str(uuid.uuid4()), volume_class=name, folder=folder, multi_attach=several)
    return place.model_copy(update={"moving": elsewhere}), None


def _cannot_copy(place: VolumeAssignment, name: str, folder: str | None, *, several: bool) -> Refusal | None:
    """Say why a volume is not copied to a folder of a class, or None."""
    if folder == place.folder:
        message = f"class {name} has the same folder as the former, and files of another kind; permanent: use another"
        return Refusal(VolumeReason.MULTI_ATTACH, message)
    return _in_use_by_several(place) if several and place.attached_to is not None else None


def _in_use_by_several(place: VolumeAssignment) -> Refusal:
    """Say why a volume does not come to or from a class for several servers: a copy in use knows of one guest."""
    message = f"{have(place)} the volume, and one class is for several servers; transient: moves when it is detached"
    return Refusal(VolumeReason.IN_USE, message)


def with_room(cloud: Cloud, volume: Volume, step: Step) -> Step:
    """Give the next step of a volume to its class, unless it begins a copy for which its host has no room."""
    there, place = step[0], volume.spec.assignment
    begins = there is not None and there.moving is not None and place is not None and place.moving is None
    if not begins or there is None or there.moving is None or there.moving.folder is not None:
        return step
    refusal = cloud.ledger.lacks_room(volume, there.moving.volume_class)
    return step if refusal is None else (None, refusal)
