"""Images of each format on their way into a host's cache, with real tools."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from kumulus_agent.storage import convert
from kumulus_agent.storage.arrival import make_ready
from kumulus_agent.storage.cached_image import Came
from kumulus_agent.storage.download import Progress, hash_file
from kumulus_agent.storage.errors import CacheFull, CorruptImage, FormatMismatch, UnsafeImage
from kumulus_agent.storage.image_cache import ImageCache
from kumulus_agent.storage.inspection import source_format
from kumulus_agent.storage.room import room_at
from kumulus_lab.testing.disk_images import DISK_BYTES, FORMATS, differences

LIMIT = 1 << 30
CONVERTED = [name for name, declared in FORMATS.items() if declared != "qcow2"]


CREATED = {
    "odd-size": (["create", "-f", "qcow2", "NAME", "10000384"], ["write -P 1 9998336 2048"]),
    "metadata": (["create", "-f", "qcow2", "-o", "preallocation=metadata", "NAME", "50M"], []),
    "small-clusters": (["create", "-f", "qcow2", "-o", "cluster_size=512", "NAME", "3M"], ["write -P 1 1000000 700"]),
    "large-clusters": (["create", "-f", "qcow2", "-o", "cluster_size=2M", "NAME", "99M"], ["write -P 1 70M 4096"]),
    "old": (["create", "-f", "qcow2", "-o", "compat=0.10", "NAME", "9M"], ["write -P 1 1M 100", "discard 1M 1M"]),
    "zeros": (["create", "-f", "qcow2", "NAME", "9M"], ["write -P 1 1M 1M", "write -z 1M 100k", "discard 1M 64k"]),
}


def _files(folder: Path, suffix: str = "") -> list[Path]:
    return list(folder.glob(f"*{suffix}"))


@pytest.mark.parametrize("name", FORMATS)
async def test_each_format_arrives_block_for_block(name: str, good: dict[str, Path], tmp_path: Path) -> None:
    """What a server's disk lies on has the blocks of the image as it came, and the holes too."""
    part = tmp_path / "image.part"
    part.write_bytes(good[name].read_bytes())
    arrived = await make_ready(part, source_format(FORMATS[name]), LIMIT, Progress())
    assert (arrived.format, arrived.inspected.virtual_size) == ("qcow2", DISK_BYTES)
    assert differences(arrived.path, arrived.format, good["raw"]) == ""
    assert arrived.path.stat().st_blocks * 512 < DISK_BYTES / 4
    assert bool(arrived.digest) == (name in CONVERTED)


def _create(path: Path, made: list[str], written: list[str]) -> None:
    words = [str(path) if word == "NAME" else word for word in made]
    subprocess.run(["qemu-img", words[0], "-q", *words[1:]], check=True, timeout=20)
    for command in written:
        argv = ["qemu-io", "-f", "qcow2", "-c", command, str(path)]
        subprocess.run(argv, check=True, timeout=20, capture_output=True)


@pytest.mark.parametrize("name", CREATED)
async def test_a_qcow2_is_taken_however_it_was_made(name: str, tmp_path: Path) -> None:
    """What qemu-img makes and guests write to is taken, with clusters of any size and ends that are not whole."""
    part = tmp_path / "image.part"
    _create(part, *CREATED[name])
    arrived = await make_ready(part, "qcow2", LIMIT, Progress())
    assert (arrived.path, arrived.format) == (part, "qcow2")


@pytest.mark.parametrize("share", [0.001, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("name", FORMATS)
async def test_a_cut_image_loses_nothing_unseen(
    name: str, share: float, good: dict[str, Path], content: dict[str, bytes], tmp_path: Path
) -> None:
    """An image of which the end is missing is refused and leaves nothing, unless nothing of the disk was there."""
    part = tmp_path / "image.part"
    part.write_bytes(content[name][: int(len(content[name]) * share)])
    try:
        arrived = await make_ready(part, source_format(FORMATS[name]), LIMIT, Progress())
    except (CorruptImage, FormatMismatch, UnsafeImage):
        assert _files(tmp_path) == [part]
    else:
        assert differences(arrived.path, arrived.format, good["raw"]) == ""


@pytest.fixture
async def url(good: dict[str, Path]) -> AsyncIterator[str]:
    """Where a VDI is."""
    app = web.Application()
    app.router.add_static("/", good["dynamic.vdi"].parent)
    async with TestServer(app) as server:
        yield str(server.make_url("/dynamic.vdi"))


async def test_a_converted_image_has_two_names(url: str, content: dict[str, bytes], tmp_path: Path) -> None:
    """In the cache it is found by the digest of what came and by that of its file, also by the next agent, and once."""
    came = "sha256:" + hashlib.sha256(content["dynamic.vdi"]).hexdigest()
    for attempt in range(2):
        cache = ImageCache(tmp_path / "images", LIMIT, in_use=lambda: [came])
        image = await cache.ensure(url if attempt == 0 else "http://127.0.0.1:9/", came, "vdi", LIMIT)
        assert image.came == Came("vdi", len(content["dynamic.vdi"]), came)
        assert await cache.ensure("http://127.0.0.1:9/", image.digest, "qcow2", LIMIT) == image
        assert image.digest == "sha256:" + hash_file(image.path).sha256.hexdigest()
        assert image.size == image.path.stat().st_size
        for checksum, declared in ((came, "qcow2"), (came, "raw"), (image.digest, "vdi")):
            with pytest.raises(FormatMismatch, match="it is"):
                await cache.ensure("http://127.0.0.1:9/", checksum, source_format(declared), LIMIT)
        assert not await cache.unneeded(image.digest)
        await cache.close()
    assert {path.suffix for path in _files(tmp_path / "images")} == {".img", ".json", ""}
    assert _files(tmp_path / "images" / "partial") == []


async def test_a_conversion_waits_for_room(
    url: str, content: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a disk has no room for the second file, what came stays, and is converted when there is some."""
    came = "sha256:" + hashlib.sha256(content["dynamic.vdi"]).hexdigest()
    cache = ImageCache(tmp_path / "images", LIMIT)
    with monkeypatch.context() as full:
        here = room_at(tmp_path)
        full.setattr(convert, "room_at", lambda _path: replace(here, free=here.reserve + (1 << 19)))
        with pytest.raises(CacheFull, match="are free for it"):
            await cache.ensure(url, came, "vdi", LIMIT)
        (part,) = _files(tmp_path / "images" / "partial", ".part")
    monkeypatch.setattr(aiohttp.ClientSession, "get", None)  # nobody is asked again
    image = await cache.ensure(url, came, "vdi", LIMIT)
    assert image.virtual_size == DISK_BYTES
    assert not part.exists()
    await cache.close()
