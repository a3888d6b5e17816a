"""Where this host finds volumes: one driver for each folder, and who is at work on which volume."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from weakref import WeakValueDictionary

from kumulus_agent.storage.errors import Retryable
from kumulus_agent.storage.image_cache import CachedImage, ImageCache
from kumulus_agent.storage.inspection import source_format
from kumulus_agent.volumes.drivers.encrypted import EncryptedFiles
from kumulus_agent.volumes.drivers.keys import KeyMissing, VolumeKey, check_encryption
from kumulus_agent.volumes.drivers.local import local_driver
from kumulus_agent.volumes.drivers.protocol import Found, ImageOrigin, Origin, SnapshotOrigin, VolumeDriver
from kumulus_agent.volumes.drivers.shared import shared_driver
from kumulus_agent.volumes.place import VOLUMES, Place
from kumulus_api.server_assignment import AssignedImage
from kumulus_api.volume_encryption import AssignedEncryption

ImageOf = Callable[[AssignedImage], Awaitable[CachedImage]]
"""Gives an image in this host's cache."""
FetchKey = Callable[[tuple[str, str]], Awaitable[bytes]]
"""Gives the key of a Volume by namespace and name."""


async def no_key(volume: tuple[str, str]) -> bytes:
    """Have no key of any volume."""
    raise KeyMissing(f"nobody is asked for the key of volume {volume[1]}")


async def volume_image(cache: ImageCache, image: AssignedImage) -> CachedImage:
    """Give the image that a volume is made of, in this host's cache.

    Raises:
        StorageError: it cannot be had.
    """
    return await cache.ensure(image.url, image.digest, source_format(image.format.value), max(image.virtual_size, 1))


class Shelves:
    """The drivers of a host, made when a volume first needs them.

    Args:
        fetch_key: gives the key of the Volume with that namespace and name; raises `KeyMissing`.
    """

    def __init__(self, fetch_key: FetchKey = no_key) -> None:
        self._fetch_key = fetch_key
        self._drivers: dict[tuple[Path, str], VolumeDriver] = {}
        self._works: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._waiting: Counter[str] = Counter()

    def driver(self, state_dir: Path, folder: Path | None, volume_class: str) -> VolumeDriver:
        """Give the driver for a folder.

        Args:
            state_dir: of the agent, where the host's own volumes are.
            folder: of a share; None for the host's own.
            volume_class: whose share it is.
        """
        key = (folder or state_dir, volume_class if folder is not None else "")
        if key not in self._drivers:
            own = local_driver(state_dir / VOLUMES)
            self._drivers[key] = own if folder is None else shared_driver(folder, volume_class)
        return self._drivers[key]

    async def opened(self, state_dir: Path, place: Place) -> VolumeDriver:
        """Give the driver of a volume, with its key if it is encrypted; the key is not kept here.

        Raises:
            KeyMissing: there is none.
        """
        driver = self.driver(state_dir, place.folder, place.volume_class)
        if place.encryption is None:
            return driver
        return driver.with_key(await self.key_of(place.key, place.encryption))

    async def key_of(self, volume: tuple[str, str], encryption: AssignedEncryption) -> VolumeKey:
        """Give the key of a volume by the namespace and name of its Volume; it is not kept here.

        Raises:
            KeyMissing: there is none.
        """
        # Of XTS's two keys each has half the bits.
        return VolumeKey(await self._fetch_key(volume), encryption.key_size // 2)

    @asynccontextmanager
    async def held(self, volume_ids: Iterable[str]) -> AsyncIterator[None]:
        """Be the only one here who starts a guest with these volumes, or changes which of their files is written."""
        async with AsyncExitStack() as stack:
            wanted = sorted(set(volume_ids))
            locks = [self._works.setdefault(volume_id, asyncio.Lock()) for volume_id in wanted]
            self._waiting.update(wanted)
            try:
                for lock in locks:
                    await stack.enter_async_context(lock)
            finally:
                self._waiting -= Counter(wanted)
            yield

    def waited_for(self, volume_id: str) -> bool:
        """Say whether somebody waits for a volume that another holds."""
        return volume_id in self._waiting

    async def have(self, state_dir: Path, place: Place, image_of: ImageOf) -> Found:
        """Have a volume that no guest runs on, as large as it was admitted.

        Raises:
            StorageError: it cannot be made, its data is gone, or its key does not open it.
        """
        driver, wanted = await self.opened(state_dir, place), place.origin
        origin: Origin | None = None
        if not place.known and wanted is not None and await driver.look(place.volume_id) is None:
            if wanted.image is not None:
                image = await image_of(wanted.image)
                origin = ImageOrigin(image.path, "qcow2" if image.format == "qcow2" else "raw")
            elif wanted.backup is not None:
                raise Retryable(f"volume {place.key[1]} is being restored; it is tried again")
            elif wanted.taken:
                raise Retryable(f"volume {place.key[1]} is being copied; it is tried again")
            else:
                origin = SnapshotOrigin(wanted.volume_id or "", wanted.snapshot_id or "")
        found = await driver.make(place.volume_id, place.size, origin, known=place.known, raw=place.multi_attach)
        await _check(driver, found)
        return found


async def _check(driver: VolumeDriver, found: Found) -> None:
    """Check that a key is had where one is needed, and that it is the right one: QEMU would only say that it fails."""
    if driver.key is not None:
        await EncryptedFiles(driver.key).check(found.path)
    elif found.format == "qcow2":
        await asyncio.to_thread(check_encryption, found.path, wanted=False)
