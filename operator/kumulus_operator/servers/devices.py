"""Attach and detach: give a placed server the ports and volumes that its spec names now, and take back the others.

What is attached is admitted by the ledger, claimed, and written last into the assignment: then its agent plugs it in.
What is detached stays in the assignment until that agent has told that it is unplugged; it leaves the assignment first
and is released then, so that it never has a holder of which nobody knows. Each step can be the last of this process:
the next one finds what is left by its owner or its holder.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any

import structlog

from kumulus_api import Port, Server, Volume
from kumulus_api.devices import missing_interfaces, missing_volumes, named_ports, named_volumes
from kumulus_api.server_assignment import ServerAssignment
from kumulus_api.server_status import ScheduledReason, ServerConditionType
from kumulus_operator.bodies import MANAGER, identity
from kumulus_operator.cloud import Cloud
from kumulus_operator.ledger.plan import Hold, Request
from kumulus_operator.placement.facts import Amounts, Terms, Wish
from kumulus_operator.placement.wish import segments_of
from kumulus_operator.refusal import Refusal, Refused, refuse
from kumulus_operator.servers.amend import tell
from kumulus_operator.servers.groups import put_in_groups
from kumulus_operator.servers.interfaces import give_ports
from kumulus_operator.servers.resolve import Interface, resolve_interface, resolve_volume
from kumulus_operator.servers.volumes import give_volumes
from kumulus_operator.volumes.binding import write_place
from kumulus_operator.volumes.classes import exportable, new_amounts
from kumulus_operator.volumes.holders import is_multi_attach, released
from kumulus_runtime.errors import Conflict, NotFound

_LOG = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True)
class Additions:
    """What a server is to be given, all of it present."""

    interfaces: tuple[Interface, ...] = ()
    volumes: tuple[tuple[str, Volume], ...] = ()


async def change_devices(cloud: Cloud, server: Server) -> None:
    """Bring the ports and volumes of a placed server's assignment to its spec.

    Raises:
        Conflict: something has changed meanwhile; look again.
    """
    given = server.spec.assignment
    if given is None or given.target is not None or cloud.host_silent(given.host):
        return  # What migrates is looked at again when it has arrived.
    server = await _take_back(cloud, server)
    await _release(cloud, server)
    refusal: Refusal | None = None
    try:
        server = await put_in_groups(cloud, server)
        added = additions(cloud, server)
        if added != Additions():
            await _give(cloud, server, added)
    except Refused as refused:
        refusal = refused.refusal
        needs = cloud.server_waiters.needs_of(server.key) | refusal.needs
        cloud.server_waiters.wait(server.key, needs)
    await tell(cloud, cloud.servers.get(*server.key) or server, ServerConditionType.DEVICES_APPLIED, refusal)


def left(server: Server) -> ServerAssignment | None:
    """Give the assignment without what the agent has unplugged as of the newest spec; None if there is no such thing.

    What was told as of an older spec says nothing: the agent may have plugged it in again since.
    """
    given, status = server.spec.assignment, server.status
    if given is None or status is None or status.observed_generation != server.metadata.generation:
        return None
    unplugged = set(status.detached)
    ports, volumes = named_ports(server), named_volumes(server)
    kept_ports = [item for item in given.ports if item in ports or item.port_id not in unplugged]
    kept_volumes = [item for item in given.volumes if item in volumes or item.volume_id not in unplugged]
    if (kept_ports, kept_volumes) == (given.ports, given.volumes):
        return None
    return given.model_copy(update={"ports": kept_ports, "volumes": kept_volumes})


def additions(cloud: Cloud, server: Server) -> Additions:
    """Look up what a placed server lacks.

    Raises:
        Refused: something is missing, not ready, or lies on another host.
    """
    given, namespace = server.spec.assignment, server.metadata.namespace or ""
    if given is None:
        return Additions()
    interfaces = tuple(resolve_interface(server, item, cloud) for item in missing_interfaces(server))
    volumes = tuple((item.name, resolve_volume(namespace, item, cloud)) for item in missing_volumes(server))
    for _, volume in volumes:
        _attachable(cloud, volume, given.host)
    return Additions(interfaces, volumes)


def _attachable(cloud: Cloud, volume: Volume, host: str) -> None:
    place, name = volume.spec.assignment, volume.metadata.name
    if place is not None and place.host != host and place.folder is None and not exportable(volume, cloud):
        message = (
            f"volume {name} lies on host {place.host}, the server is on {host}; "
            "transient: attached when one of them has migrated to the other's"
        )
        raise refuse(ScheduledReason.VOLUME_ELSEWHERE, message, ("Volume", *volume.key))
    if place is None and not cloud.ledger.volume_admitted(volume.key):
        message = f"quota: volume {name} is not admitted; transient: goes on when the project's quota allows it"
        raise refuse(ScheduledReason.QUOTA_EXCEEDED, message, ("Volume", *volume.key))


async def _give(cloud: Cloud, server: Server, added: Additions) -> None:
    given = server.spec.assignment
    if given is None:
        return
    request = _request(cloud, server, added, given.host)
    refusal = cloud.ledger.attach(request)
    if refusal is not None:
        raise Refused(refusal)
    try:
        with cloud.placing_on({item.network.key for item in added.interfaces}):
            volumes = await give_volumes(cloud, server, added.volumes, given.host)
            ports = await give_ports(cloud, server, added.interfaces, given.host, adopting=False)
            wanted = given.dump()
            wanted["ports"] = [*wanted.get("ports", []), *ports]
            wanted["volumes"] = [*wanted.get("volumes", []), *volumes]
            await _assign(cloud, server, wanted)
    except BaseException:
        made = {name for name in request.new_ports if cloud.ports.get(server.key[0], name) is not None}
        cloud.ledger.not_attached(cloud.servers.get(*server.key) or server, request.new_ports - made)
        raise
    names = [item.name for item in added.interfaces] + [name for name, _ in added.volumes]
    _LOG.info("devices given", namespace=server.key[0], name=server.key[1], devices=names)


def _request(cloud: Cloud, server: Server, added: Additions, host: str) -> Request:
    namespace, name = server.key
    ports: set[Hold] = {("Port", namespace, item.port_name) for item in added.interfaces}
    alone = [item for _, item in added.volumes if not is_multi_attach(item, cloud)]
    volumes: set[Hold] = {("Volume", namespace, item.metadata.name) for item in alone}
    unbound = (item for _, item in added.volumes if item.spec.assignment is None)
    return Request(
        namespace=namespace,
        name=name,
        wish=Wish(
            reduce(Amounts.plus, (new_amounts(item, cloud) for item in unbound), Amounts()),
            only_host=host,
            only_reason="where the server is",
            terms=Terms(segments=segments_of(item.network for item in added.interfaces)),
        ),
        new_ports=frozenset(item.port_name for item in added.interfaces if item.port is None),
        holds=frozenset(ports | volumes),
    )


async def _assign(cloud: Cloud, server: Server, wanted: dict[str, Any]) -> Server:
    body = identity(server) | {"spec": {"assignment": wanted}}
    body["metadata"]["resourceVersion"] = server.metadata.resource_version
    written = await cloud.client.apply(Server, body, manager=MANAGER)
    now = Server.model_validate(written)
    cloud.ledger.amended(now)
    cloud.take(Server, written)
    return now


async def _take_back(cloud: Cloud, server: Server) -> Server:
    """Take out of the assignment what is unplugged; give the server as it is then."""
    wanted = left(server)
    if wanted is None:
        return server
    now = await _assign(cloud, server, wanted.dump())
    _LOG.info("devices taken back", namespace=server.key[0], name=server.key[1])
    return now


async def _release(cloud: Cloud, server: Server) -> None:
    """Release the volumes and own ports of a placed server that it is not assigned and shall not be."""
    given, namespace = server.spec.assignment, server.key[0]
    if given is None:
        return
    kept = {item.volume for item in given.volumes} | {item.volume.name for item in server.spec.volumes}
    for key in sorted(cloud.volumes_held.get(server.key, ())):
        volume = cloud.volumes.get(*key)
        place = volume.spec.assignment if volume is not None else None
        if volume is None or place is None or key[1] in kept:
            continue
        await write_place(cloud, volume, released(place, {server.metadata.name}))
    ports = {item.port for item in given.ports} | {item.port_name for item in _wanted(cloud, server)}
    for key in sorted(cloud.ports_owned.get(server.key, ())):
        port = cloud.ports.get(*key)
        if port is None or port.deleting or key[1] in ports or not _made_for(port, server):
            continue
        try:
            await cloud.client.delete(Port, key[1], namespace, uid=port.metadata.uid)
        except (NotFound, Conflict):
            continue  # It is gone, or another one has its name.


def _wanted(cloud: Cloud, server: Server) -> list[Interface]:
    """Give what of the missing interfaces can be had: a port that was made for one is used when it is given."""
    found = []
    for item in missing_interfaces(server):
        try:
            found.append(resolve_interface(server, item, cloud))
        except Refused:
            continue
    return found


def _made_for(port: Port, server: Server) -> bool:
    return any(item.uid == server.metadata.uid for item in port.metadata.owner_references)
