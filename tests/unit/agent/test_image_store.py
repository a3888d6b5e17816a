"""What the cache never evicts, what it counts, and what it remembers of owners over a restart."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from kumulus_agent.storage.download import Downloaded, Validators, hash_file
from kumulus_agent.storage.image_cache import GRACE_SECONDS, CachedImage
from kumulus_agent.storage.image_store import ImageStore, key_of_owner, owner_of
from kumulus_lab.testing.image_hosts import LIMIT

SIZE = 1 << 20


class Origin:
    """Gives raw images by their address, as another host would."""

    def __init__(self) -> None:
        self.asked = 0

    async def fetch(self, address: str, digest: str, part: Path, _limit: int) -> Downloaded:
        """Write it."""
        self.asked += 1
        await asyncio.to_thread(part.write_bytes, address[-1].encode() * SIZE)
        hashed = hash_file(part)
        version = Validators(address, etag=digest)
        return Downloaded(version, hashed.size, hashed.sha256.hexdigest(), hashed.sha512.hexdigest())


@pytest.fixture
def origin() -> Origin:
    return Origin()


@pytest.fixture
async def cache(tmp_path: Path, origin: Origin) -> AsyncIterator[ImageStore]:
    """A cache that has room for two images."""
    made = ImageStore(tmp_path, 2 * SIZE, from_host=origin.fetch)
    yield made
    await made.close()


async def get(cache: ImageStore, name: str) -> CachedImage:
    """Need the image of a name of one letter."""
    return await cache.ensure(f"kumulus-image:///demo/{name}", None, "raw", LIMIT)


def long_ago(cache: ImageStore, *images: CachedImage) -> None:
    """Have images been used so long ago that they may be evicted, the first one longest."""
    assert cache._entries is not None
    for number, image in enumerate(images):
        at = time.time() - 2 * GRACE_SECONDS - (len(images) - number)
        entry = cache._entries[image.digest]
        cache._entries[image.digest] = type(entry)(entry.image, entry.sha512, entry.validators, at, entry.owners)
        os.utime(image.path.with_suffix(".json"), (at, at))


def counted(name: str, **labels: str) -> float:
    """Give a metric's value."""
    return REGISTRY.get_sample_value(f"kumulus_image_cache_{name}", labels) or 0.0


async def test_what_is_kept_or_used_is_not_evicted(cache: ImageStore, tmp_path: Path) -> None:
    """However full: a kept image and one that a disk lies on stay, the one used longest ago of the others goes."""
    a, b = await get(cache, "a"), await get(cache, "b")
    assert await cache.keep(a.digest, owner_of(("demo", "a"), anew=True))
    cache._in_use = lambda: {b.digest}
    long_ago(cache, a, b)
    c, d = await get(cache, "c"), await get(cache, "d")
    long_ago(cache, a, b, c, d)
    assert await cache.evict() == [c.digest, d.digest]
    again = ImageStore(tmp_path, 0, in_use=lambda: {b.digest})
    assert await again.evict() == []
    assert await again.kept() == {"demo/a?anew": {a.digest}}
    await again.release("demo/a?anew")
    long_ago(again, a)
    assert await again.evict() == [a.digest]
    assert not await again.keep(a.digest, "demo/a")


async def test_an_owner_that_comes_while_there_is_no_room_is_heard(cache: ImageStore) -> None:
    """An image that gets an owner while others are being evicted is not the next to go."""
    images = [await get(cache, name) for name in "ab"]
    long_ago(cache, *images)
    cache._max_bytes = 0
    remove = cache.remove

    async def slowly(digest: str) -> None:
        await cache.keep(images[1].digest, "demo/b")
        await remove(digest)

    cache.remove = slowly  # type: ignore[method-assign]
    assert await cache.evict() == [images[0].digest]


async def test_a_use_does_not_forget_an_owner(cache: ImageStore) -> None:
    """Needs of an image and its owners, at once, both count."""
    image = await get(cache, "a")
    needs = (cache.ensure("kumulus-image:///demo/a", image.digest, "raw", LIMIT) for _ in range(5))
    await asyncio.gather(*needs, cache.keep(image.digest, "demo/a"), *(get(cache, name) for name in "bc"))
    assert await cache.kept() == {"demo/a": {image.digest}}


async def test_hits_misses_evictions_and_bytes_are_counted(cache: ImageStore, origin: Origin) -> None:
    """The metrics say what happened."""
    before = {name: counted(name) for name in ("hits_total", "misses_total", "evictions_total")}
    a = await get(cache, "a")
    await cache.ensure("kumulus-image:///demo/a", a.digest, "raw", LIMIT)
    await cache.keep(a.digest, "demo/a")
    b = await get(cache, "b")
    assert (counted("bytes", kept="true"), counted("bytes", kept="false")) == (SIZE, SIZE)
    long_ago(cache, a, b)
    cache._max_bytes = SIZE
    await cache.evict()
    since = {name: counted(name) - value for name, value in before.items()}
    assert since == {"hits_total": 1, "misses_total": 2, "evictions_total": 1}
    assert counted("bytes", kept="false") == 0
    assert origin.asked == 2


def test_an_owner_names_its_image() -> None:
    """An owner leads back to namespace and name, whether its bytes can be had anew or not."""
    for anew in (True, False):
        assert key_of_owner(owner_of(("demo", "web.1"), anew=anew)) == ("demo", "web.1")


async def test_what_is_kept_stays_kept_when_it_comes_again(cache: ImageStore, tmp_path: Path) -> None:
    """Bytes that come once more, for an Image without a checksum, do not take them from who keeps them."""
    image, owner = await get(cache, "a"), owner_of(("demo", "a"))
    assert await cache.keep(image.digest, owner)
    assert (await get(cache, "a")).digest == image.digest
    assert await cache.kept() == {owner: {image.digest}}
    assert await ImageStore(tmp_path, 0).kept() == {owner: {image.digest}}
