"""Brings the volumes of this host to other folders, whoever has them: running guests, others, or nobody."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from kumulus_agent.compute.volume_disks import VolumeHolder
from kumulus_agent.servers.desired import Desired, read_desired
from kumulus_agent.volumes.copying import WHOLE, Copying, ElsewhereThanThought, may_copy, settle_guest
from kumulus_agent.volumes.drivers.files import taken
from kumulus_agent.volumes.drivers.protocol import Found, VolumeDriver
from kumulus_agent.volumes.moving import driver_at, move
from kumulus_agent.volumes.place import Elsewhere, Place, read_place
from kumulus_agent.volumes.snapshots import ServerSuspended, Taker
from kumulus_api import Server, Volume
from kumulus_runtime.store import Store

Key = tuple[str, str]
Tell = Callable[[], Awaitable[object]]
LOOK_SECONDS: Final = 5.0
"""Seconds between two looks at a copy that a guest's QEMU makes; that it is ready is an event."""
_LOOK_OFF_SECONDS: Final = 1.0


@dataclass(frozen=True)
class Moves:
    """The moves of this host's volumes.

    Attributes:
        taker: knows the drivers and the guests.
        store: what the watches have shown.
        under_way: copies that are being made: request and percent by the Volume.
    """

    taker: Taker
    store: Store
    under_way: dict[Key, tuple[str, int]] = field(default_factory=dict)

    async def further(self, place: Place, tell: Tell) -> None:
        """Do what is due of a move, by what a live read has said; the volume is held.

        Args:
            place: the volume.
            tell: called when there is more to tell of `under_way`.

        Raises:
            StorageError, HypervisorError, OSError: it cannot be done now.
        """
        desired = self._server_of(place)
        if desired is not None:
            await settle_guest(self.taker.guests.hypervisor, desired.instance_id)
        holder = await self.taker.guests.holder(place.volume_id)
        if place.left is not None:
            await self._clear(place, holder)
        there = place.moving
        if there is None or there.request in place.told:
            self.under_way.pop(place.key, None)
        elif holder is None:
            await self._off(place, there, tell)
        elif holder.saved:
            await self._saved(place, there)
        else:
            await self._running(place, there, holder, wanted=not there.cancelled and may_copy(desired, place.volume_id))

    async def _running(self, place: Place, there: Elsewhere, holder: VolumeHolder, *, wanted: bool) -> None:
        copying = Copying(self.taker.guests.hypervisor, self.taker.state_dir, self.taker.shelves)
        try:
            progress = await copying.further(place, there, holder, wanted=wanted)
        except BaseException:
            self.under_way.pop(place.key, None)
            raise
        if wanted and progress < WHOLE:
            self.under_way[place.key] = there.request, progress
        else:
            self.under_way.pop(place.key, None)

    async def _saved(self, place: Place, there: Elsewhere) -> None:
        """Wait: the memory of the guest goes on with the file that it had."""
        if await self._driver(there).look(place.volume_id) is None:
            await self._driver(there).remove(place.volume_id)
            if not there.cancelled:
                raise ServerSuspended(
                    "the server that has the volume is suspended, with memory that needs the file as it is; transient: "
                    "goes on when it is resumed or stopped"
                )

    async def _clear(self, place: Place, holder: VolumeHolder | None) -> None:
        """Remove what was left where the volume was, if it lies whole in its place and a guest has it there."""
        found = await self.taker.shelves.driver(self.taker.state_dir, place.folder, place.volume_class).look(
            place.volume_id
        )
        if holder is not None and (found is None or holder.path != str(found.path)):
            said = f"the guest writes to {holder.path}, not where volume {place.key[1]} shall lie; nothing is removed"
            raise ElsewhereThanThought(said)
        await move(self.taker.shelves, self.taker.state_dir, replace(place, moving=None))

    async def _off(self, place: Place, there: Elsewhere, tell: Tell) -> None:
        """Copy a volume that nobody writes to, until its server starts, which does not wait, and wakes us again."""
        task = asyncio.create_task(move(self.taker.shelves, self.taker.state_dir, place))
        here = await self.taker.shelves.driver(self.taker.state_dir, place.folder, place.volume_class).look(
            place.volume_id
        )
        try:
            while not (await asyncio.wait({task}, timeout=_LOOK_OFF_SECONDS))[0]:
                starts = place.attached_to and self.taker.shelves.waited_for(place.volume_id)
                if starts or (not there.cancelled and not self._wanted(place, there)):
                    return
                if here is not None:
                    progress = await asyncio.to_thread(self._part, place, there, here)
                    self.under_way[place.key] = there.request, progress
                    await tell()
            await task
        finally:
            self.under_way.pop(place.key, None)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _part(self, place: Place, there: Elsewhere, here: Found) -> int:
        """Give the percent of a copy by what its files take. Blocks."""
        parts = (file for folder in self._root(there).glob(f".{place.volume_id}.*") for file in folder.glob(".*.part"))
        with contextlib.suppress(OSError):
            written = sum(file.stat().st_blocks * 512 for file in parts)
            return min(99, 100 * written // max(taken(here.path, here.format), 1))
        return 0

    def _root(self, there: Elsewhere) -> Path:
        return Copying(self.taker.guests.hypervisor, self.taker.state_dir, self.taker.shelves).root(there.folder)

    def _driver(self, there: Elsewhere) -> VolumeDriver:
        return driver_at(self.taker.shelves, self.taker.state_dir, there)

    def _wanted(self, place: Place, there: Elsewhere) -> bool:
        """Say whether a volume is still wanted in another place, as the watch has it."""
        body = self.store.get(Volume, place.key[1], place.key[0])
        now = read_place(body) if body is not None else None
        return (
            now is not None
            and now.moving is not None
            and now.moving.request == there.request
            and (not now.moving.cancelled)
        )

    def _server_of(self, place: Place) -> Desired | None:
        body = self.store.get(Server, place.attached_to, place.key[0]) if place.attached_to else None
        return read_desired(body) if body is not None else None
