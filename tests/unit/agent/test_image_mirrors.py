"""Images from several addresses, against real HTTP servers on loopback."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from kumulus_agent.storage.errors import ChecksumMismatch, DownloadFailed, SourceRefused, TooLarge
from kumulus_agent.storage.image_cache import ImageCache

CONTENT = os.urandom(3 << 20)
DIGEST = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
LIMIT = 1 << 30


@dataclass
class Mirror:
    """A server of one file: its bytes, how many it sends at once, and what else it does."""

    content: bytes = CONTENT
    cut_after: int = 0
    status: int = 200
    ranges: bool = True
    coding: str = ""
    shifted: int = 0
    weak: bool = False
    asked: list[str] = field(default_factory=list)
    url: str = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Serve the file, or a part of it."""
        self.asked.append(request.headers.get("Range", ""))
        if self.status != 200:
            return web.Response(status=self.status)
        offset = 0
        if self.ranges and "Range" in request.headers and request.headers.get("If-Range") in {None, f'"{id(self)}"'}:
            offset = int(request.headers["Range"].removeprefix("bytes=").removesuffix("-")) + self.shifted
        body = self.content[offset:]
        headers = ({} if self.weak else {"ETag": f'"{id(self)}"'}) | (
            {"Content-Encoding": self.coding} if self.coding else {}
        )
        if offset:
            headers["Content-Range"] = f"bytes {offset}-{len(self.content) - 1}/{len(self.content)}"
        response = web.StreamResponse(status=206 if offset else 200, headers=headers)
        response.content_length = len(body)
        await response.prepare(request)
        await response.write(body[: self.cut_after or None])
        if self.cut_after:
            await asyncio.sleep(0.05)
            assert request.transport is not None
            request.transport.abort()
        return response


@pytest.fixture
async def mirrors() -> AsyncIterator[list[Mirror]]:
    """Three running mirrors."""
    made, servers = [Mirror() for _ in range(3)], []
    for mirror in made:
        app = web.Application()
        app.router.add_get("/image", mirror.answer)
        servers.append(TestServer(app))
        await servers[-1].start_server()
        mirror.url = str(servers[-1].make_url("/image"))
    yield made
    for server in servers:
        await server.close()


@pytest.fixture
async def cache(tmp_path: Path) -> AsyncIterator[ImageCache]:
    """A host's cache."""
    made = ImageCache(tmp_path / "images", LIMIT)
    yield made
    await made.close()


async def _ensure(cache: ImageCache, mirrors: list[Mirror], checksum: str = DIGEST) -> bytes:
    first, *others = [mirror.url for mirror in mirrors]
    image = await cache.ensure(first, checksum, "raw", LIMIT, others)
    return await asyncio.to_thread(image.path.read_bytes)


async def test_the_first_that_delivers_is_enough(cache: ImageCache, mirrors: list[Mirror]) -> None:
    """A mirror is asked only after those before it have failed."""
    mirrors[0].status = 503
    assert await _ensure(cache, mirrors) == CONTENT
    assert [len(mirror.asked) for mirror in mirrors] == [1, 1, 0]


async def test_another_goes_on_where_one_stopped(cache: ImageCache, mirrors: list[Mirror]) -> None:
    """What one has sent is not asked of the next, though that one has another ETag."""
    mirrors[0].cut_after = 1 << 20
    assert await _ensure(cache, mirrors) == CONTENT
    assert mirrors[1].asked[0].startswith("bytes=")
    assert int(mirrors[1].asked[0].strip("bytes=-")) > 0


async def test_the_checksum_decides(cache: ImageCache, mirrors: list[Mirror]) -> None:
    """Bytes of a mirror with another file are not mixed in for good: the next sends all of it by itself."""
    mirrors[0].content, mirrors[0].cut_after = os.urandom(3 << 20), 1 << 20
    assert await _ensure(cache, mirrors) == CONTENT
    assert len(mirrors[1].asked) == 2
    assert mirrors[1].asked[1] == ""


async def test_a_mixture_is_known_after_a_restart(tmp_path: Path, mirrors: list[Mirror]) -> None:
    """An agent that goes on with one mirror remembers that its file began with another's bytes."""
    mirrors[0].content, mirrors[0].cut_after = os.urandom(3 << 20), 1 << 20
    mirrors[1].cut_after = 1 << 20
    first = ImageCache(tmp_path / "images", LIMIT)
    with pytest.raises(DownloadFailed):
        await _ensure(first, mirrors[:2])
    await first.close()
    mirrors[0].status, mirrors[1].cut_after = 503, 0
    again = ImageCache(tmp_path / "images", LIMIT)
    assert await _ensure(again, mirrors[:2]) == CONTENT
    await again.close()


