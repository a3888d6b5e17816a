"""Give a server its volumes: bind them to its host, and note who holds them."""

from __future__ import annotations

from typing import Any

from kumulus_api import Server, Volume
from kumulus_api.server_status import ScheduledReason
from kumulus_operator.bodies import MANAGER, identity
from kumulus_operator.cloud import Cloud
from kumulus_operator.placement.usage import bytes_of
from kumulus_operator.refusal import Refused, refuse
from kumulus_operator.servers.plan import assigned_volume
from kumulus_operator.volume_transfers.giving import withheld
from kumulus_operator.volumes.binding import first_place, limits_now, work_on, write_place
from kumulus_operator.volumes.classes import exportable, own_ratio
from kumulus_operator.volumes.exporting import attached, follow_exports, place_bytes
from kumulus_operator.volumes.holders import joined, vacancy
from kumulus_operator.volumes.keys import have_key


async def give_volumes(
    cloud: Cloud, server: Server, volumes: tuple[tuple[str, Volume], ...], host: str
) -> list[dict[str, Any]]:
    """Attach volumes, each by one write that fails if another was faster.

    Raises:
        Refused: a volume is held by another server, or what it needs is missing.
        Conflict: a volume was changed meanwhile; the reconcile is repeated.
    """
    given: list[dict[str, Any]] = []
    read_only = {item.name for item in server.spec.volumes if item.read_only}
    for name, volume in volumes:
        attached = await _attach(cloud, server, volume, host)
        marks = {"boot": name == server.spec.boot_volume, "readOnly": name in read_only}
        told = assigned_volume(name, attached) | {mark: True for mark, holds in marks.items() if holds}
        by_class = own_ratio(attached, cloud)
        given.append(told | ({"volumeClass": by_class} if by_class is not None else {}))
    return given


async def bind_volumes(cloud: Cloud, server: Server) -> None:
    """Have the volumes that a placed server holds say that they are on its host: they have migrated with it."""
    assigned = server.spec.assignment
    for given in assigned.volumes if assigned is not None else ():
        volume = cloud.volumes.get(server.key[0], given.volume)
        place = volume.spec.assignment if volume is not None else None
        stays = given.exporter is not None or given.multi_attach
        if assigned is None or volume is None or place is None or place.host == assigned.host or stays:
            continue
        if (place.volume_id, place.attached_to) != (given.volume_id, server.metadata.name):
            continue
        body = identity(volume)
        body["metadata"]["resourceVersion"] = volume.metadata.resource_version
        body["spec"] = {"assignment": place.dump() | {"host": assigned.host}}
        cloud.take(Volume, await cloud.client.apply(Volume, body, manager=MANAGER))
    await follow_exports(cloud, cloud.servers.get(*server.key) or server)


async def _attach(cloud: Cloud, server: Server, volume: Volume, host: str) -> Volume:
    place, name = volume.spec.assignment, server.metadata.name
    if (occupied := vacancy(volume, name)) is not None:
        raise occupied
    holds = place is not None and name in place.holders
    if holds and not exportable(volume, cloud):
        return volume
    kept_back = withheld(cloud, volume) if not holds else None
    if kept_back is not None:
        raise refuse(ScheduledReason.VOLUME_NOT_READY, kept_back.message, *kept_back.needs)
    # Not while it is copied to another class, either.
    if (
        place is not None
        and (place.host != host or place.moving is not None or place.left is not None)
        and (busy := work_on(cloud, volume))
    ):
        # Two hosts that change which file is written would know nothing of each other.
        message = f"volume {volume.metadata.name}: host {place.host} {busy}; transient: attached when that is done"
        raise refuse(ScheduledReason.VOLUME_NOT_READY, message, ("Volume", *volume.key))
    given = place if place is not None else first_place(cloud, volume, host)
    if place is None:
        volume = await have_key(cloud, volume, given)
    limited = given.model_copy(update={"limits": limits_now(cloud, volume, given)})
    exported = exportable(volume, cloud)
    wanted = joined(limited, name) if given.multi_attach else attached(limited, name, host, exported=exported)
    # Noted before, by one that has ended since: maybe for another host.
    if wanted == place:
        return volume
    placing = server.spec.assignment is None
    if placing and place is None and wanted.folder is None:
        cloud.ledger.hand_over(server.key, bytes_of(wanted.volume_class, place_bytes(wanted)))
    try:
        # With a server that is being placed its new volumes were counted.
        return await write_place(cloud, volume, wanted, admitted=placing)
    except Refused as refused:
        told = refused.refusal
        raise refuse(ScheduledReason.VOLUME_NOT_READY, told.message, *told.needs) from None
