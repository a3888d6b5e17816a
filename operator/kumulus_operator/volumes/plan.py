"""Plan a Volume's status (pure)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kumulus_api import Volume
from kumulus_api.quantities import parse_quantity
from kumulus_api.volume import VolumeAssignment, VolumeConditionType, VolumeReason
from kumulus_operator.refusal import Refusal
from kumulus_operator.volumes.classes import is_copy
from kumulus_operator.volumes.holders import named
from kumulus_operator.waiting import Need
from kumulus_runtime.conditions import set_condition


@dataclass(frozen=True)
class Refusals:
    """Why a volume is not made, does not grow, and does not go back."""

    making: Refusal | None = None
    growth: Refusal | None = None
    revert: Refusal | None = None
    retype: Refusal | None = None
    limits: Refusal | None = None

    @property
    def needs(self) -> frozenset[Need]:
        """What would change that."""
        told = (self.making, self.growth, self.revert, self.retype, self.limits)
        return frozenset(need for item in told if item is not None for need in item.needs)


def admitted_before(volume: Volume) -> bool:
    """Give whether an earlier operator counted the volume against the quota: it is bound, or says that it waits."""
    if volume.spec.assignment is not None:
        return True
    conditions = volume.status.conditions if volume.status is not None else []
    return any(item.type == "Ready" and item.reason != VolumeReason.QUOTA_EXCEEDED for item in conditions)


def volume_status(
    volume: Volume,
    excess: str | None,
    now: datetime,
    *,
    refusals: Refusals | None = None,
    snapshots: Collection[str] = (),
    silent: bool = False,
) -> dict[str, Any] | None:
    """Give the conditions of a volume, or None if it has them already.

    Args:
        volume: as it is.
        excess: by what it would exceed the quota, or None if it is admitted; a bound volume always is.
        now: the present.
        refusals: what else cannot be done.
        snapshots: names of those that it has.
        silent: its host does not speak, and a server on another one has it.
    """
    found = volume.status.dump().get("conditions", []) if volume.status is not None else []
    told, generation = refusals or Refusals(), volume.metadata.generation
    status, reason, message = _silent(volume) if silent else _ready(volume, excess, told, snapshots)
    conditions = set_condition(found, VolumeConditionType.READY, status, reason, message, generation, now)
    for kind, part in (
        (VolumeConditionType.RESIZED, _resized(volume, told.growth)),
        (VolumeConditionType.REVERTED, _reverted(volume, told.revert)),
        (VolumeConditionType.RETYPED, _retyped(volume, told.retype)),
        (VolumeConditionType.LIMITED, _limited(volume, told.limits)),
    ):
        if part is not None and (not part[0] or any(item["type"] == kind for item in found)):
            conditions = set_condition(conditions, kind, *part, generation, now)
    return None if conditions == found else {"conditions": conditions}


Said = tuple[bool, str, str]
"""Status, reason and message of a condition."""


def _ready(volume: Volume, excess: str | None, told: Refusals, snapshots: Collection[str]) -> Said:
    place, fault = volume.spec.assignment, volume.status.fault if volume.status is not None else None
    if volume.deleting and snapshots:
        names = ", ".join(sorted(snapshots)[:5])
        message = f"deletion: there are {len(snapshots)} snapshots of it ({names}); transient: goes on without them"
        return False, VolumeReason.HAS_SNAPSHOTS, message
    if fault is not None:
        return False, fault.reason, fault.message
    if place is None:
        return _unbound(excess, told)
    if place.given_to is not None and told.making is not None:
        return False, told.making.reason, told.making.message
    if place.attached_to is None:
        return _kept(volume, place)
    return _in_use(volume, place)


def _in_use(volume: Volume, place: VolumeAssignment) -> Said:
    if place.multi_attach:
        return True, VolumeReason.IN_USE, f"is attached to {named(place)}"
    if place.exported_to is None:
        return True, VolumeReason.IN_USE, f"is attached to server {place.attached_to} on host {place.host}"
    told = volume.status.export if volume.status is not None else None
    there, server = " and ".join(sorted(place.exported_to)), f"server {place.attached_to}"
    if told is None or sorted(told.hosts) != sorted(place.exported_to):
        return False, VolumeReason.EXPORTING, f"host {place.host} is about to export it to {there} for {server}"
    return True, VolumeReason.IN_USE, f"is attached to {server} on {there}, to which host {place.host} exports it"


def _silent(volume: Volume) -> Said:
    place = volume.spec.assignment
    host, server = (place.host, place.attached_to) if place is not None else ("", "")
    message = f"host {host} is silent, where it lies; server {server} waits for it; transient: goes on when it is back"
    return False, VolumeReason.HOST_SILENT, message


def _kept(volume: Volume, place: VolumeAssignment) -> Said:
    if (is_copy(volume) or place.multi_attach) and (volume.status is None or volume.status.size_bytes is None):
        return False, VolumeReason.MAKING, f"is being made on host {place.host}"
    if place.folder is not None:
        which = "several servers at once, " if place.multi_attach else "servers "
        return True, VolumeReason.AVAILABLE, f"is kept in class {place.volume_class}, for {which}on any host"
    return True, VolumeReason.AVAILABLE, f"is kept on host {place.host}: the next server that uses it runs there"


def _unbound(excess: str | None, told: Refusals) -> Said:
    if excess is not None:
        message = f"quota: {excess}; transient: admitted when volumes are deleted or the quota is raised"
        return False, VolumeReason.QUOTA_EXCEEDED, message
    if told.making is not None:
        return False, told.making.reason, told.making.message
    return False, VolumeReason.WAITING_FOR_FIRST_SERVER, "is made on the host of the first server that uses it"


def _resized(volume: Volume, refusal: Refusal | None) -> Said | None:
    place, status = volume.spec.assignment, volume.status
    if place is None or status is None or status.size_bytes is None:
        return None
    if refusal is not None:
        return False, refusal.reason, refusal.message
    if status.size_bytes < parse_quantity(volume.spec.size):
        return False, VolumeReason.GROWING, f"has {status.size_bytes} bytes, is becoming {volume.spec.size}"
    return True, VolumeReason.RESIZED, f"has {volume.spec.size}"


def _reverted(volume: Volume, refusal: Refusal | None) -> Said | None:
    wanted, status = volume.spec.revert, volume.status
    if wanted is None:
        return None
    if status is not None and status.reverted == wanted.request:
        return True, VolumeReason.REVERTED, f"went back to snapshot {wanted.snapshot.name}"
    if refusal is not None:
        return False, refusal.reason, refusal.message
    return False, VolumeReason.REVERTING, f"goes back to snapshot {wanted.snapshot.name}"


def _retyped(volume: Volume, refusal: Refusal | None) -> Said | None:
    place, wanted = volume.spec.assignment, volume.spec.volume_class
    if place is None or wanted is None:
        return None
    if refusal is not None:
        return False, refusal.reason, refusal.message
    if place.moving is not None and place.moving.cancelled:
        return False, VolumeReason.RETYPING, f"stays in class {wanted.name}: what was copied on host {place.host} goes"
    if place.moving is not None or wanted.name != place.volume_class:
        return False, VolumeReason.RETYPING, f"is being copied to class {wanted.name} on host {place.host}"
    return True, VolumeReason.RETYPED, f"lies in class {wanted.name}"


def _limited(volume: Volume, refusal: Refusal | None) -> Said | None:
    if refusal is not None:
        return False, refusal.reason, refusal.message
    own = "its own limits" if volume.spec.qos is not None else "those of its class alone"
    return True, VolumeReason.LIMITED, f"what guests do with it is limited by {own}"
