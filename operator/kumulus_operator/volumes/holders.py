"""Who holds a volume: one server, or several where its class is for that (pure)."""

from __future__ import annotations

from collections.abc import Collection

from kumulus_api import Volume
from kumulus_api.server_status import ScheduledReason
from kumulus_api.volume import MOST_HOLDERS, VolumeAssignment
from kumulus_api.volume_class import DriverName, VolumeClass
from kumulus_operator.refusal import Refused, refuse
from kumulus_operator.volumes.classes import Shelves, class_of


def for_several(found: VolumeClass | None) -> bool:
    """Give whether volumes that are made in a class are for several servers."""
    return found is not None and found.spec.multi_attach and found.spec.driver is DriverName.SHARED


def is_multi_attach(volume: Volume, shelves: Shelves) -> bool:
    """Give whether several servers may hold a volume, or will: one that is bound stays what it was made as.

    Raises:
        Refused: see `class_of`.
    """
    place = volume.spec.assignment
    return bool(place.multi_attach) if place is not None else for_several(class_of(volume, shelves))


def joined(place: VolumeAssignment, server: str) -> VolumeAssignment:
    """Give the place of a volume for several servers that one more holds; the host that works on it stays."""
    others = [item for item in place.holders if item != server]
    if not others:
        return place.model_copy(update={"attached_to": server, "also_attached_to": None})
    if server in place.holders:
        return place
    return place.model_copy(update={"also_attached_to": [*(place.also_attached_to or ()), server]})


def released(place: VolumeAssignment, servers: Collection[str]) -> VolumeAssignment:
    """Give the place of a volume that these servers have no more; of the others the first is told as before."""
    kept = [item for item in place.holders if item not in servers]
    first, others = (kept[0], kept[1:] or None) if kept else (None, None)
    exported = place.exported_to if first is not None else None
    return place.model_copy(update={"attached_to": first, "also_attached_to": others, "exported_to": exported})


def named(place: VolumeAssignment) -> str:
    """Give the servers that hold a volume as a sentence names them."""
    holders = place.holders
    return f"server {holders[0]}" if len(holders) == 1 else f"servers {', '.join(sorted(holders))}"


def have(place: VolumeAssignment) -> str:
    """Give who has a volume, as the beginning of a sentence."""
    return f"{named(place)} {'has' if len(place.holders) == 1 else 'have'}"


def vacancy(volume: Volume, server: str) -> Refused | None:
    """Say why a server cannot hold a volume beside those that do, or None."""
    place, name = volume.spec.assignment, volume.metadata.name
    if place is None or not place.holders or server in place.holders:
        return None
    need = ("Volume", *volume.key)
    if not place.multi_attach:
        message = (
            f"volume {name} is in use by {named(place)}; transient: free when that is deleted or lets go of it; "
            "several servers may have volumes of a class with multiAttach"
        )
        return refuse(ScheduledReason.VOLUME_IN_USE, message, need)
    if len(place.holders) >= MOST_HOLDERS:
        message = f"volume {name} is in use by {MOST_HOLDERS} servers, the most; transient: free when one lets go of it"
        return refuse(ScheduledReason.VOLUME_IN_USE, message, need)
    return None
