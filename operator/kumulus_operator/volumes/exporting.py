"""Volumes that serve a server on another host than theirs."""

from __future__ import annotations

from kumulus_api import Server
from kumulus_api.quantities import parse_quantity
from kumulus_api.server_action import ActionReason
from kumulus_api.server_assignment import ServerAssignment
from kumulus_api.volume import VolumeAssignment
from kumulus_operator.bodies import MANAGER, identity
from kumulus_operator.cloud import Cloud
from kumulus_operator.refusal import Refusal
from kumulus_operator.volumes.binding import write_place


def attached(place: VolumeAssignment, server: str, host: str, *, exported: bool) -> VolumeAssignment:
    """Give the place of a volume that a server on a host has (pure).

    Args:
        place: where it is.
        server: name of the server.
        host: where that is.
        exported: the volume stays where it is.
    """
    if exported and place.host != host:
        return place.model_copy(update={"attached_to": server, "exported_to": [host]})
    return place.model_copy(update={"attached_to": server, "exported_to": None, "host": host})


def hosts_of(given: ServerAssignment) -> list[str]:
    """Give the hosts that a server's exported volumes are for: its own, and its target while it migrates (pure)."""
    return sorted({given.host, given.target or given.host})


def with_sizes(
    given: ServerAssignment, sizes: dict[str, str], shared: dict[str, bool] | None = None
) -> ServerAssignment | None:
    """Give an assignment with the sizes that volumes have by now, by their ids; None if it has them (pure).

    The host of the server, which does not watch those of other hosts, hears of it by this.

    Args:
        given: what the server has.
        sizes: of volumes that are exported, or for several servers.
        shared: whether others lie on a share by now.
    """
    known = shared or {}
    changes = {
        item.volume_id: ({"size": sizes[item.volume_id]} if item.volume_id in sizes else {})
        | ({"shared": known[item.volume_id]} if item.volume_id in known else {})
        for item in given.volumes
    }
    volumes = [item.model_copy(update=changes[item.volume_id]) for item in given.volumes]
    return given.model_copy(update={"volumes": volumes}) if volumes != given.volumes else None


async def follow_exports(cloud: Cloud, server: Server) -> None:
    """Have the exported volumes of a placed server let in the hosts where it is or goes, and no others.

    Of these, and of those that several servers have, it is told how large they are.

    Raises:
        Conflict: something was changed meanwhile; the reconcile is repeated.
    """
    given = server.spec.assignment
    sizes: dict[str, str] = {}
    shared: dict[str, bool] = {}
    for item in given.volumes if given is not None else ():
        volume = cloud.volumes.get(server.key[0], item.volume)
        place = volume.spec.assignment if volume is not None else None
        if given is None or volume is None or place is None:
            continue
        if place.volume_id != item.volume_id or server.metadata.name not in place.holders:
            continue
        if item.exporter is None:
            shared[item.volume_id] = place.folder is not None  # It may have come to another class since.
            if not item.multi_attach:
                continue
        elif sorted(place.exported_to or ()) != hosts_of(given):
            volume = await write_place(cloud, volume, place.model_copy(update={"exported_to": hosts_of(given)}))
        told = volume.status.size_bytes if volume.status is not None else None
        if place.size is not None and place.size != item.size and told is not None and told >= place_bytes(place):
            sizes[item.volume_id] = place.size
    wanted = with_sizes(given, sizes, shared) if given is not None else None
    if wanted is None:
        return
    body = identity(server) | {"spec": {"assignment": wanted.dump()}}
    body["metadata"]["resourceVersion"] = server.metadata.resource_version
    cloud.take(Server, await cloud.client.apply(Server, body, manager=MANAGER))


def place_bytes(place: VolumeAssignment) -> int:
    """Give the bytes that a volume was admitted with (pure)."""
    return parse_quantity(place.size) if place.size is not None else 0


def volume_moves(cloud: Cloud, server: Server) -> Refusal | None:
    """Say which volume of a server is on its way to another class, as it stays on its host until then; None if none."""
    given = server.spec.assignment
    for item in given.volumes if given is not None else ():
        volume = cloud.volumes.get(server.key[0], item.volume)
        place = volume.spec.assignment if volume is not None else None
        if place is None or place.volume_id != item.volume_id:
            continue
        told = item.exporter is not None or item.shared is (place.folder is not None)
        if place.moving is not None or place.left is not None or not told:
            message = f"volume: {item.volume} moves to another class; transient: ask again when its Retyped says so"
            return Refusal(ActionReason.VOLUME_MOVES, message)
    return None
