"""Give a server its volumes: bind them to its host, and note who holds them."""

from __future__ import annotations

import uuid
from typing import Any

from kumulus_api import Server, Volume
from kumulus_api.server_status import ScheduledReason
from kumulus_operator.bodies import MANAGER, identity
from kumulus_operator.cloud import Cloud
from kumulus_operator.refusal import refuse
from kumulus_operator.servers.plan import assigned_volume


async def give_volumes(
    cloud: Cloud, server: Server, volumes: tuple[tuple[str, Volume], ...], host: str
) -> list[dict[str, Any]]:
    """Attach volumes, each by one write that fails if another was faster.

    Raises:
        Refused: a volume is held by another server.
        Conflict: a volume was changed meanwhile; the reconcile is repeated.
    """
    given = []
    for name, volume in volumes:
        attached = await _attach(cloud, server, volume, host)
        given.append(assigned_volume(name, attached))
    return given


async def bind_volumes(cloud: Cloud, server: Server) -> None:
    """Have the volumes that a placed server holds say that they are on its host: they have migrated with it."""
    assigned = server.spec.assignment
    for given in assigned.volumes if assigned is not None else ():
        volume = cloud.volumes.get(server.key[0], given.volume)
        place = volume.spec.assignment if volume is not None else None
        if assigned is None or volume is None or place is None or place.host == assigned.host:
            continue
        if (place.volume_id, place.attached_to) != (given.volume_id, server.metadata.name):
            continue
        body = identity(volume)
        body["metadata"]["resourceVersion"] = volume.metadata.resource_version
        body["spec"] = {"assignment": place.dump() | {"host": assigned.host}}
        cloud.take(Volume, await cloud.client.apply(Volume, body, manager=MANAGER))


async def _attach(cloud: Cloud, server: Server, volume: Volume, host: str) -> Volume:
    place = volume.spec.assignment
    holder = place.attached_to if place is not None else None
    if holder is not None and holder != server.metadata.name:
        message = f"volume {volume.metadata.name} is in use by server {holder}; transient: free when that is deleted"
        raise refuse(ScheduledReason.VOLUME_IN_USE, message, ("Volume", *volume.key))
    if holder is not None:
        return volume
    volume_id = place.volume_id if place is not None else str(uuid.uuid4())
    body = identity(volume)
    body["metadata"]["resourceVersion"] = volume.metadata.resource_version
    body["spec"] = {"assignment": {"volumeID": volume_id, "host": host, "attachedTo": server.metadata.name}}
    written = await cloud.client.apply(Volume, body, manager=MANAGER)
    cloud.take(Volume, written)
    return Volume.model_validate(written)
