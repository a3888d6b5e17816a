"""Tells of the Volumes here, and removes the files of deleted ones; they are made when a server first uses them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kumulus_agent import metrics
from kumulus_agent.servers.report import MANAGER
from kumulus_agent.storage.volume import delete_volume, volume_size, volume_used
from kumulus_agent.volumes.plan import volume_status
from kumulus_api import FINALIZER, GROUP, VERSION, Volume
from kumulus_runtime.api_client import KubeClient, NotFound
from kumulus_runtime.events import EventRecorder
from kumulus_runtime.logs import log
from kumulus_runtime.store import Store

Key = tuple[str, str]
_LOOK_AGAIN = 5.0
_MEASURE_AGAIN = 900.0
"""Seconds between two looks at how much of a volume is used; most of them are followed by no write."""


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
    events: EventRecorder

    async def reconcile(self, key: Key) -> float | None:
        """Tell of a Volume; remove its file if its deletion was asked for and no server holds it."""
        seen = self.store.get(Volume, key[1], key[0])
        if seen is None:
            return None
        if not removable(seen, self.host):
            return await self._tell(key, seen)
        body = await self.client.get(Volume, key[1], key[0])
        volume_id = removable(body, self.host) if body is not None else ""
        if body is None or not volume_id:
            return _LOOK_AGAIN if body is not None else None
        await delete_volume(self.directory, volume_id)
        await self.client.remove_finalizer(Volume, key[1], FINALIZER, key[0], uid=body["metadata"]["uid"])
        log(body).info("volume removed", volume_id=volume_id)
        self.events.post(_about(body), "Removed", f"its data on host {self.host} is gone")
        return None

    async def _tell(self, key: Key, body: dict[str, Any]) -> float | None:
        assignment = (body.get("spec") or {}).get("assignment") or {}
        if assignment.get("host") != self.host or body["metadata"].get("deletionTimestamp"):
            return None
        volume_id = assignment["volumeID"]
        size = await volume_size(self.directory, volume_id)
        status = volume_status(body, await volume_used(self.directory, volume_id), size or 0)
        if status is not None:
            about = _about(body)
            try:
                written = await self.client.apply_status(
                    Volume, {"metadata": about["metadata"], "status": status}, manager=MANAGER
                )
            except NotFound:
                return None
            metrics.STATUS_WRITES.labels(kind="Volume").inc()
            self.store.apply("MODIFIED", written)
            if (body.get("status") or {}).get("usedBytes") is None:
                self.events.post(about, "Created", f"made on host {self.host}")
        return _MEASURE_AGAIN


def _about(body: dict[str, Any]) -> dict[str, Any]:
    metadata = {part: body["metadata"][part] for part in ("name", "namespace", "uid")}
    return {"apiVersion": f"{GROUP}/{VERSION}", "kind": "Volume", "metadata": metadata}
