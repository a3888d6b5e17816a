"""Makes copies, grows, reverts, tells of and removes the Volumes here; blank ones are made by the first server.

Those that several servers may have are made here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from kumulus_agent import metrics
from kumulus_agent.backups.restores import Restores
from kumulus_agent.compute.errors import HypervisorError
from kumulus_agent.servers.desired import read_desired
from kumulus_agent.servers.report import MANAGER
from kumulus_agent.storage.errors import Retryable, StorageError, Terminal
from kumulus_agent.storage.image_cache import CachedImage
from kumulus_agent.volumes.drivers.keys import check_encryption
from kumulus_agent.volumes.drivers.protocol import Found, VolumeDriver
from kumulus_agent.volumes.exports.serving import Exports
from kumulus_agent.volumes.moves import LOOK_SECONDS, Moves
from kumulus_agent.volumes.moving import clear, moved
from kumulus_agent.volumes.place import Place, read_place
from kumulus_agent.volumes.plan import Export, Fault, fault_of, volume_status
from kumulus_agent.volumes.snapshots import Taker
from kumulus_api import FINALIZER, GROUP, VERSION, Server, Volume, VolumeSnapshot
from kumulus_api.server_assignment import AssignedImage
from kumulus_api.volume_limits import AssignedLimits
from kumulus_runtime.api_client import KubeClient, NotFound
from kumulus_runtime.events import EventRecorder
from kumulus_runtime.logs import log
from kumulus_runtime.store import Store

Key = tuple[str, str]
_UNKNOWN = AssignedLimits(burst_seconds=1)
"""Of no volume: a burst without a limit."""
_LOOK_AGAIN = 5.0
_TRY_AGAIN = 10.0
_MEASURE_AGAIN = 900.0
"""Seconds between two looks at how much of a volume is used; most of them are followed by no write."""


def removable(body: dict[str, Any], host: str) -> str:
    """Give the volume's id if its files may be removed; empty if not.

    Args:
        body: the Volume as a live read showed it.
        host: this host.
    """
    place, metadata = read_place(body), body["metadata"]
    if place is None or "deletionTimestamp" not in metadata or FINALIZER not in (metadata.get("finalizers") or []):
        return ""
    return place.volume_id if place.host == host and not place.attached_to else ""


@dataclass(frozen=True)
class VolumeController:
    """The volumes of this host.

    Attributes:
        host: this host's name.
        client: to reach the API server.
        store: what the watches have shown.
        events: to tell of them.
        taker: takes snapshots, and knows the drivers and the guests.
        image_of: gives an image in this host's cache.
        exports: lets other hosts have volumes of this one; None where that is not possible.
        tuned: limits of volumes, by their id, that guests are known to have.
        restores: fills volumes that are made of backups.
    """

    host: str
    client: KubeClient
    store: Store
    events: EventRecorder
    taker: Taker
    image_of: Callable[[AssignedImage], Awaitable[CachedImage]]
    exports: Exports | None = None
    tuned: dict[str, AssignedLimits | None] = field(default_factory=dict)
    restores: Restores | None = None
    moves: Moves = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "moves", Moves(self.taker, self.store))

    async def reconcile(self, key: Key) -> float | None:
        """Bring a Volume to what was decided, and tell of it; remove its files if its deletion was asked for."""
        seen = self.store.get(Volume, key[1], key[0])
        if seen is None:
            return None
        if removable(seen, self.host):
            return await self._remove(key)
        place = read_place(seen)
        if place is None or place.host != self.host or "deletionTimestamp" in seen["metadata"]:
            return None
        driver, fault, wait = self._driver(place), None, _MEASURE_AGAIN
        found: Found | None = None
        export: Export | None = None
        words: dict[str, str] = {}
        try:
            if place.exported_to:
                found, export = await self._export(place, driver)
            else:
                if self.exports is not None:
                    await self.exports.absent(place.volume_id)
                found = await self._bring(place, driver)
                words = await moved(self.taker.shelves, self.taker.state_dir, place)
                await self._tune(place)
        except (StorageError, HypervisorError, OSError) as error:
            fault = fault_of(error)
            wait = _MEASURE_AGAIN if isinstance(error, Terminal) else getattr(error, "delay", _TRY_AGAIN)
        if fault is None and place.moves and not words:
            wait = LOOK_SECONDS
        return wait if await self._tell(key, seen, found, fault, export=export, words=words) else None

    def _driver(self, place: Place) -> VolumeDriver:
        return self.taker.shelves.driver(self.taker.state_dir, place.folder, place.volume_class)

    async def _export(self, place: Place, driver: VolumeDriver) -> tuple[Found, Export]:
        """Let the named hosts have a volume, as large as it was admitted, which is made if none had it before."""
        if self.exports is None:
            raise Retryable(f"volumes are not exported by host {self.host}")
        volume_id = place.volume_id
        async with self.taker.shelves.held([volume_id]):
            found = await driver.look(volume_id)
            if found is None:
                found = await self.taker.shelves.have(self.taker.state_dir, place, self.image_of)
            if found.format == "qcow2":
                # What is served is what lies there: of an encrypted volume that is of no use to anybody.
                await asyncio.to_thread(check_encryption, found.path, wanted=False)
            if found.size < place.size or found.pending:
                # Whoever writes waits until it goes on.
                await self.exports.pause(volume_id)
                found = await driver.make(volume_id, place.size, known=True)
            return found, (await self.exports.ensure(volume_id, found, place.exported_to), place.exported_to)

    async def _bring(self, place: Place, driver: VolumeDriver) -> Found | None:
        """Make, grow and revert as far as it is due; give what is there then."""
        found = await driver.look(place.volume_id)
        if found is None and not place.awaits_copying and not place.multi_attach:
            return None  # The first server makes it; of one that is lost its next start tells.
        if found is not None and not self._due(place, found):
            return found
        if found is None and place.origin is not None and place.origin.backup is not None and self.restores is not None:
            opened = partial(self.taker.shelves.opened, self.taker.state_dir, place)
            return await self.restores.have(driver, place, opened)
        async with self.taker.shelves.held([place.volume_id]):
            driver = await self.taker.shelves.opened(self.taker.state_dir, place)
            if found is None:
                return await self._copy(place, driver)
            await self._change(place, driver)
            return await driver.look(place.volume_id)

    async def _tune(self, place: Place) -> None:
        """Have the guest that has a volume use it as fast as it may; of several their own hosts see to that."""
        if place.multi_attach:
            return
        body = self.store.get(Server, place.attached_to, place.key[0]) if place.attached_to else None
        desired = read_desired(body) if body is not None else None
        if desired is None:
            self.tuned.pop(place.volume_id, None)
        elif self.tuned.get(place.volume_id, _UNKNOWN) != place.limits:
            # A start that is under way reads what holds before it begins, or is over.
            async with self.taker.shelves.held([place.volume_id]):
                await self.taker.guests.tune(desired.instance_id, place.volume_id, place.limits)
            self.tuned[place.volume_id] = place.limits

    def _due(self, place: Place, found: Found) -> bool:
        reverting = bool(place.revert[1]) and place.revert[1] != found.reverted
        merging = not place.attached_to and found.layers > 1 + len(found.snapshots)
        return bool(found.pending) or found.size < place.size or reverting or merging or place.moves

    async def _change(self, place: Place, driver: VolumeDriver) -> None:
        await self.taker.settle(driver, place.volume_id)
        # One raw file can be made larger while guests write to it, of which their hosts tell them then.
        holder = await self.taker.guests.holder(place.volume_id) if not place.multi_attach else None
        if holder is not None and not place.moves:
            if not holder.saved:  # One whose memory is saved grows when it goes on.
                await self.taker.guests.grow(holder, place.size)
            return
        live = await self.client.get(Volume, place.key[1], place.key[0])
        now = read_place(live) if live is not None else None
        if now is None or now.host != self.host or now.volume_id != place.volume_id:
            raise Retryable("the volume is on its way to another host; it is tried again")
        if holder is None:
            await driver.grow(place.volume_id, place.size)
        if now.moves or holder is not None:
            await self.moves.further(now, partial(self._tell_progress, now.key))
            return
        if now.attached_to:
            return
        snapshot_id, request = now.revert
        if request:
            await driver.revert(place.volume_id, snapshot_id, request)
        await driver.merge(place.volume_id)

    async def _tell_progress(self, key: Key) -> None:
        body = self.store.get(Volume, key[1], key[0])
        if body is not None:
            await self._tell(key, body, None, None)

    async def _copy(self, place: Place, driver: VolumeDriver) -> Found:
        """Make a copy of what lies beside it."""
        origin = place.origin
        if origin is None or not origin.taken or origin.volume_id is None:
            return await self.taker.shelves.have(self.taker.state_dir, place, self.image_of)
        async with self.taker.shelves.held([origin.volume_id]):
            await self.taker.take(driver, origin.volume_id, place.volume_id)
        settled = origin.model_copy(update={"taken": False, "snapshot_id": place.volume_id})
        found = await self.taker.shelves.have(self.taker.state_dir, replace(place, origin=settled), self.image_of)
        await driver.remove_snapshot(origin.volume_id, place.volume_id)
        return found

    async def _remove(self, key: Key) -> float | None:
        body = await self.client.get(Volume, key[1], key[0])
        volume_id = removable(body, self.host) if body is not None else ""
        place = read_place(body) if body is not None else None
        if body is None or place is None or not volume_id:
            return _LOOK_AGAIN if body is not None else None
        driver = self._driver(place)
        if self.restores is not None:
            await self.restores.cancel(volume_id)
        try:
            async with self.taker.shelves.held([volume_id]):
                if await self._has_snapshots(key[0], volume_id):
                    return None  # The last of them wakes us.
                if self.exports is not None:
                    await self.exports.absent(volume_id)
                if place.origin is not None and place.origin.taken and place.origin.volume_id is not None:
                    await driver.remove_snapshot(place.origin.volume_id, volume_id)
                await clear(self.taker.shelves, self.taker.state_dir, place)
                await driver.remove(volume_id)
        except (StorageError, OSError) as error:
            await self._tell(key, body, None, fault_of(error))
            return _TRY_AGAIN
        await self.client.remove_finalizer(Volume, key[1], FINALIZER, key[0], uid=body["metadata"]["uid"])
        log(body).info("volume removed", volume_id=volume_id)
        self.events.post(_about(body), "Removed", f"its data on host {self.host} is gone")
        return None

    async def _has_snapshots(self, namespace: str, volume_id: str) -> bool:
        """Ask the API: of what it does not know, as after a restore, nobody can make anything."""
        bodies = (await self.client.list(VolumeSnapshot, namespace))[0]
        given = (VolumeSnapshot.model_validate(body).spec.assignment for body in bodies)
        return any(item is not None and item.volume_id == volume_id for item in given)

    async def _tell(
        self,
        key: Key,
        body: dict[str, Any],
        found: Found | None,
        fault: Fault | None,
        *,
        export: Export | None = None,
        words: Mapping[str, str] | None = None,
    ) -> bool:
        """Write what has changed; give whether the Volume is still there."""
        moving = self.moves.under_way.get(key)
        status = volume_status(body, found, fault, export=export, moved=words, moving=moving)
        if status is None:
            return True
        about = _about(body)
        try:
            written = await self.client.apply_status(
                Volume, {"metadata": about["metadata"], "status": status}, manager=MANAGER
            )
        except NotFound:
            return False
        metrics.STATUS_WRITES.labels(kind="Volume").inc()
        self.store.apply("MODIFIED", written)
        former = body.get("status") or {}
        if found is not None and former.get("usedBytes") is None:
            self.events.post(about, "Created", f"made on host {self.host}")
        if moving is not None and (former.get("moving") or {}).get("request") != moving[0]:
            self.events.post(about, "Moving", f"is being copied on host {self.host} to where its class is kept")
        if status.get("moved") != former.get("moved"):
            self.events.post(about, "Moved", f"lies on host {self.host} where its class is kept")
        return True


def _about(body: dict[str, Any]) -> dict[str, Any]:
    metadata = {part: body["metadata"][part] for part in ("name", "namespace", "uid")}
    return {"apiVersion": f"{GROUP}/{VERSION}", "kind": "Volume", "metadata": metadata}
