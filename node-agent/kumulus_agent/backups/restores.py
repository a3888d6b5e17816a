"""Volumes that are restored from backups here, beside everything else: it may take long."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final

from kumulus_agent.backups.apart import BackupBucket, Progress, RestoreUnlike
from kumulus_agent.storage.errors import Retryable
from kumulus_agent.volumes.drivers.encrypted import EncryptedFiles
from kumulus_agent.volumes.drivers.files import Files
from kumulus_agent.volumes.drivers.protocol import Found, VolumeDriver
from kumulus_agent.volumes.place import VOLUMES, Place

Key = tuple[str, str]
Opened = Callable[[], Awaitable[VolumeDriver]]
_LOOK_AGAIN: Final = 10.0
_STEP: Final = 10


class Restoring(Retryable):
    """The data of a volume is coming."""

    reason = "Restoring"


class NoBucket(Retryable):
    """The host knows no bucket."""

    reason = "NoBackupBucket"


class _Run:
    def __init__(self) -> None:
        self.percent = 0
        self.task: asyncio.Task[None] | None = None

    def heard(self, progress: Progress) -> None:
        """Note how far it is."""
        self.percent = 100 * progress.done // max(1, progress.total) // _STEP * _STEP


class Restores:
    """The restores that go on here.

    Args:
        state_dir: of the agent.
        bucket: with the backups; None where the host was told of none.
        volume_changed: has a Volume looked at.
    """

    def __init__(self, state_dir: Path, bucket: BackupBucket | None, volume_changed: Callable[[Key], None]) -> None:
        self._state_dir = state_dir
        self._bucket = bucket
        self._volume_changed = volume_changed
        self._files = Files()
        self._runs: dict[str, _Run] = {}

    async def have(self, driver: VolumeDriver, place: Place, opened: Opened) -> Found | None:
        """Have a volume that is restored: begin it, say how far it is, or give it.

        Args:
            driver: of the volume.
            place: where it was put.
            opened: gives the driver with the volume's key, if it is encrypted.

        Raises:
            Restoring: it goes on.
            BackupDamaged, BackupAbsent: the backup is not what was made.
            StorageError, OSError: it is tried again.
        """
        run = self._runs.get(place.volume_id)
        if run is None:
            run = self._runs[place.volume_id] = _Run()
            run.task = asyncio.create_task(self._restore(opened, place, run))
            run.task.add_done_callback(partial(self._ended, place))
        if run.task is not None and not run.task.done():
            message = f"its data is coming from the backup: {run.percent} %; transient: Ready when all is here"
            raise Restoring(message, delay=_LOOK_AGAIN)
        self._runs.pop(place.volume_id, None)
        if run.task is not None:
            run.task.result()
        return await driver.look(place.volume_id)

    def _ended(self, place: Place, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is None:
            self._runs.pop(place.volume_id, None)  # the volume is there: nobody asks for it
        self._volume_changed(place.key)

    async def cancel(self, volume_id: str) -> None:
        """End a restore; what it has left goes with the volume."""
        run = self._runs.pop(volume_id, None)
        if run is not None and run.task is not None:
            run.task.cancel()
            await asyncio.gather(run.task, return_exceptions=True)

    async def close(self) -> None:
        """End all; the next agent goes on with what is there."""
        for volume_id in list(self._runs):
            await self.cancel(volume_id)

    async def _restore(self, opened: Opened, place: Place, run: _Run) -> None:
        origin = place.origin.backup if place.origin is not None else None
        if origin is None:
            raise LookupError(f"volume {place.volume_id} is of no backup")
        if self._bucket is None:
            raise NoBucket("the host knows no bucket with backups: see the chart's images.s3", delay=60.0)
        root = (place.folder or self._state_dir) / VOLUMES
        file = root / f"{place.volume_id}.qcow2"
        driver = await opened()
        key = driver.key.content if driver.key is not None else b""
        files = EncryptedFiles(driver.key) if driver.key is not None else self._files
        await files.make_folder(root)
        if not await asyncio.to_thread(file.exists):
            await files.make_layer(file, -(-place.size // 512) * 512)
        of = (origin.backup_id, origin.chain, origin.digest)
        try:
            await self._bucket.restore(place.key[0], of, str(file), run.heard, key)
        except RestoreUnlike as error:
            await self._files.remove_file(file)  # begun anew, not on what cannot be read
            raise Retryable(f"{error}; it is begun anew", delay=60.0) from error
        await driver.adopt(place.volume_id, file)
