"""Disks of guests that run, served by QEMU as they were at one moment, for as long as backups are made of them.

No layer is put on a volume for it, so a guest that is backed up daily runs on one file for years. All volumes of a
guest that one run of a policy backs up are of one moment.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID
from weakref import WeakValueDictionary

from kumulus_agent.compute.disk_pull import begin_pull, end_pull, is_served
from kumulus_agent.compute.errors import InstanceNotFound
from kumulus_agent.compute.volume_disks import VolumeHolder
from kumulus_agent.servers.instance_files import instance_files
from kumulus_agent.storage.errors import Retryable
from kumulus_agent.volumes.drivers.keys import VolumeKey
from kumulus_agent.volumes.guests import VolumeGuests
from kumulus_api.volume_snapshot import Consistency

_PAUSE: Final = 0.05
_SOCKETS: Final = "backups"


class GuestBusy(Retryable):
    """A guest's disks are copied for something else."""

    reason = "ServerBusy"


@dataclass(frozen=True, slots=True)
class Served:
    """A disk as it was at a moment: where it is read, and what it is like."""

    source: dict[str, Any]
    consistency: Consistency
    taken_at: str
    key: bytes = field(default=b"", repr=False)
    """Of a volume that is encrypted."""


@dataclass
class _Pull:
    members: dict[str, str]
    """Exports by the backups that are, or will be, made of them."""
    socket: Path
    scratches: list[Path]
    consistency: Consistency
    taken_at: str


class Pulls:
    """The guests whose disks are served here.

    Args:
        guests: that have volumes.
        run_dir: for sockets.
        qemu_folder: belongs to the user as whom QEMU runs.
    """

    def __init__(self, guests: VolumeGuests, run_dir: Path, qemu_folder: Path) -> None:
        self._guests = guests
        self._sockets = run_dir / _SOCKETS
        self._qemu_folder = qemu_folder
        self._open: dict[str, _Pull] = {}
        self._works: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def join(
        self,
        backup_id: str,
        holder: VolumeHolder,
        mates: Mapping[str, str],
        keys: Mapping[str, VolumeKey] = MappingProxyType({}),
    ) -> Served:
        """Have the disk of a guest served.

        Args:
            backup_id: for which.
            holder: that guest, and the file of the volume.
            mates: files of its other disks by the backups that are made of them at the same moment.
            keys: of those of them that are encrypted volumes, and of the own, by the volumes' ids.

        Raises:
            GuestBusy: another copy goes on.
            HypervisorError: it is refused.
        """
        async with self._works.setdefault(holder.instance_id, asyncio.Lock()):
            pull = self._open.get(holder.instance_id)
            if pull is None:
                pull = await self._begin(holder.instance_id, {backup_id: holder.path} | dict(mates), keys)
            if backup_id not in pull.members:
                raise GuestBusy("other volumes of the server are being backed up; transient: goes on then")
        source = {"socket": str(pull.socket), "export": pull.members[backup_id]}
        return Served(source, pull.consistency, pull.taken_at)

    async def leave(self, backup_id: str) -> None:
        """Have the disk of a guest served no more for a backup; none is success.

        Raises:
            HypervisorError: it may still be.
        """
        for instance_id, pull in list(self._open.items()):
            if backup_id not in pull.members:
                continue
            async with self._works.setdefault(instance_id, asyncio.Lock()):
                if set(pull.members) <= {backup_id}:
                    await self._end(instance_id, pull.scratches)
                    self._open.pop(instance_id, None)
                pull.members.pop(backup_id, None)

    async def sweep(self) -> None:
        """End what an agent before has left.

        Raises:
            HypervisorError: libvirtd does not answer.
        """
        left = await asyncio.to_thread(lambda: sorted(self._guests.instances.glob("*/backup-*.scratch")))
        for scratch in left:
            await self._end(str(UUID(scratch.parent.name)), [scratch])
        await asyncio.to_thread(shutil.rmtree, self._sockets, True)

    async def _begin(self, instance_id: str, files: dict[str, str], keys: Mapping[str, VolumeKey]) -> _Pull:
        paths = instance_files(self._guests.instances, instance_id)
        scratches = {file: paths.directory / f"backup-{backup_id}.scratch" for backup_id, file in files.items()}
        if await self._on(instance_id, "look for copies", is_served):
            raise GuestBusy("another copy of the server's disks goes on; transient: goes on then")
        for scratch in scratches.values():
            await asyncio.to_thread(scratch.unlink, missing_ok=True)
        socket = await asyncio.to_thread(self._socket, instance_id)
        owed = paths.thaw_owed
        begin = partial(begin_pull, disks=scratches, socket=socket, owed=owed)
        taken_at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        begun = asyncio.create_task(self._begun(instance_id, begin, keys))
        try:
            names, frozen = await asyncio.shield(begun)
        except BaseException:
            await asyncio.wait([begun])  # libvirt's call goes on to its end, also without us
            left = [scratch for scratch in scratches.values() if await asyncio.to_thread(scratch.exists)]
            if left:  # else libvirt has refused before it began, maybe for the sake of another copy
                await self._end(instance_id, left)
            raise
        finally:
            if await asyncio.to_thread(owed.exists):
                self._guests.thaws.begin(instance_id, owed)
        members = {backup_id: names[file] for backup_id, file in files.items()}
        consistency = Consistency.FILE_SYSTEM if frozen else Consistency.CRASH
        pull = _Pull(members, socket, list(scratches.values()), consistency, taken_at)
        self._open[instance_id] = pull
        return pull

    async def _begun(self, instance_id: str, begin: Callable[[Any], Any], keys: Mapping[str, VolumeKey]) -> Any:
        async with AsyncExitStack() as stack:
            for volume_id, key in keys.items():
                await stack.enter_async_context(self._guests.keyed(volume_id, key))
            return await self._on(instance_id, "begin to serve disks", begin)

    def _socket(self, instance_id: str) -> Path:
        """Make a folder for root and QEMU's user only; a socket's path may have 107 bytes."""
        folder = self._sockets / instance_id
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o711, parents=True)
        folder.chmod(0o700)
        if self._qemu_folder.exists():
            owner = self._qemu_folder.stat()
            os.chown(folder, owner.st_uid, owner.st_gid)
        return folder / "nbd.sock"

    async def _end(self, instance_id: str, scratches: list[Path]) -> None:
        try:
            while await self._on(instance_id, "end serving disks", end_pull):  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(_PAUSE)
        except InstanceNotFound:
            pass  # It went with its guest.
        for scratch in scratches:
            await asyncio.to_thread(scratch.unlink, missing_ok=True)
        await asyncio.to_thread(shutil.rmtree, self._sockets / instance_id, True)

    async def _on(self, instance_id: str, asked: str, verb: Callable[[Any], Any]) -> Any:
        what = f"{asked} of instance {instance_id}"
        return await self._guests.hypervisor.call(what, lambda conn: verb(conn.lookupByUUIDString(instance_id)))
