"""Images on this host: verified, inspected, shared by all overlays, evicted when unused.

Layout below the root: ``<sha256>.img`` the image, ``<sha256>.json`` what is known of it, ``partial/`` downloads under
way. The sidecar is written last: an image without one is a leftover and is taken over by the next download. Of an image
that was made here it is written first, since nothing would take it over. Such a one has owners: it is the only copy and
stays until they are gone.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import aiohttp

from kumulus_agent.storage.atomic import publish, write_file
from kumulus_agent.storage.download import Downloaded, Validators, discard, download, hash_file, resumable
from kumulus_agent.storage.errors import SMALLER, ChecksumMismatch, Retryable, Terminal, TooLarge
from kumulus_agent.storage.held_address import is_held
from kumulus_agent.storage.inspect_apart import inspect_apart
from kumulus_agent.storage.inspection import ImageFormat, Inspected
from kumulus_agent.storage.qemu_img import check_whole
from kumulus_api.image import HELD_SCHEME

FromHost = Callable[[str, str, Path, int], Awaitable[Downloaded]]
"""Takes the address of an image that a host holds, its digest, the file to write and the most bytes it may have."""
_log = logging.getLogger(__name__)
GRACE_SECONDS: Final = 600
"""An image handed out is not evicted for so long: its overlay is about to be made."""

_STALE_SECONDS: Final = 24 * 3600
"""What a failed download has left is not resumed after so long."""


@dataclass(frozen=True, slots=True)
class CachedImage:
    """An image ready to be used.

    Attributes:
        path: the file; immutable.
        digest: ``sha256:<hex>`` of the file.
        format: ``qcow2`` or ``raw``, as inspected.
        size: bytes of the file.
        virtual_size: bytes of the disk that the guest sees.
    """

    path: Path
    digest: str
    format: ImageFormat
    size: int
    virtual_size: int


@dataclass(frozen=True, slots=True)
class _Entry:
    image: CachedImage
    sha512: str
    validators: Validators
    used_at: float
    owners: tuple[str, ...] = ()


class ImageCache:
    """The images of one host.

    Args:
        root: directory of the cache; made if absent.
        max_bytes: size that eviction keeps to, as far as unused images allow.
        in_use: returns the digests of images that disks on this host are based on; these are never removed.
        from_host: fetches what other hosts hold.
    """

    def __init__(
        self,
        root: Path,
        max_bytes: int,
        *,
        in_use: Callable[[], Collection[str]] = tuple,
        from_host: FromHost | None = None,
    ) -> None:
        self._from_host = from_host
        self._root = root
        self._partial = root / "partial"
        self._max_bytes = max_bytes
        self._in_use = in_use
        self._running: dict[str, asyncio.Task[CachedImage]] = {}
        self._entries: dict[str, _Entry] | None = None
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Cancel downloads (they resume later) and close connections."""
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def ensure(
        self, source_url: str, expected_checksum: str | None, image_format: ImageFormat, virtual_size_limit: int
    ) -> CachedImage:
        """Have the image on this host; concurrent calls for one image share one download.

        Args:
            source_url: http or https, or the address of what a host holds, which needs a sha256. Without a checksum the
                server is asked whether a cached copy is still current.
            expected_checksum: ``sha256:<hex>`` or ``sha512:<hex>``; a cached match needs no network.
            image_format: the declared format.
            virtual_size_limit: bytes that the guest's disk may have.

        Raises:
            Terminal: ChecksumMismatch, UnsafeImage, FormatMismatch, TooLarge or SourceRefused.
            Retryable: DownloadFailed, HolderAway or CacheFull.
        """
        checksum = _checked(expected_checksum)
        entries = await self._load()
        if checksum is not None and (entry := _find(entries, checksum)) is not None:
            return await self._use(entry, image_format, virtual_size_limit)
        key = checksum or source_url
        task = self._running.get(key)
        if task is None:
            task = asyncio.create_task(self._fetch(source_url, checksum, image_format, virtual_size_limit))
            self._running[key] = task
            task.add_done_callback(lambda done: self._finished(key, done))
        # A caller that is cancelled must not take the download from the others.
        image = await asyncio.shield(task)
        return await self._use((await self._load())[image.digest], image_format, virtual_size_limit)

    def _finished(self, key: str, task: asyncio.Task[CachedImage]) -> None:
        del self._running[key]
        # Seen here, so that asyncio does not complain of a failure whose callers have all been cancelled.
        if not task.cancelled():
            task.exception()

    async def images(self) -> list[CachedImage]:
        """Return what is cached, least recently used first."""
        entries = await self._load()
        return [entry.image for entry in sorted(entries.values(), key=lambda entry: entry.used_at)]

    async def evict(self) -> list[str]:
        """Remove least recently used images until the cache fits; returns the digests removed."""
        entries = await self._load()
        total = sum(entry.image.size for entry in entries.values())
        needed = set(self._in_use())
        removed: list[str] = []
        for entry in sorted(entries.values(), key=lambda entry: entry.used_at):
            if total <= self._max_bytes:
                break
            digest = entry.image.digest
            if entry.owners or digest in needed or time.time() - entry.used_at < GRACE_SECONDS:
                continue
            await self.remove(digest)
            total -= entry.image.size
            removed.append(digest)
        return removed

    async def remove(self, digest: str) -> None:
        """Remove one image, used or not; absent is success."""
        entry = (await self._load()).pop(digest, None)
        if entry is not None:
            await asyncio.to_thread(_unlink, entry.image.path)

    async def forget(self, source_url: str, expected_checksum: str | None) -> None:
        """Throw away what a failed download has left to be resumed; one that runs is left alone."""
        key = (expected_checksum or "").lower() or source_url
        if key not in self._running:
            await asyncio.to_thread(discard, self._part(key))

    async def adopt(self, part: Path, address: str, owner: str, virtual_size_limit: int) -> CachedImage:
        """Take a qcow2 file that was made here, on the same file system, as an image of an owner.

        Args:
            part: the file; it is gone afterwards.
            address: under which other hosts ask for it.
            owner: who keeps it from being removed, until `disown`.
            virtual_size_limit: bytes that the guest's disk may have.

        Raises:
            Terminal: UnsafeImage, CorruptImage or TooLarge.
            Retryable: it could not be checked.
        """
        entries = await self._load()
        inspected = await asyncio.to_thread(inspect_apart, part, "qcow2", virtual_size_limit)
        await check_whole(part)
        hashed = await asyncio.to_thread(hash_file, part)
        done = Downloaded(Validators(address), hashed.size, hashed.sha256.hexdigest(), hashed.sha512.hexdigest())
        known = entries.get(f"sha256:{done.sha256}")
        if known is not None:
            # The same disk was copied twice.
            entry = replace(known, owners=tuple(sorted({*known.owners, owner})))
            await asyncio.to_thread(_write_entry, entry)
            await asyncio.to_thread(part.unlink)
        else:
            entry = await asyncio.to_thread(self._keep, part, done, inspected, owner)
        entries[entry.image.digest] = entry
        return entry.image

    def _keep(self, part: Path, done: Downloaded, inspected: Inspected, owner: str) -> _Entry:
        entry = replace(self._entry(done, inspected), owners=(owner,))
        _write_entry(entry)
        os.chown(part, os.geteuid(), os.getegid())  # QEMU, which has written it, is not to own it
        part.chmod(0o444)
        publish(part, entry.image.path)
        return entry

    async def owned(self, owner: str) -> CachedImage | None:
        """Give the image that an owner keeps here, if there is one."""
        entries = (await self._load()).values()
        return next((entry.image for entry in entries if owner in entry.owners), None)

    async def disown(self, owner: str) -> None:
        """Have an owner keep nothing any more."""
        entries = await self._load()
        for entry in [entry for entry in entries.values() if owner in entry.owners]:
            left = replace(entry, owners=tuple(item for item in entry.owners if item != owner))
            await asyncio.to_thread(_write_entry, left)
            entries[entry.image.digest] = left

    async def held(self) -> dict[str, set[str]]:
        """Give the digests of what has come from a host, or was made here, by the address it has there."""
        found: dict[str, set[str]] = {}
        for digest, entry in (await self._load()).items():
            for url in {entry.validators.url, *(f"{HELD_SCHEME}:///{owner}" for owner in entry.owners)}:
                if is_held(url):
                    found.setdefault(url, set()).add(digest)
        return found

    async def unneeded(self, digest: str, since: float = math.inf) -> bool:
        """Remove one image that no owner keeps, no disk here lies on and nobody was given since a moment of time.time.

        Returns:
            Whether it is gone.
        """
        entry = (await self._load()).get(digest)
        if entry is not None and (entry.owners or entry.used_at >= since or digest in set(self._in_use())):
            return False
        await self.remove(digest)
        return True

    async def path_of(self, digest: str) -> Path | None:
        """Give the file of an image, if it is here."""
        entry = (await self._load()).get(digest)
        return entry.image.path if entry is not None else None

    def _part(self, key: str) -> Path:
        return self._partial / f"{hashlib.blake2s(key.encode()).hexdigest()}.part"

    async def _fetch(
        self, url: str, checksum: str | None, image_format: ImageFormat, virtual_size_limit: int
    ) -> CachedImage:
        entries = await self._load()
        known = None if checksum else next((e for e in entries.values() if e.validators.url == url), None)
        # Containers carry metadata beside the data, and a stream has no virtual size before it is complete.
        size_limit = virtual_size_limit + virtual_size_limit // 10 + (64 << 20)
        part = self._part(checksum or url)
        try:
            if is_held(url) and self._from_host is not None:
                done = await self._from_host(url, checksum or "", part, size_limit)
            else:
                done = await download(
                    self._client(), url, part, size_limit=size_limit, known=known.validators if known else None
                )
            if done.not_modified and known is not None:
                return known.image
            _verify(done, checksum, url)
            inspected = await asyncio.to_thread(inspect_apart, part, image_format, virtual_size_limit)
            if inspected.format == "qcow2":
                await check_whole(part)
            entry = await asyncio.to_thread(self._admit, part, done, inspected)
        except Terminal:
            await asyncio.to_thread(discard, part)
            raise
        except (Retryable, OSError):
            if not await asyncio.to_thread(resumable, part):
                await asyncio.to_thread(discard, part)
            raise
        entries[entry.image.digest] = entry
        _log.info("image cached", extra={"url": url, "digest": entry.image.digest, "bytes": entry.image.size})
        await self.evict()
        return entry.image

    def _admit(self, part: Path, done: Downloaded, inspected: Inspected) -> _Entry:
        entry = self._entry(done, inspected)
        part.chmod(0o444)
        publish(part, entry.image.path)
        discard(part)
        _write_entry(entry)
        return entry

    def _entry(self, done: Downloaded, inspected: Inspected) -> _Entry:
        path = self._root / f"{done.sha256}.img"
        image = CachedImage(path, f"sha256:{done.sha256}", inspected.format, done.size, inspected.virtual_size)
        return _Entry(image, done.sha512, done.validators, time.time())

    async def _use(self, entry: _Entry, image_format: ImageFormat, virtual_size_limit: int) -> CachedImage:
        image = entry.image
        if image.virtual_size > virtual_size_limit:
            raise TooLarge(
                f"the image's disk has {image.virtual_size} bytes, {virtual_size_limit} are allowed; {SMALLER}"
            )
        if image.format != image_format:
            # Cached under another declaration: judge the bytes anew, as at the first download.
            await asyncio.to_thread(inspect_apart, image.path, image_format, virtual_size_limit)
        (await self._load())[image.digest] = replace(entry, used_at=time.time())
        # The record's time stamp is the time of the last use: no rewriting for each guest.
        await asyncio.to_thread(os.utime, _sidecar(image.path))
        return image

    async def _load(self) -> dict[str, _Entry]:
        if self._entries is None:
            entries = await asyncio.to_thread(self._read)
            # Another task may have loaded while this one read.
            if self._entries is None:
                self._entries = entries
        return self._entries

    def _read(self) -> dict[str, _Entry]:
        self._partial.mkdir(mode=0o700, parents=True, exist_ok=True)
        for part in self._partial.glob("*.part"):
            # Its image may have been deleted while no agent ran.
            if time.time() - part.stat().st_mtime > _STALE_SECONDS:
                discard(part)
        entries = (_read_entry(sidecar) for sidecar in self._root.glob("*.json"))
        return {entry.image.digest: entry for entry in entries if entry is not None}

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            # auto_decompress would hash and store other bytes than the checksum is of.
            self._session = aiohttp.ClientSession(
                auto_decompress=False, headers={"Accept-Encoding": "identity"}, trust_env=True
            )
        return self._session


