"""Whether a server's root disk is to be read on this host."""

from __future__ import annotations

from kumulus_agent.storage.errors import Retryable, Terminal
from kumulus_api import Server
from kumulus_api.volume_backup import BackedUpRootDisk
from kumulus_runtime.api_client import KubeClient


class SourceGone(Terminal):
    """The volume, snapshot or root disk that a backup is to be made of is not here."""

    reason = "VolumeDataGone"


async def see_placed(client: KubeClient, host: str, namespace: str, disk: BackedUpRootDisk) -> None:
    """See by what the API says now that a server is on a host and stays.

    A watch does not tell a server that went from one that moved.

    Args:
        client: to reach the API server.
        host: which.
        namespace: of the server.
        disk: of which server.

    Raises:
        SourceGone: there is no such instance any more.
        Retryable: it is elsewhere, or on its way.
        ApiError: nobody knows.
    """
    body = await client.get(Server, disk.server, namespace)
    server = Server.model_validate(body) if body is not None else None
    place = server.spec.assignment if server is not None and not server.deleting else None
    if place is None or place.instance_id != disk.instance_id:
        raise SourceGone(f"server {disk.server} was deleted before its disk was backed up: delete the backup")
    if place.host != host or place.target is not None:
        raise Retryable(f"server {disk.server} is on its way to another host; it is tried again")
