"""The image cache with what is never evicted: images that this host keeps for the cloud, by the name of their owner.

An owner is the Image's namespace and name. Behind it stands `?anew` if the bytes can be had from elsewhere once the
Image is no more, so that its absence is enough to forget it; else only a live read that shows its deletion is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from kumulus_agent import metrics
from kumulus_agent.storage.cache_records import find, write_entry
from kumulus_agent.storage.held_address import without_hosts
from kumulus_agent.storage.image_cache import CachedImage, Given, ImageCache
from kumulus_agent.storage.inspection import SourceFormat

ANEW: Final = "?anew"
Key = tuple[str, str]


def owner_of(key: Key, *, anew: bool = False) -> str:
    """Give the name under which an Image owns its bytes in the cache (pure)."""
    return "/".join(key) + (ANEW if anew else "")


def key_of_owner(owner: str) -> Key:
    """Give the Image of an owner (pure)."""
    namespace, _, name = owner.removesuffix(ANEW).partition("/")
    return namespace, name


class ImageStore(ImageCache):
    """The images of one host; arguments as of `ImageCache`."""

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
        """Have an image here, and count whether it was; otherwise as of `ImageCache`."""
        known = expected_checksum is not None and find(await self._load(), expected_checksum.lower()) is not None
        (metrics.IMAGE_HITS if known else metrics.IMAGE_MISSES).inc()
        try:
            ensuring = super().ensure(
                source_url, expected_checksum, image_format, virtual_size_limit, mirrors, given=given
            )
            return await ensuring
        finally:
            await self._count()

    async def evict(self, most: int | None = None) -> list[str]:
        """Make room, and count what went."""
        removed = await super().evict(most)
        metrics.IMAGE_EVICTIONS.inc(len(removed))
        await self._count()
        return removed

    async def keep(self, digest: str, owner: str) -> bool:
        """Have an owner keep what is here; give whether it is here."""
        entries = await self._load()
        entry = entries.get(digest)
        if entry is None:
            return False
        if owner not in entry.owners:
            # First here, so that no eviction comes between.
            entry = entries[digest] = replace(entry, owners=tuple(sorted({*entry.owners, owner})))
            await asyncio.to_thread(write_entry, entry)
            await self._count()
        return True

    async def release(self, owner: str, digest: str | None = None) -> None:
        """Have an owner keep nothing any more, or not these bytes: they are cache then, if nobody else keeps them."""
        entries = await self._load()
        for found in [name for name, entry in entries.items() if owner in entry.owners and digest in (None, name)]:
            entry = entries[found]
            left = tuple(item for item in entry.owners if item != owner)
            entries[found] = replace(entry, owners=left)
            await asyncio.to_thread(write_entry, entries[found])
        await self._count()

    async def kept(self) -> dict[str, set[str]]:
        """Give the digests that each owner keeps."""
        found: dict[str, set[str]] = {}
        for digest, entry in (await self._load()).items():
            for owner in entry.owners:
                found.setdefault(owner, set()).add(digest)
        return found

    async def held(self) -> dict[str, set[str]]:
        """Give the digests of what other hosts may ask for, by the address it has there."""
        found: dict[str, set[str]] = {}
        for address, digests in (await super().held()).items():
            found.setdefault(without_hosts(address), set()).update(digests)
        return found

    async def _count(self) -> None:
        images = (await self._load()).values()
        metrics.IMAGE_BYTES.labels(kept="true").set(sum(entry.image.size for entry in images if entry.owners))
        metrics.IMAGE_BYTES.labels(kept="false").set(sum(entry.image.size for entry in images if not entry.owners))
