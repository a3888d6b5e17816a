"""Images on this host: verified, inspected, shared by all overlays, evicted when unused.

Layout below the root: ``<sha256>.img`` the image, ``<sha256>.json`` what is known of it, ``partial/`` downloads under
way. The sidecar is written first and removed last: one without an image is a leftover and goes, an image without one
would take room that nobody knows of. One that was made here has owners: it is the only copy and stays until they are
gone.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import aiohttp
import structlog

from kumulus_agent.storage.arrival import Arrived, make_ready
from kumulus_agent.storage.atomic import publish
from kumulus_agent.storage.cache_records import Entry, find, read_entry, sidecar_of, unlink_entry, write_entry
from kumulus_agent.storage.cached_image import CachedImage
from kumulus_agent.storage.download import Downloaded, Progress, Validators, Wanted, discard, hash_file, resumable
from kumulus_agent.storage.errors import SMALLER, ChecksumMismatch, FormatMismatch, Retryable, Terminal, TooLarge
from kumulus_agent.storage.held_address import is_held
from kumulus_agent.storage.inspect_apart import inspect_apart
from kumulus_agent.storage.inspection import SourceFormat
from kumulus_agent.storage.mirrors import fetch, verify
from kumulus_agent.storage.qemu_img import check_whole
from kumulus_api.image import HELD_SCHEME

__all__ = ["GRACE_SECONDS", "CachedImage", "FromHost", "Given", "ImageCache"]

FromHost = Callable[[str, str, Path, int], Awaitable[Downloaded]]
"""Takes the address of an image that a host holds, its digest, the file to write and the most bytes it may have."""
Given = Callable[[Path], Awaitable[Downloaded]]
"""Has the file written that is named."""
_log = structlog.stdlib.get_logger(__name__)
GRACE_SECONDS: Final = 600
"""An image handed out is not evicted for so long: its overlay is about to be made."""

_STALE_SECONDS: Final = 24 * 3600
"""What a failed download has left is not resumed after so long."""


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
        self.partial = root / "partial"
        """What comes lies here, on the file system of the images."""
        self._max_bytes = max_bytes
        self._in_use = in_use
        self._running: dict[str, asyncio.Task[CachedImage]] = {}
        self._progress: dict[str, Progress] = {}
        self._entries: dict[str, Entry] | None = None
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Cancel downloads (they resume later) and close connections."""
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def ensure(
        self,
        source_url: str,
        expected_checksum: str | None,
        image_format: SourceFormat,
        virtual_size_limit: int,
        mirrors: Sequence[str] = (),
        *,
        given: Given | None = None,
    ) -> CachedImage:
        """Have the image on this host; concurrent calls for one image share one download.

        Args:
            source_url: http or https, or the address of what a host holds, which needs a sha256. Without a checksum the
                server is asked whether a cached copy is still current.
            expected_checksum: ``sha256:<hex>`` or ``sha512:<hex>``; a cached match needs no network.
            image_format: the declared format.
            virtual_size_limit: bytes that the guest's disk may have.
            mirrors: further URLs of the same bytes; they need a checksum.
            given: gives the bytes, where they are here and nowhere else.

        Raises:
            Terminal: ChecksumMismatch, UnsafeImage, FormatMismatch, CorruptImage, TooLarge or SourceRefused.
            Retryable: DownloadFailed, HolderAway or CacheFull.
        """
        checksum = _checked(expected_checksum)
        entries = await self._load()
        if given is None and checksum is not None and (entry := find(entries, checksum)) is not None:
            return await self._use(entry, image_format, virtual_size_limit, checksum)
        key = source_url if given is not None else checksum or source_url
        task = self._running.get(key)
        if task is None:
            urls = (source_url, *mirrors)
            task = asyncio.create_task(self._fetch(urls, checksum, image_format, virtual_size_limit, given=given))
            self._running[key] = task
            task.add_done_callback(lambda done: self._finished(key, done))
        # A caller that is cancelled must not take the download from the others.
        image = await asyncio.shield(task)
        return await self._use((await self._load())[image.digest], image_format, virtual_size_limit, checksum)

    def _finished(self, key: str, task: asyncio.Task[CachedImage]) -> None:
        del self._running[key]
        self._progress.pop(key, None)
        # Seen here, so that asyncio does not complain of a failure whose callers have all been cancelled.
        if not task.cancelled():
            task.exception()

    def progress(self, source_url: str, expected_checksum: str | None) -> Progress | None:
        """Tell how far an image is that is being made; None if none is."""
        return self._progress.get((expected_checksum or "").lower() or source_url)

    async def images(self) -> list[CachedImage]:
        """Return what is cached, least recently used first."""
        entries = await self._load()
        return [entry.image for entry in sorted(entries.values(), key=lambda entry: entry.used_at)]

    async def evict(self, most: int | None = None) -> list[str]:
        """Remove least recently used images until the cache fits, or has at most so many bytes; give the digests."""
        entries = await self._load()
        limit = self._max_bytes if most is None else most
        total = sum(entry.image.size for entry in entries.values())
        needed = set(self._in_use())
        removed: list[str] = []
        for entry in sorted(entries.values(), key=lambda entry: entry.used_at):
            if total <= limit:
                break
            digest = entry.image.digest
            owned = entries.get(digest, entry).owners
            if owned or entry.image.names & needed or time.time() - entry.used_at < GRACE_SECONDS:
                continue
            await self.remove(digest)
            total -= entry.image.size
            removed.append(digest)
        return removed

    async def remove(self, digest: str) -> None:
        """Remove one image, used or not; absent is success."""
        entry = (await self._load()).pop(digest, None)
        if entry is not None:
            await asyncio.to_thread(unlink_entry, entry.image.path)

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
            await asyncio.to_thread(write_entry, entry)
            await asyncio.to_thread(part.unlink)
        else:
            arrived = Arrived(part, "qcow2", inspected)
            entry = await asyncio.to_thread(self._keep, part, done, arrived, owner)
        entries[entry.image.digest] = entry
        return entry.image

    def _keep(self, part: Path, done: Downloaded, arrived: Arrived, owner: str) -> Entry:
        entry = replace(self._entry(done, arrived), owners=(owner,))
        write_entry(entry)
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
            await asyncio.to_thread(write_entry, left)
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
        if entry is not None and (entry.owners or entry.used_at >= since or entry.image.names & set(self._in_use())):
            return False
        await self.remove(digest)
        return True

    async def path_of(self, digest: str) -> Path | None:
        """Give the file of an image, if it is here."""
        entry = (await self._load()).get(digest)
        return entry.image.path if entry is not None else None

    def _part(self, key: str) -> Path:
        return self.partial / f"{hashlib.blake2s(key.encode()).hexdigest()}.part"

    async def _fetch(
        self,
        urls: Sequence[str],
        checksum: str | None,
        image_format: SourceFormat,
        virtual_size_limit: int,
        *,
        given: Given | None,
    ) -> CachedImage:
        entries, url = await self._load(), urls[0]
        known = None if checksum else next((e for e in entries.values() if e.validators.url == url), None)
        # Containers carry metadata beside the data, and a stream has no virtual size before it is complete.
        size_limit = virtual_size_limit + virtual_size_limit // 10 + (64 << 20)
        key = url if given is not None else checksum or url
        part, progress = self._part(key), Progress()
        self._progress[key] = progress
        try:
            if given is not None:
                done = await given(part)
                verify(done, checksum, url)
                progress.received = progress.total = done.size
            elif is_held(url) and self._from_host is not None:
                done = await self._from_host(url, checksum or "", part, size_limit)
                verify(done, checksum, url)
            else:
                wanted = Wanted(size_limit, checksum, known.validators if known else None, progress=progress)
                done = await fetch(self._client(), urls, part, wanted)
            if done.not_modified and known is not None:
                return known.image
            arrived = await make_ready(part, image_format, virtual_size_limit, progress)
            entry = await self._admitted(part, done, arrived)
        except Terminal:
            await asyncio.to_thread(discard, part)
            raise
        except (Retryable, OSError):
            if len(urls) == 1 and not await asyncio.to_thread(resumable, part):
                await asyncio.to_thread(discard, part)
            raise
        entries[entry.image.digest] = entry
        _log.info("image cached", digest=entry.image.digest, bytes=entry.image.size)
        await self.evict()
        return entry.image

    async def _admitted(self, part: Path, done: Downloaded, arrived: Arrived) -> Entry:
        """Take a file into the cache. Whoever keeps the same bytes already keeps them on."""
        entries, entry = await self._load(), self._entry(done, arrived)
        same = entries.get(entry.image.digest)
        if same is not None and done.owner:
            entry = replace(entry, validators=same.validators)  # when its owner goes, it is what it was
        entry = replace(entry, owners=_owners(same, done))
        await asyncio.to_thread(self._admit, part, arrived.path, entry)
        while (owners := _owners(entries.get(entry.image.digest, same), done)) != entry.owners:  # changed meanwhile
            entry = replace(entry, owners=owners)
            await asyncio.to_thread(write_entry, entry)
        return entry

    def _admit(self, part: Path, file: Path, entry: Entry) -> None:
        write_entry(entry)
        file.chmod(0o444)
        publish(file, entry.image.path)
        discard(part)

    def _entry(self, done: Downloaded, arrived: Arrived) -> Entry:
        image = arrived.image(self._root, done)
        return Entry(image, done.sha512, done.validators, time.time())

    async def _use(
        self, entry: Entry, image_format: SourceFormat, virtual_size_limit: int, checksum: str | None
    ) -> CachedImage:
        image = entry.image
        if image.virtual_size > virtual_size_limit:
            raise TooLarge(
                f"the image's disk has {image.virtual_size} bytes, {virtual_size_limit} are allowed; {SMALLER}"
            )
        found = image.format_of(checksum)
        if image.made_of is not None and image_format != found:
            raise FormatMismatch(f"the image was declared {image_format}, it is {found}; make a new image as such")
        if image_format != found:
            # Cached under another declaration: judge the bytes anew, as at the first download.
            await asyncio.to_thread(inspect_apart, image.path, image_format, virtual_size_limit)
        entries = await self._load()  # it may have got an owner meanwhile
        entries[image.digest] = replace(entries.get(image.digest, entry), used_at=time.time())
        # The record's time stamp is the time of the last use: no rewriting for each guest.
        await asyncio.to_thread(os.utime, sidecar_of(image.path))
        return image

    async def _load(self) -> dict[str, Entry]:
        if self._entries is None:
            entries = await asyncio.to_thread(self._read)
            # Another task may have loaded while this one read.
            if self._entries is None:
                self._entries = entries
        return self._entries

    def _read(self) -> dict[str, Entry]:
        self.partial.mkdir(mode=0o700, parents=True, exist_ok=True)
        for half in self._root.glob(".*.json.*"):
            half.unlink(missing_ok=True)  # a record that was being written as the power went
        for part in self.partial.glob("*.part"):
            # Its image may have been deleted while no agent ran.
            if time.time() - part.stat().st_mtime > _STALE_SECONDS:
                discard(part)
        entries = [entry for sidecar in self._root.glob("*.json") if (entry := read_entry(sidecar)) is not None]
        for name in {name for entry in entries for name in entry.image.names}:
            discard(self._part(name))  # it came, and the power went
        return {entry.image.digest: entry for entry in entries}

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


def _owners(same: Entry | None, done: Downloaded) -> tuple[str, ...]:
    return tuple(sorted({*(same.owners if same is not None else ()), done.owner} - {""}))
