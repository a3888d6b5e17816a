"""Where a disk is read for a backup: a layer that nobody writes, or what QEMU serves of a guest that runs.

The root disk of a guest that is off has no layers. It is read as it lies, and nobody is kept from starting the guest:
if its file was written to before all is read, that attempt has come to nothing, and the next one reads the guest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from kumulus_agent.backups.marks import mark_of
from kumulus_agent.backups.pulls import Pulls, Served
from kumulus_agent.backups.root_disks import SourceGone
from kumulus_agent.compute.volume_disks import VolumeHolder
from kumulus_agent.servers.instance_files import instance_files
from kumulus_agent.storage.errors import Retryable, StorageError
from kumulus_agent.volumes.drivers.keys import VolumeKey, check_encryption
from kumulus_agent.volumes.drivers.layers import layer_format, read_record
from kumulus_agent.volumes.drivers.protocol import VolumeDriver
from kumulus_agent.volumes.place import VOLUMES
from kumulus_agent.volumes.snapshots import ServerSuspended, Taker
from kumulus_api.volume_backup import BackupAssignment
from kumulus_api.volume_snapshot import Consistency


@dataclass(frozen=True)
class Sources:
    """The volumes and root disks of this host, to be read.

    Attributes:
        taker: takes snapshots, and knows the drivers and the guests.
        pulls: has disks of guests served.
    """

    taker: Taker
    pulls: Pulls

    async def open(
        self,
        namespace: str,
        given: BackupAssignment,
        taken_at: str,
        mates: Callable[[], Mapping[str, BackupAssignment]],
        still: Callable[[], bool],
    ) -> Served:
        """Have a disk as it is at this moment, or was when an attempt before this one began.

        Args:
            namespace: of its project.
            given: the backup.
            taken_at: the moment that was told; empty if none was.
            mates: gives other backups, by their ids, that are to be of the same moment if one guest has all disks.
            still: gives whether the volume is still to be read here.

        Raises:
            SourceGone: it is not here.
            StorageError, HypervisorError: it cannot be read now.
        """
        if given.root_disk is not None:
            return await self._root_disk(namespace, given, mates)
        key = await self._key(namespace, given)
        served = await self._volume(namespace, given, taken_at, mates, still, key)
        return replace(served, key=key.content if key is not None else b"")

    async def _volume(  # noqa: PLR0917 - what `open` was asked
        self,
        namespace: str,
        given: BackupAssignment,
        taken_at: str,
        mates: Callable[[], Mapping[str, BackupAssignment]],
        still: Callable[[], bool],
        key: VolumeKey | None,
    ) -> Served:
        volume_id = given.volume_id or ""
        if given.snapshot_id is not None:
            return await self._layer(given, given.snapshot_id, taken_at)
        plain = self._driver(given)
        driver = plain.with_key(key) if key is not None else plain
        async with self.taker.shelves.held([volume_id]):
            if not still():
                raise Retryable("the volume is on its way to another host; it is tried again")
            if await driver.look(volume_id) is None:
                raise SourceGone(
                    f"the data of volume {volume_id} is not on this host: put it back, or delete the backup"
                )
            await self.taker.settle(driver, volume_id)
            found = await driver.look(volume_id)
            if found is not None and given.backup_id in found.snapshots:
                await self.pulls.leave(given.backup_id)  # it was to be of the same moment as another
                return await self._layer(given, given.backup_id, taken_at)
            if found is not None and found.format == "qcow2":
                await asyncio.to_thread(check_encryption, found.path, wanted=key is not None)
            holder = await self.taker.guests.holder(volume_id)
            if holder is None:
                consistency = await self.taker.take(driver, volume_id, given.backup_id)
                return replace(await self._layer(given, given.backup_id, ""), consistency=consistency)
            if holder.saved:
                raise _suspended()
            return await self._join(namespace, given, holder, mates())

    async def _key(self, namespace: str, given: BackupAssignment) -> VolumeKey | None:
        if given.seal is None:
            return None
        return await self.taker.shelves.key_of((namespace, given.seal.volume), given.seal.encryption)

    async def _join(
        self, namespace: str, given: BackupAssignment, holder: VolumeHolder, mates: Mapping[str, BackupAssignment]
    ) -> Served:
        files, keys = {}, {}
        for backup_id, mate in ({given.backup_id: given} | dict(mates)).items():
            file = await self._file_in(holder.instance_id, mate)
            if file is None:
                continue
            try:
                key = await self._key(namespace, mate)
            except StorageError:
                if backup_id == given.backup_id:
                    raise
                continue  # It says so itself, and holds up no other.
            files[backup_id] = file
            if key is not None and mate.volume_id is not None:
                keys[mate.volume_id] = key
        return await self.pulls.join(given.backup_id, holder, files, keys)

    async def _root_disk(
        self, namespace: str, given: BackupAssignment, mates: Callable[[], Mapping[str, BackupAssignment]]
    ) -> Served:
        instance_id = given.root_disk.instance_id if given.root_disk is not None else ""
        file = self._root_file(instance_id)
        try:
            # Before it is seen that no guest runs: whatever one writes that is started after that is noticed.
            mark = await asyncio.to_thread(mark_of, file)
        except FileNotFoundError:
            message = f"instance {instance_id} has no root disk on this host: put it back, or delete the backup"
            raise SourceGone(message) from None
        holder = await self.taker.guests.holder_of_root(instance_id)
        if holder is None:
            source = {"file": str(file), "format": "qcow2", "mark": mark}
            return Served(source, Consistency.OFFLINE, _now())
        if holder.saved:
            raise _suspended()
        return await self._join(namespace, given, holder, mates())

    async def _file_in(self, instance_id: str, given: BackupAssignment) -> str | None:
        """Give the file of a guest that runs which a backup is of; None if it has no such disk."""
        if given.root_disk is not None:
            return str(self._root_file(instance_id)) if given.root_disk.instance_id == instance_id else None
        holder = await self.taker.guests.holder(given.volume_id or "")
        return holder.path if holder is not None and holder.instance_id == instance_id and not holder.saved else None

    def _root_file(self, instance_id: str) -> Path:
        return instance_files(self.taker.guests.instances, instance_id).root_disk

    async def close(self, given: BackupAssignment) -> bool:
        """Have nothing here any more for a backup; give whether the volume may be merged. None is success.

        Raises:
            StorageError, HypervisorError, OSError: it cannot be done now.
        """
        await self.pulls.leave(given.backup_id)
        if given.volume_id is None or given.snapshot_id is not None:
            return False
        driver = self._driver(given)
        found = await driver.look(given.volume_id)
        if found is None or given.backup_id not in {*found.snapshots, found.pending}:
            return False
        async with self.taker.shelves.held([given.volume_id]):
            await self.taker.settle(driver, given.volume_id)
            await driver.remove_snapshot(given.volume_id, given.backup_id)
        return True

    def _driver(self, given: BackupAssignment) -> VolumeDriver:
        folder = Path(given.folder) if given.folder is not None else None
        return self.taker.shelves.driver(self.taker.state_dir, folder, given.volume_class or "")

    async def _layer(self, given: BackupAssignment, snapshot_id: str, taken_at: str) -> Served:
        root = (Path(given.folder) if given.folder is not None else self.taker.state_dir) / VOLUMES
        record = await asyncio.to_thread(read_record, root, given.volume_id or "")
        layer = record.snapshots.get(snapshot_id) if record is not None else None
        if layer is None:
            raise SourceGone(f"snapshot {snapshot_id} of volume {given.volume_id} is not on this host: make another")
        if layer_format(layer) == "qcow2":
            # What QEMU gives of it is in the clear: it must be known that it is to be sealed.
            await asyncio.to_thread(check_encryption, root / layer, wanted=given.seal is not None)
        source = {"file": str(root / layer), "format": layer_format(layer)}
        return Served(source, Consistency.OFFLINE, taken_at or _now())


def _suspended() -> ServerSuspended:
    return ServerSuspended("the server is suspended; transient: goes on when it is resumed or stopped")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
