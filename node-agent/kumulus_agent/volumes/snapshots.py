"""Takes snapshots of the volumes here, whether a guest runs or not, and removes them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kumulus_agent import metrics
from kumulus_agent.compute.errors import HypervisorError
from kumulus_agent.servers.report import MANAGER
from kumulus_agent.storage.errors import Retryable, StorageError, Terminal
from kumulus_agent.volumes.drivers.protocol import VolumeDriver
from kumulus_agent.volumes.exports.serving import Exports
from kumulus_agent.volumes.guests import VolumeGuests
from kumulus_agent.volumes.place import Place, read_place
from kumulus_agent.volumes.plan import Word, fault_of, snapshot_status
from kumulus_agent.volumes.shelves import Shelves
from kumulus_api import FINALIZER, GROUP, VERSION, Volume, VolumeSnapshot
from kumulus_api.volume_snapshot import Consistency
from kumulus_runtime.api_client import KubeClient, NotFound
from kumulus_runtime.events import EventRecorder
from kumulus_runtime.logs import log
from kumulus_runtime.store import Store

Key = tuple[str, str]
_AGAIN = 10.0
_MUCH_LATER = 600.0


class ServerSuspended(Retryable):
    """The memory of a guest is saved, with which it goes on on the file that it had."""

    reason = "ServerSuspended"


@dataclass(frozen=True)
class Taker:
    """Takes snapshots; see `VolumeDriver.begin_snapshot`."""

    state_dir: Path
    shelves: Shelves
    guests: VolumeGuests
    exports: Exports | None = None

    async def settle(self, driver: VolumeDriver, volume_id: str) -> None:
        """End a snapshot that was begun, or take it back, by where the guest is. The volume is held.

        Raises:
            StorageError, HypervisorError: it cannot be done now.
        """
        found = await driver.look(volume_id)
        if found is None or not found.pending:
            return
        holder = await self.guests.holder(volume_id)
        if holder is not None and holder.path == str(found.path):
            await driver.cancel_snapshot(volume_id)
        else:
            await driver.end_snapshot(volume_id)

    async def take(self, driver: VolumeDriver, volume_id: str, snapshot_id: str) -> Consistency:
        """Take a snapshot. The volume is held.

        Raises:
            StorageError, HypervisorError: it cannot be taken now; the volume is as it was.
        """
        if self.exports is not None and self.exports.runs(volume_id):
            # What another host has written is on the disk, and what it writes meanwhile waits.
            await self.exports.pause(volume_id)
            try:
                await driver.snapshot(volume_id, snapshot_id)
            finally:
                self.exports.ended(volume_id)
            return Consistency.CRASH
        await self.settle(driver, volume_id)
        holder = await self.guests.holder(volume_id)
        if holder is None:
            await driver.snapshot(volume_id, snapshot_id)
            return Consistency.OFFLINE
        if holder.saved:
            raise ServerSuspended(
                "the server that has the volume is suspended, with memory that needs the file as it is; transient: "
                "goes on when it is resumed or stopped"
            )
        layer = await driver.begin_snapshot(volume_id, snapshot_id)
        if layer is None:
            return Consistency.CRASH
        try:
            async with AsyncExitStack() as stack:
                if driver.key is not None:
                    await stack.enter_async_context(self.guests.keyed(volume_id, driver.key))
                frozen = await self.guests.move_on(holder, layer)
        except HypervisorError:
            await self.settle(driver, volume_id)
            raise
        await driver.end_snapshot(volume_id)
        return Consistency.FILE_SYSTEM if frozen else Consistency.CRASH


@dataclass(frozen=True)
class VolumeSnapshotController:
    """The snapshots that this host keeps.

    Attributes:
        host: this host's name.
        client: to reach the API server.
        store: what the watches have shown.
        events: to tell of them.
        taker: takes snapshots.
        volume_changed: has a Volume looked at.
        server_changed: has a Server looked at: whether it can migrate may be another matter now.
    """

    host: str
    client: KubeClient
    store: Store
    events: EventRecorder
    taker: Taker
    volume_changed: Callable[[Key], None]
    server_changed: Callable[[Key], None]

    async def reconcile(self, key: Key) -> float | None:
        """Take a snapshot, or remove it."""
        seen = self.store.get(VolumeSnapshot, key[1], key[0])
        if seen is None or not self._ours(VolumeSnapshot.model_validate(seen)):
            return None
        snapshot = VolumeSnapshot.model_validate(seen)
        if not snapshot.deleting and snapshot.status is not None and snapshot.status.restore_size is not None:
            return None
        live = await self.client.get(VolumeSnapshot, key[1], key[0])
        snapshot = VolumeSnapshot.model_validate(live) if live is not None else snapshot
        if live is None or not self._ours(snapshot):
            return None
        try:
            if snapshot.deleting:
                await self._remove(snapshot, live)
                return None
            word = await self._take(snapshot)
        except (StorageError, HypervisorError, OSError) as error:
            await self._tell(live, Word(fault=fault_of(error)))
            return _MUCH_LATER if isinstance(error, Terminal) else _AGAIN
        await self._tell(live, word)
        return None

    def _ours(self, snapshot: VolumeSnapshot) -> bool:
        given = snapshot.spec.assignment
        return given is not None and given.host == self.host

    def _driver(self, snapshot: VolumeSnapshot) -> VolumeDriver:
        given = snapshot.spec.assignment
        assert given is not None  # noqa: S101 - it is ours
        folder = Path(given.folder) if given.folder is not None else None
        return self.taker.shelves.driver(self.taker.state_dir, folder, given.volume_class or "")

    async def _take(self, snapshot: VolumeSnapshot) -> Word:
        given = snapshot.spec.assignment
        assert given is not None  # noqa: S101 - it is ours
        driver, volume_id = self._driver(snapshot), given.volume_id
        async with self.taker.shelves.held([volume_id]):
            place = await self._place(snapshot)
            if place is None or place.volume_id != volume_id or place.host != self.host:
                raise Retryable("the volume is on its way to another host; it is tried again")
            driver = await self.taker.shelves.opened(self.taker.state_dir, place)
            consistency = await self.taker.take(driver, volume_id, given.snapshot_id)
            found = await driver.look(volume_id)
        told = snapshot.status.consistency if snapshot.status is not None else None
        size = found.snapshots.get(given.snapshot_id) if found is not None else None
        if size is None:
            raise Retryable("the snapshot is not there yet; it is tried again")
        if place.attached_to:
            self.server_changed((snapshot.key[0], place.attached_to))
        self.events.post(_about(snapshot), "Taken", f"taken on host {self.host}: {consistency.value}")
        return Word(restore_size=size, consistency=told or consistency)

    async def _place(self, snapshot: VolumeSnapshot) -> Place | None:
        body = await self.client.get(Volume, snapshot.spec.volume.name, snapshot.key[0])
        return read_place(body) if body is not None else None

    async def _remove(self, snapshot: VolumeSnapshot, live: dict[str, Any]) -> None:
        given = snapshot.spec.assignment
        if given is None or FINALIZER not in snapshot.metadata.finalizers:
            return
        driver = self._driver(snapshot)
        async with self.taker.shelves.held([given.volume_id]):
            await self.taker.settle(driver, given.volume_id)
            for place in self._copies_to_come(given.snapshot_id):
                # Asked for while it was there.
                await self.taker.shelves.have(self.taker.state_dir, replace(place, known=False), _no_image)
            await driver.remove_snapshot(given.volume_id, given.snapshot_id)
        key, uid = snapshot.key, live["metadata"]["uid"]
        await self.client.remove_finalizer(VolumeSnapshot, key[1], FINALIZER, key[0], uid=uid)
        log(live).info("snapshot removed", snapshot_id=given.snapshot_id)
        self.volume_changed((key[0], snapshot.spec.volume.name))

    def _copies_to_come(self, snapshot_id: str) -> list[Place]:
        places = (read_place(body) for body in self.store.list(Volume))
        return [
            place
            for place in places
            if place is not None
            and place.awaits_copying
            and place.host == self.host
            and place.origin is not None
            and place.origin.snapshot_id == snapshot_id
        ]

    async def _tell(self, live: dict[str, Any], word: Word) -> None:
        status = snapshot_status(live, word)
        if status is None:
            return
        metadata = {part: live["metadata"][part] for part in ("name", "namespace", "uid")}
        try:
            written = await self.client.apply_status(
                VolumeSnapshot, {"metadata": metadata, "status": status}, manager=MANAGER
            )
        except NotFound:
            return
        metrics.STATUS_WRITES.labels(kind="VolumeSnapshot").inc()
        self.store.apply("MODIFIED", written)


async def _no_image(image: object) -> Any:
    raise LookupError(f"a copy of a snapshot is of no image: {image!r}")


def _about(snapshot: VolumeSnapshot) -> dict[str, Any]:
    metadata = {"name": snapshot.key[1], "namespace": snapshot.key[0], "uid": snapshot.metadata.uid}
    return {"apiVersion": f"{GROUP}/{VERSION}", "kind": "VolumeSnapshot", "metadata": metadata}