async def test_what_came_is_kept_for_the_next_attempt(tmp_path: Path, mirrors: list[Mirror]) -> None:
    """Where there are mirrors a part is gone on with, also if no server can name its version: the checksum decides."""
    for mirror in mirrors:
        mirror.cut_after, mirror.weak = 300 << 10, True
    for _ in range(2):
        cache = ImageCache(tmp_path / "images", LIMIT)
        with pytest.raises(DownloadFailed):
            await _ensure(cache, mirrors[:2])
        await cache.close()
    mirrors[2].cut_after = 0
    cache = ImageCache(tmp_path / "images", LIMIT)
    assert await _ensure(cache, mirrors) == CONTENT
    assert int(mirrors[2].asked[0].strip("bytes=-")) > 1 << 20
    await cache.close()


async def test_each_says_why(cache: ImageCache, mirrors: list[Mirror]) -> None:
    """When none delivers, the error names each with what it said, and is retried if one may come back."""
    mirrors[0].status, mirrors[1].status = 410, 503
    mirrors[2].content = os.urandom(1 << 20)
    with pytest.raises(DownloadFailed) as caught:
        await _ensure(cache, mirrors)
    for mirror, said in zip(mirrors, ("410", "503", "the image asks for"), strict=True):
        assert f"{mirror.url}" in str(caught.value)
        assert said in str(caught.value)


@pytest.mark.parametrize(("others", "error"), [(CONTENT[::-1], ChecksumMismatch), (None, SourceRefused)])
async def test_all_that_is_final_is_final(
    cache: ImageCache, mirrors: list[Mirror], others: bytes | None, error: type[Exception], tmp_path: Path
) -> None:
    """When each says that it never will, or has other bytes, it is not tried again, and nothing is kept."""
    for mirror in mirrors:
        mirror.content = CONTENT[::-1]
    if others is None:
        mirrors[1].status = 410
    with pytest.raises(error, match="none of 3 sources"):
        await _ensure(cache, mirrors)
    assert [path for path in (tmp_path / "images").rglob("*") if path.is_file()] == []


async def test_what_is_whole_is_not_fetched_again(tmp_path: Path, mirrors: list[Mirror]) -> None:
    """A file that had come when the agent ended is taken without another word of the network."""
    mirrors[0].cut_after = len(CONTENT) - 1
    cache = ImageCache(tmp_path / "images", LIMIT)
    with pytest.raises(DownloadFailed):
        await _ensure(cache, mirrors[:1])
    await cache.close()
    (part,) = (tmp_path / "images" / "partial").glob("*.part")
    await asyncio.to_thread(part.write_bytes, CONTENT)
    again = ImageCache(tmp_path / "images", LIMIT)
    assert await _ensure(again, mirrors[:1]) == CONTENT
    assert len(mirrors[0].asked) == 1
    await again.close()


async def test_a_wrong_part_is_not_taken(cache: ImageCache, mirrors: list[Mirror]) -> None:
    """A mirror that answers with other bytes than those asked for is passed over."""
    mirrors[0].cut_after = 1 << 20
    mirrors[1].shifted = 7
    assert await _ensure(cache, mirrors) == CONTENT
    assert len(mirrors[2].asked) == 1


async def test_what_was_packed_on_the_way_is_refused(cache: ImageCache, mirrors: list[Mirror], tmp_path: Path) -> None:
    """A small answer that would be unpacked into a large file is refused before a byte of it is stored."""
    mirrors[0].content, mirrors[0].coding = gzip.compress(bytes(64 << 20)), "gzip"
    with pytest.raises(SourceRefused, match="Content-Encoding"):
        await cache.ensure(mirrors[0].url, None, "raw", LIMIT)
    assert [path for path in (tmp_path / "images").rglob("*") if path.is_file()] == []


async def test_the_limit_holds_across_mirrors(cache: ImageCache, mirrors: list[Mirror]) -> None:
    """Bytes of two sources count together."""
    first, *others = [mirror.url for mirror in mirrors]
    for mirror in mirrors:
        mirror.content, mirror.cut_after = bytes(80 << 20), 1 << 20
    with pytest.raises(TooLarge):
        await cache.ensure(first, DIGEST, "raw", 1 << 20, others)


async def test_progress_is_seen_while_it_comes(cache: ImageCache, mirrors: list[Mirror]) -> None:
    """How many bytes have come of how many can be asked for while they do, and not afterwards."""
    mirrors[0].cut_after = 1 << 20
    seen = []
    task = asyncio.ensure_future(_ensure(cache, mirrors))
    while not task.done():
        progress = cache.progress(mirrors[0].url, DIGEST)
        if progress is not None and progress.received:
            seen.append((progress.received, progress.total))
        await asyncio.sleep(0)
    await task
    assert {total for _, total in seen} == {len(CONTENT)}
    assert sorted(seen) == seen
    assert cache.progress(mirrors[0].url, DIGEST) is None
