"""Volumes that guests of several hosts may have at once: how one is had here, and what its guests are told of it.

Its host, that of its assignment, makes it and makes it larger; all others find it on the share.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final

import structlog

from kumulus_agent.compute.errors import HypervisorError
from kumulus_agent.compute.volume_disks import VolumeHolder
from kumulus_agent.storage.direct_io import cache_mode
from kumulus_agent.storage.errors import Retryable, StorageError, Terminal
from kumulus_agent.volumes.drivers.lock import locked
from kumulus_agent.volumes.drivers.protocol import DataGone, Found
from kumulus_agent.volumes.guests import VolumeGuests
from kumulus_agent.volumes.place import Place, read_place
from kumulus_agent.volumes.shelves import ImageOf, Shelves
from kumulus_api import Volume
from kumulus_api.quantities import parse_quantity
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.workqueue import WorkQueue

Key = tuple[str, str]
_TRY_AGAIN: Final = 10.0
_LOOK_AGAIN: Final = 900.0
"""Seconds between two looks at a volume that is in use: its class may say other limits by now."""
_log = structlog.stdlib.get_logger(__name__)


class NotShareable(Terminal):
    """The file, or the share, is not such that several hosts can write to it."""

    reason = "VolumeNotShareable"


class BeingMade(Retryable):
    """Another host makes the volume."""

    reason = "VolumeBeingMade"


async def have_shareable(shelves: Shelves, state_dir: Path, place: Place, image_of: ImageOf, host: str) -> Found:
    """Have a volume that guests of other hosts may have too; only its host makes it. The volume is held.

    Raises:
        BeingMade: its host has not made it yet.
        DataGone: it was made, and is not there.
        NotShareable: it is not one raw file, or the share has no way past the page cache of this host.
        StorageError: it cannot be made.
    """
    name = place.key[1]
    if place.folder is None or await asyncio.to_thread(cache_mode, place.folder) != "none":
        raise NotShareable(
            f"the share of volume {name} has no O_DIRECT, so that hosts would read what they remember: use a share "
            "that has, or a class without multiAttach"
        )
    if place.host == host:
        found: Found | None = await shelves.have(state_dir, place, image_of)
    else:
        found = await shelves.driver(state_dir, place.folder, place.volume_class).look(place.volume_id)
    if found is None and place.known:
        raise DataGone(f"the data of volume {name} is not on its share: put it back, or delete the Volume")
    if found is None:
        raise BeingMade(f"volume {name} is being made by host {place.host}; transient: goes on when it is there")
    if found.format != "raw":
        raise NotShareable(f"volume {name} lies in {found.path}, which only one host can write: detach it elsewhere")
    return found


async def _whole(guests: VolumeGuests, holder: VolumeHolder) -> int:
    """Have a guest see all of its file; give the bytes.

    QEMU makes the file as long as it is told, and would cut off what another host has added since it was asked. So it
    is told what the file has, while no host changes that.
    """
    path = Path(holder.path)
    async with locked(path.parent.parent):
        size = (await asyncio.to_thread(path.stat)).st_size
        await guests.grow(holder, size)
    return size


class MultiAttached:
    """Tells the guests of this host of volumes that several servers may have: size and limits.

    Args:
        host: this host's name.
        client: to reach the API server.
        guests: who has volumes.
        held: makes one the only one who starts guests with volumes.
    """

    def __init__(
        self,
        host: str,
        client: KubeClient,
        guests: VolumeGuests,
        held: Callable[[Iterable[str]], AbstractAsyncContextManager[None]],
    ) -> None:
        self._host, self._client, self._guests, self._held = host, client, guests, held
        self._volumes: dict[str, Key] = {}
        """Of the Servers here, by their ids."""
        self._told: dict[tuple[str, str], int] = {}
        """Bytes that a guest knows of, by the ids of instance and volume."""
        self.queue: WorkQueue[str] = WorkQueue("multi-attached-volumes")

    def server_seen(self, body: Mapping[str, Any]) -> None:
        """Have those looked at that a Server of this host is told to be larger than its guest knows."""
        given = (body.get("spec") or {}).get("assignment") or {}
        if given.get("host") != self._host:
            return
        for item in given.get("volumes") or []:
            volume_id = item["volumeID"]
            if item.get("multiAttach"):
                self._volumes[volume_id] = (body["metadata"]["namespace"], item["volume"])
                if self._told.get((given["instanceID"], volume_id), 0) < parse_quantity(item["size"]):
                    self.queue.add(volume_id)

    async def reconcile(self, volume_id: str) -> float | None:
        """Have all guests here know how large a volume is, and use it as fast as they may."""
        key = self._volumes.get(volume_id)
        told = await self._client.get(Volume, key[1], key[0]) if key is not None else None
        place = read_place(told) if told is not None else None
        if place is None or place.volume_id != volume_id:
            self._forget(volume_id)
            return None
        try:
            async with self._held([volume_id]):
                return await self._tell(place)
        except (HypervisorError, StorageError, OSError) as error:
            _log.info("a guest is not told of its volume", volume_id=volume_id, error=str(error))
            return _TRY_AGAIN

    async def _tell(self, place: Place) -> float | None:
        volume_id = place.volume_id
        holders = await self._guests.holders(volume_id)
        if not holders:
            self._forget(volume_id)  # With its next guest it is seen again.
            return None
        # One whose memory is saved is told when it goes on: its Server changes then.
        for holder in (item for item in holders if not item.saved):
            self._told[holder.instance_id, volume_id] = await _whole(self._guests, holder)
            await self._guests.tune(holder.instance_id, volume_id, place.limits)
        return _LOOK_AGAIN

    def _forget(self, volume_id: str) -> None:
        self._volumes.pop(volume_id, None)
        self._told = {known: size for known, size in self._told.items() if known[1] != volume_id}