def _checked(checksum: str | None) -> str | None:
    if not checksum:
        return None
    algorithm, _, value = checksum.lower().partition(":")
    if len(value) != {"sha256": 64, "sha512": 128}.get(algorithm) or set(value) - set("0123456789abcdef"):
        raise ChecksumMismatch(f"checksum {checksum!r} is neither sha256:<64 hex> nor sha512:<128 hex>")
    return f"{algorithm}:{value}"


def _find(entries: dict[str, _Entry], checksum: str) -> _Entry | None:
    algorithm, _, value = checksum.partition(":")
    if algorithm == "sha256":
        return entries.get(checksum)
    return next((entry for entry in entries.values() if entry.sha512 == value), None)


def _verify(done: Downloaded, checksum: str | None, url: str) -> None:
    if checksum is None:
        return
    algorithm, _, expected = checksum.partition(":")
    found = done.sha256 if algorithm == "sha256" else done.sha512
    if found != expected:
        remedy = "make a new image with the right spec.checksum"
        raise ChecksumMismatch(f"{url} has {algorithm} {found}, the image asks for {expected}; {remedy}")


def _sidecar(image: Path) -> Path:
    return image.with_suffix(".json")


def _write_entry(entry: _Entry) -> None:
    document = asdict(entry)
    del document["used_at"]
    document["image"]["path"] = entry.image.path.name
    write_file(_sidecar(entry.image.path), json.dumps(document).encode())


def _read_entry(sidecar: Path) -> _Entry | None:
    try:
        document: dict[str, Any] = json.loads(sidecar.read_text())
        image = CachedImage(**{**document.pop("image"), "path": sidecar.with_suffix(".img")})
        validators = Validators(**document["validators"])
        owners = tuple(str(owner) for owner in document.get("owners", ()))
        entry = _Entry(image, document["sha512"], validators, sidecar.stat().st_mtime, owners)
    except (OSError, ValueError, TypeError, KeyError) as error:
        _log.warning("unreadable image record ignored", extra={"path": str(sidecar), "error": str(error)})
        return None
    # A power cut may have left a record of a file that never reached the disk.
    if not image.path.exists():
        sidecar.unlink(missing_ok=True)
        return None
    return entry if image.path.stat().st_size == image.size else None


def _unlink(image: Path) -> None:
    _sidecar(image).unlink(missing_ok=True)
    image.unlink(missing_ok=True)
