"""The image cache against a real HTTP server on loopback."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from kumulus_agent.storage import image_cache
from kumulus_agent.storage.errors import (
    ChecksumMismatch,
    DownloadFailed,
    FormatMismatch,
    SourceRefused,
    TooLarge,
)
from kumulus_agent.storage.image_cache import ImageCache

CONTENT = os.urandom(3 << 20)
DIGEST = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
LIMIT = 1 << 30


class Origin:
    """A server of one file whose misbehaviour can be chosen."""

    def __init__(self) -> None:
        self.content = CONTENT
        self.etag = '"1"'
        self.requests: list[dict[str, str]] = []
        self.cut_after = 0
        self.status = 200
        self.gate = asyncio.Event()
        self.gate.set()
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Serve the file, or what was chosen instead."""
        self.requests.append(dict(request.headers))
        await self.gate.wait()
        if self.status != 200:
            return web.Response(status=self.status)
        if request.headers.get("If-None-Match") == self.etag:
            return web.Response(status=304)
        offset = 0
        if request.headers.get("If-Range") == self.etag:
            offset = int(request.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        body = self.content[offset:]
        response = web.StreamResponse(status=206 if offset else 200, headers={"ETag": self.etag})
        response.content_length = len(body)
        await response.prepare(request)
        if self.cut_after:
            await response.write(body[: self.cut_after])
            await asyncio.sleep(0.05)
            assert request.transport is not None
            request.transport.abort()
            return response
        await response.write(body)
        return response


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    """A running origin."""
    origin = Origin()
    app = web.Application()
    app.router.add_get("/image", origin.answer)
    async with TestServer(app) as server:
        origin.url = str(server.make_url("/image"))
        yield origin


@pytest.fixture
async def make_cache(tmp_path: Path) -> AsyncIterator[Callable[..., ImageCache]]:
    """Make caches on the same directory, as restarts of the agent do."""
    caches: list[ImageCache] = []

    def make(max_bytes: int = LIMIT, used: tuple[str, ...] = ()) -> ImageCache:
        caches.append(ImageCache(tmp_path / "images", max_bytes, in_use=lambda: used))
        return caches[-1]

    yield make
    for cache in caches:
        await cache.close()


def _files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


async def test_an_image_is_fetched_once(origin: Origin, make_cache: Callable[..., ImageCache]) -> None:
    """Ten callers and a restarted agent share one download."""
    cache = make_cache()
    images = await asyncio.gather(*(cache.ensure(origin.url, DIGEST, "raw", LIMIT) for _ in range(10)))
    again = await make_cache().ensure(origin.url, DIGEST, "raw", LIMIT)
    assert len(origin.requests) == 1
    assert {*images, again} == {again}
    assert (again.digest, again.size, again.virtual_size) == (DIGEST, len(CONTENT), len(CONTENT))
    assert await asyncio.to_thread(again.path.read_bytes) == CONTENT


async def test_a_cut_download_resumes(origin: Origin, make_cache: Callable[..., ImageCache]) -> None:
    """After a cut, also across a restart, only the rest is asked for and the whole is still verified."""
    origin.cut_after = 1 << 20
    with pytest.raises(DownloadFailed):
        await make_cache().ensure(origin.url, DIGEST, "raw", LIMIT)
    origin.cut_after = 0
    image = await make_cache().ensure(origin.url, DIGEST, "raw", LIMIT)
    assert int(origin.requests[1]["Range"].removeprefix("bytes=").removesuffix("-")) > 0
    assert image.digest == DIGEST


async def test_a_changed_file_starts_anew(origin: Origin, make_cache: Callable[..., ImageCache]) -> None:
    """A resumed download of a file that has changed meanwhile mixes no versions."""
    origin.cut_after = 1 << 20
    with pytest.raises(DownloadFailed):
        await make_cache().ensure(origin.url, None, "raw", LIMIT)
    origin.cut_after, origin.etag, origin.content = 0, '"2"', os.urandom(2 << 20)
    image = await make_cache().ensure(origin.url, None, "raw", LIMIT)
    assert image.digest == "sha256:" + hashlib.sha256(origin.content).hexdigest()


async def test_what_cannot_be_resumed_is_not_kept(
    origin: Origin, make_cache: Callable[..., ImageCache], tmp_path: Path
) -> None:
    """A cut download of a version that the server cannot name leaves nothing."""
    origin.cut_after, origin.etag = 1 << 20, 'W/"weak"'
    with pytest.raises(DownloadFailed, match="tried again"):
        await make_cache().ensure(origin.url, DIGEST, "raw", LIMIT)
    assert _files(tmp_path) == []


async def test_a_cut_download_can_be_forgotten(
    origin: Origin, make_cache: Callable[..., ImageCache], tmp_path: Path
) -> None:
    """What a cut download has left goes when nobody wants the image any more."""
    origin.cut_after = 1 << 20
    cache = make_cache()
    for checksum in (DIGEST, None):
        with pytest.raises(DownloadFailed):
            await cache.ensure(origin.url, checksum, "raw", LIMIT)
        assert _files(tmp_path) != []
        await cache.forget(origin.url, checksum)
        assert _files(tmp_path) == []


async def test_a_forgotten_download_goes_on_for_the_others(
    origin: Origin, make_cache: Callable[..., ImageCache]
) -> None:
    """A download that runs is not disturbed by one of two images being deleted."""
    origin.gate.clear()
    cache = make_cache()
    running = asyncio.create_task(cache.ensure(origin.url, DIGEST, "raw", LIMIT))
    await asyncio.sleep(0.05)
    await cache.forget(origin.url, DIGEST)
    origin.gate.set()
    assert (await running).digest == DIGEST


async def test_an_old_part_goes_with_the_next_start(
    origin: Origin, make_cache: Callable[..., ImageCache], tmp_path: Path
) -> None:
    """What a former agent has left of an image that may be gone is kept for a day."""
    origin.cut_after = 1 << 20
    with pytest.raises(DownloadFailed):
        await make_cache().ensure(origin.url, DIGEST, "raw", LIMIT)
    assert await make_cache().images() == []
    assert _files(tmp_path) != []
    for name in _files(tmp_path):
        os.utime(name, (0, 0))
    assert await make_cache().images() == []
    assert _files(tmp_path) == []


async def test_without_checksum_the_server_is_asked(origin: Origin, make_cache: Callable[..., ImageCache]) -> None:
    """An unchanged file is not sent twice; a changed one replaces nothing that is in use."""
    cache = make_cache()
    first = await cache.ensure(origin.url, None, "raw", LIMIT)
    assert await cache.ensure(origin.url, None, "raw", LIMIT) == first
    assert origin.requests[1]["If-None-Match"] == '"1"'
    origin.etag, origin.content = '"2"', os.urandom(1 << 20)
    second = await cache.ensure(origin.url, None, "raw", LIMIT)
    assert second.digest != first.digest
    assert {image.digest for image in await cache.images()} == {first.digest, second.digest}


async def test_sha512(origin: Origin, make_cache: Callable[..., ImageCache]) -> None:
    """A sha512 checksum is verified and found again without the network."""
    checksum = "sha512:" + hashlib.sha512(CONTENT).hexdigest()
    cache = make_cache()
    assert (await cache.ensure(origin.url, checksum, "raw", LIMIT)).digest == DIGEST
    await cache.ensure(origin.url, checksum, "raw", LIMIT)
    assert len(origin.requests) == 1


async def test_a_wrong_checksum_leaves_nothing(
    origin: Origin, make_cache: Callable[..., ImageCache], tmp_path: Path
) -> None:
    """Bytes that are not the promised ones are thrown away."""
    with pytest.raises(ChecksumMismatch):
        await make_cache().ensure(origin.url, "sha256:" + "0" * 64, "raw", LIMIT)
    assert _files(tmp_path) == []


async def test_a_nonsense_checksum_is_refused(origin: Origin, make_cache: Callable[..., ImageCache]) -> None:
    """A checksum that cannot be verified is refused before anything is fetched."""
    with pytest.raises(ChecksumMismatch):
        await make_cache().ensure(origin.url, "md5:abc", "raw", LIMIT)
    assert origin.requests == []


async def test_format_and_size_are_checked(origin: Origin, make_cache: Callable[..., ImageCache]) -> None:
    """A file of another format or beyond the limit is refused."""
    with pytest.raises(FormatMismatch):
        await make_cache().ensure(origin.url, DIGEST, "qcow2", LIMIT)
    with pytest.raises(TooLarge):
        await make_cache().ensure(origin.url, DIGEST, "raw", 1 << 20)


async def test_the_cached_image_is_held_to_a_smaller_limit(
    origin: Origin, make_cache: Callable[..., ImageCache]
) -> None:
    """A cached image is refused to a caller whose limit is below its size."""
    cache = make_cache()
    await cache.ensure(origin.url, DIGEST, "raw", LIMIT)
    with pytest.raises(TooLarge):
        await cache.ensure(origin.url, DIGEST, "raw", 1 << 20)


@pytest.mark.parametrize(("status", "error"), [(503, DownloadFailed), (404, DownloadFailed), (410, SourceRefused)])
async def test_refusals_tell_whether_to_retry(
    origin: Origin, make_cache: Callable[..., ImageCache], status: int, error: type[Exception]
) -> None:
    """The server's status decides between trying again and giving up."""
    origin.status = status
    with pytest.raises(error, match=str(status)):
        await make_cache().ensure(origin.url, DIGEST, "raw", LIMIT)


async def test_a_cancelled_caller_does_not_cancel_the_others(
    origin: Origin, make_cache: Callable[..., ImageCache]
) -> None:
    """The download goes on for those who still wait."""
    origin.gate.clear()
    cache = make_cache()
    first = asyncio.create_task(cache.ensure(origin.url, DIGEST, "raw", LIMIT))
    second = asyncio.create_task(cache.ensure(origin.url, DIGEST, "raw", LIMIT))
    await asyncio.sleep(0.05)
    first.cancel()
    origin.gate.set()
    assert (await second).digest == DIGEST
    assert len(origin.requests) == 1


async def test_eviction_spares_what_is_used(
    origin: Origin, make_cache: Callable[..., ImageCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over its size the cache drops the least recently used image, never one in use or just handed out."""
    monkeypatch.setattr(image_cache, "GRACE_SECONDS", 0)
    digests = []
    for version in range(3):
        origin.etag, origin.content = f'"{version}"', os.urandom(1 << 20)
        digests.append((await make_cache().ensure(origin.url, None, "raw", LIMIT)).digest)
        time.sleep(0.01)  # noqa: ASYNC251 - tells the times of use apart
    assert await make_cache(2 << 20, (digests[0],)).evict() == [digests[1]]
    monkeypatch.setattr(image_cache, "GRACE_SECONDS", 600)
    assert await make_cache(0).evict() == []


async def test_a_damaged_cache_is_fetched_again(
    origin: Origin, make_cache: Callable[..., ImageCache], tmp_path: Path
) -> None:
    """A truncated image or unreadable record counts as absent."""
    image = await make_cache().ensure(origin.url, DIGEST, "raw", LIMIT)
    image.path.chmod(0o600)
    await asyncio.to_thread(image.path.write_bytes, b"short")
    assert (await make_cache().ensure(origin.url, DIGEST, "raw", LIMIT)).size == len(CONTENT)
    assert len(origin.requests) == 2
