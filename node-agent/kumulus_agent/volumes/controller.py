"""Removes the files of Volumes that are deleted; they are made when a server first uses them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kumulus_agent.storage.volume import delete_volume
from kumulus_api import FINALIZER, Volume
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.logs import log
from kumulus_runtime.store import Store

Key = tuple[str, str]
_LOOK_AGAIN = 5.0


def removable(body: dict[str, Any], host: str) -> str:
    """Give the volume's id if its file may be removed; empty if not.

    Args:
        body: the Volume as a live read showed it.
        host: this host.
    """
    volume = Volume.model_validate(body)
    assignment = volume.spec.assignment
    if not volume.deleting or FINALIZER not in volume.metadata.finalizers or assignment is None:
        return ""
    if assignment.host != host or assignment.attached_to is not None:
        return ""
    return assignment.volume_id


@dataclass(frozen=True)
class VolumeController:
    """The volumes of this host."""

    host: str
    directory: Path
    client: KubeClient
    store: Store

    async def reconcile(self, key: Key) -> float | None:
        """Remove a Volume's file if its deletion was asked for and no server holds it."""
        seen = self.store.get(Volume, key[1], key[0])
        if seen is None or not removable(seen, self.host):
            return None
        body = await self.client.get(Volume, key[1], key[0])
        volume_id = removable(body, self.host) if body is not None else ""
        if body is None or not volume_id:
            return _LOOK_AGAIN if body is not None else None
        await delete_volume(self.directory, volume_id)
        await self.client.remove_finalizer(Volume, key[1], FINALIZER, key[0], uid=body["metadata"]["uid"])
        log(body).info("volume removed", volume_id=volume_id)
        return None
