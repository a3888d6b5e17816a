"""Images of the volumes here: the host makes a copy of the volume, at once, and reads it while the volume goes on.

The copy is a volume of the same folder that no Volume tells of, with an id of its own. It lies on the layers of the
other, so that this one and its snapshots may be changed or deleted meanwhile, and it goes when the image is whole, or
is deleted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from kumulus_agent.compute.errors import HypervisorError
from kumulus_agent.storage.disk_copy import copy_disk, needed_room
from kumulus_agent.storage.download import Progress
from kumulus_agent.storage.errors import CopyFailed, Retryable, SourceGone, StorageError, TooLarge, VolumeBusy
from kumulus_agent.storage.image_cache import CachedImage
from kumulus_agent.storage.image_store import ImageStore, owner_of
from kumulus_agent.volumes.drivers.protocol import DataGone, Found, OriginGone, SnapshotOrigin, VolumeDriver
from kumulus_agent.volumes.place import read_place
from kumulus_agent.volumes.snapshots import Taker
from kumulus_api import Image, Volume, VolumeSnapshot
from kumulus_api.image import held_address
from kumulus_api.image_volume import OriginalVolume
from kumulus_runtime.api_client import KubeClient

Key = tuple[str, str]
Object = dict[str, Any]
Begun = Callable[[str], Awaitable[None]]
"""Is told, in a sentence, that the volume is free to be changed."""
Find = Callable[[Key, Object], Awaitable[str | None]]

_log = structlog.stdlib.get_logger(__name__)


def copy_name(original: OriginalVolume) -> str:
    """Give the id of the copy that is read (pure)."""
    return f"image-{original.copy_id}"


def original_of(body: Object) -> OriginalVolume | None:
    """Give the volume that an Image is made of, once the operator has said so (pure)."""
    found = (body["spec"].get("original") or {}).get("volume")
    return OriginalVolume.model_validate(found) if found is not None else None


@dataclass
class _Run:
    task: asyncio.Task[CachedImage]
    progress: Progress = field(default_factory=Progress)
    part: Path | None = None


class VolumeImages:
    """The images that are being made of volumes here.

    Args:
        host: this host's name.
        client: to reach the API server.
        cache: takes what is whole.
        size_limit: bytes that an image's disk may have.
        scratch: folder on the cache's file system.
    """

    def __init__(self, host: str, client: KubeClient, cache: ImageStore, size_limit: int, scratch: Path) -> None:
        self._host = host
        self._client = client
        self._cache = cache
        self._size_limit = size_limit
        self._scratch = scratch
        self._runs: dict[Key, _Run] = {}
        self._cleared: set[str] = set()
        self.taker: Taker | None = None
        """Takes snapshots, and knows the drivers; given when the host's guests are known."""
        self.volume_changed: Callable[[Key], None] = lambda _key: None
        """Has a Volume looked at: it may be merged."""

    def progress(self, key: Key) -> Progress | None:
        """Tell how far an image is; None if none is made."""
        run = self._runs.get(key)
        if run is None or run.part is None:
            return None
        with suppress(OSError):
            run.progress.received = run.part.stat().st_blocks * 512
        return run.progress

    async def have(self, key: Key, body: Object, find: Find, begun: Begun) -> CachedImage:
        """Have an image of a volume here; what was made before is taken as it is.

        Args:
            key: namespace and name of the Image.
            body: it, with what the operator has found.
            find: looks for what was put away of it before a restore.
            begun: told when the image does not need the volume any more.

        Raises:
            SourceGone, TooLarge: it cannot be made.
            VolumeBusy: the volume cannot be read now.
            CopyFailed: it was not made; it goes on with the same data.
        """
        run = self._runs[key] = _Run(asyncio.create_task(self._make(key, body, find, begun)))
        try:
            await asyncio.wait([run.task])
        finally:
            run.task.cancel()
            del self._runs[key]
        if run.task.cancelled():
            raise CopyFailed("the image is being deleted")
        return run.task.result()

    async def clear(self, key: Key, body: Object) -> None:
        """Remove what is left of the making of an image that is there, or is being deleted.

        Raises:
            StorageError: it cannot be removed now.
        """
        original = original_of(body)
        if original is None or original.copy_id in self._cleared:
            return
        if self.taker is None:
            raise VolumeBusy("the host's guests are not known yet")
        run = self._runs.get(key)
        if run is not None:
            run.task.cancel()
            await asyncio.wait([run.task])
        await asyncio.to_thread(self._part(original).unlink, missing_ok=True)
        driver, copy, source = self._driver(original), copy_name(original), body["spec"]["source"].get("volume")
        if source is not None:
            async with self.taker.shelves.held([original.volume_id]):
                try:
                    await self._forget_taken(driver, original)
                except HypervisorError as error:
                    raise VolumeBusy(str(error)) from error
        await driver.remove(copy)  # also what a removal that was cut off has left, which cannot be looked at
        self._cleared.add(original.copy_id)
        if source is not None:
            self.volume_changed((key[0], source["name"]))

    async def _forget_taken(self, driver: VolumeDriver, original: OriginalVolume) -> None:
        """Remove the snapshot that only the copy was made of."""
        found = await driver.look(original.volume_id)
        if found is not None and original.copy_id in {*found.snapshots, found.pending}:
            assert self.taker is not None  # noqa: S101 - asked by those who have it
            await self.taker.settle(driver, original.volume_id)
            await driver.remove_snapshot(original.volume_id, original.copy_id)

    async def _make(self, key: Key, body: Object, find: Find, begun: Begun) -> CachedImage:
        owner, original = owner_of(key), original_of(body)
        image = await self._cache.owned(owner)
        if image is not None:
            return image
        digest = await find(key, body)
        if digest is not None:
            return await self._cache.ensure(held_address(*key), digest, "qcow2", self._size_limit)
        if original is None or self.taker is None:
            raise VolumeBusy("the host's guests are not known yet")
        self._cleared.discard(original.copy_id)
        try:
            disk = await self._copied(key, body, original, begun)
        except (SourceGone, TooLarge):
            raise
        except (DataGone, OriginGone) as error:
            raise SourceGone(str(error)) from error
        except (StorageError, HypervisorError, OSError) as error:
            raise VolumeBusy(str(error)) from error
        try:
            return await self._read(key, body, original, disk)
        except (Retryable, OSError) as error:
            raise CopyFailed(str(error)) from error

    def _driver(self, original: OriginalVolume) -> VolumeDriver:
        assert self.taker is not None  # noqa: S101 - asked by those who have it
        folder = Path(original.folder) if original.folder is not None else None
        return self.taker.shelves.driver(self.taker.state_dir, folder, original.volume_class or "")

    def _part(self, original: OriginalVolume) -> Path:
        return self._scratch / f"{copy_name(original)}.part"

    async def _copied(self, key: Key, body: Object, original: OriginalVolume, begun: Begun) -> Found:
        """Have the copy that is read, and nothing left of the snapshot that it was made of."""
        assert self.taker is not None  # noqa: S101 - asked by those who have it
        driver, copy, how = self._driver(original), copy_name(original), ""
        async with self.taker.shelves.held([original.volume_id]):
            found = await driver.look(copy)
            if found is None:
                size = await self._size(key, body, driver, original)
                taken = original.snapshot_id
                if taken is None:
                    how = f", {(await self.taker.take(driver, original.volume_id, original.copy_id)).value}"
                origin = SnapshotOrigin(original.volume_id, taken or original.copy_id)
                found = await driver.make(copy, size, origin)
            if original.snapshot_id is None:
                await self._forget_taken(driver, original)
        await begun(f"host {self._host} reads a copy of the volume{how}; the volume may be used and changed")
        return found

    async def _size(self, key: Key, body: Object, driver: VolumeDriver, original: OriginalVolume) -> int:
        """Give the size of the volume or snapshot, if it is this host's by what the API says now."""
        found = await driver.look(original.volume_id)
        if original.snapshot_id is not None:
            name = body["spec"]["source"]["volumeSnapshot"]["name"]
            live = await self._client.get(VolumeSnapshot, name, key[0])
            given = VolumeSnapshot.model_validate(live).spec.assignment if live is not None else None
            if given is None or given.snapshot_id != original.snapshot_id:
                raise SourceGone(f"volume snapshot {name} was deleted; permanent: delete the image")
            host, size = given.host, found.snapshots.get(original.snapshot_id) if found is not None else None
        else:
            name = body["spec"]["source"]["volume"]["name"]
            live = await self._client.get(Volume, name, key[0])
            place = read_place(live) if live is not None else None
            if place is None or place.volume_id != original.volume_id:
                raise SourceGone(f"volume {name} was deleted; permanent: delete the image")
            host, size = place.host, found.size if found is not None else None
        if host != self._host:
            raise VolumeBusy(f"{name} is on host {host}; transient: the image is made there")
        if size is None:
            raise SourceGone(f"the data of {name} is not on host {host}; permanent: delete the image")
        if size > self._size_limit:
            raise TooLarge(f"{name} has {size} bytes, an image may have {self._size_limit}; permanent")
        return size

    async def _read(self, key: Key, body: Object, original: OriginalVolume, disk: Found) -> CachedImage:
        owner, part = owner_of(key), self._part(original)
        # An agent that was killed may have left a qemu-img that goes on writing: into a file that has no name then.
        await asyncio.to_thread(part.unlink, missing_ok=True)
        await asyncio.to_thread(part.parent.mkdir, mode=0o700, parents=True, exist_ok=True)
        try:
            needed, missing = await needed_room(disk.path, part.parent)
            if missing:
                raise CopyFailed(f"host {self._host} lacks {missing} bytes for the image; transient: goes on with room")
            run = self._runs[key]
            run.progress.total, run.part = needed, part
            await copy_disk(disk.path, part)
            image = await self._adopt(part, key, owner)
        finally:
            await asyncio.to_thread(part.unlink, missing_ok=True)
        live = await self._client.get(Image, key[1], key[0])
        if live is None or live["metadata"]["uid"] != body["metadata"]["uid"] or not self._ours(live):
            await self._let_go(owner, image)
            raise CopyFailed("the image is being deleted, or another host makes it")
        _log.info("image made of a volume", namespace=key[0], name=key[1], digest=image.digest, bytes=image.size)
        return image

    async def _adopt(self, part: Path, key: Key, owner: str) -> CachedImage:
        """Take the file into the cache whole, or not at all, also if nobody waits for it any more."""
        adopting = asyncio.create_task(self._cache.adopt(part, held_address(*key), owner, self._size_limit))
        try:
            return await asyncio.shield(adopting)
        except asyncio.CancelledError:
            with suppress(StorageError, OSError):
                await self._let_go(owner, await adopting)
            raise

    async def _let_go(self, owner: str, image: CachedImage) -> None:
        await self._cache.disown(owner)
        await self._cache.unneeded(image.digest)

    def _ours(self, body: Object) -> bool:
        told = (body.get("status") or {}).get("importHost")
        return told == self._host and "deletionTimestamp" not in body["metadata"]
