"""What stands against giving a volume away, and what an offer says (pure)."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from kumulus_api import Volume, VolumeTransfer
from kumulus_api.volume_transfer import OfferedVolume, VolumeTransferReason
from kumulus_operator.refusal import Refusal
from kumulus_operator.volumes.holders import have
from kumulus_runtime.conditions import set_condition


def hindrance(volume: Volume | None, name: str, snapshots: Collection[str], busy: str) -> Refusal | None:
    """Say why a volume cannot be given away now, or None.

    Args:
        volume: which, if it is there.
        name: of the volume.
        snapshots: names of those that it has.
        busy: what its host has still to do with it, or empty.
    """
    reason = VolumeTransferReason
    if volume is None or volume.deleting:
        return Refusal(reason.VOLUME_NOT_FOUND, f"volume {name} was not found; transient: goes on when it is made")
    place, status = volume.spec.assignment, volume.status
    if place is None or status is None or status.size_bytes is None:
        message = f"volume {name} has no data yet: no server has used it; transient: goes on when one has"
        return Refusal(reason.VOLUME_NOT_READY, message)
    if place.attached_to is not None:
        message = f"{have(place)} volume {name}; transient: goes on when it is detached"
        return Refusal(reason.IN_USE, message)
    return _kept_back(volume, name, snapshots, f"host {place.host} {busy}" if busy else "")


def _kept_back(volume: Volume, name: str, snapshots: Collection[str], busy: str) -> Refusal | None:
    reason = VolumeTransferReason
    if volume.spec.assignment is not None and volume.spec.assignment.encryption is not None:
        message = f"volume {name} is encrypted, and its key stays in the project; permanent: give a copy of its data"
        return Refusal(reason.ENCRYPTED, message)
    if volume.spec.protected:
        message = f"volume {name} is protected; transient: goes on when its spec.protected is false"
        return Refusal(reason.PROTECTED, message)
    if snapshots:
        message = f"volume {name} has snapshots ({', '.join(sorted(snapshots)[:5])}); transient: goes on without them"
        return Refusal(reason.HAS_SNAPSHOTS, message)
    if busy:
        message = f"volume {name}: {busy}; transient: goes on when that is done"
        return Refusal(reason.VOLUME_NOT_READY, message)
    return None


def offered(transfer: VolumeTransfer, volume: Volume | None) -> OfferedVolume | None:
    """Give the volume that an offer is of, if that is known now for the first time."""
    place = volume.spec.assignment if volume is not None and not volume.deleting else None
    if transfer.spec.assignment is not None or place is None or place.given_to is not None:
        return None
    return OfferedVolume(volume_id=place.volume_id)


def is_of(transfer: VolumeTransfer, volume: Volume | None) -> bool:
    """Give whether an offer is of this very volume: another one may have its name by now."""
    place = volume.spec.assignment if volume is not None else None
    given = transfer.spec.assignment
    return place is not None and given is not None and place.volume_id == given.volume_id


def transfer_status(
    transfer: VolumeTransfer, refusal: Refusal | None, taker: str, now: datetime
) -> dict[str, Any] | None:
    """Give the condition of an offer, or None if it says so already.

    Args:
        transfer: as it is.
        refusal: why the volume cannot be given away.
        taker: name of the Volume that has it, or empty.
        now: the present.
    """
    found = transfer.status.dump().get("conditions", []) if transfer.status is not None else []
    project, name = transfer.spec.project, transfer.metadata.name
    if taker:
        told = (True, VolumeTransferReason.TAKING, f"volume {project}/{taker} has it")
    elif refusal is not None:
        told = (False, VolumeTransferReason(refusal.reason), refusal.message)
    else:
        wanted = f"source: {{transfer: {{namespace: {transfer.key[0]}, name: {name}}}}}"
        told = (True, VolumeTransferReason.OFFERED, f"project {project} takes it by a Volume with {wanted}")
    conditions = set_condition(found, "Ready", *told, transfer.metadata.generation, now)
    return None if conditions == found else {"conditions": conditions}
