"""Images between two hosts over TLS: who gets them, from where, and what comes of a broken transfer."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kumulus_agent.images import exchange
from kumulus_agent.migration.credentials import Contexts
from kumulus_agent.storage.errors import HolderAway
from kumulus_agent.storage.held_address import also_on
from kumulus_agent.storage.image_cache import ImageCache
from kumulus_api import Image, Server
from kumulus_lab.testing.image_hosts import ADDRESS, KEY, LIMIT, OWNER, Pair
from kumulus_runtime.errors import ApiError

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    made = Pair(tmp_path)
    yield made
    await made.close()


async def test_a_host_gets_the_image_of_its_server(pair: Pair) -> None:
    """What h1 holds h2 has afterwards, byte for byte, and several who need it at once share one transfer."""
    image = await pair.hold()
    fetched = await asyncio.gather(*(pair.fetch(image.digest) for _ in range(5)))
    assert {item.digest for item in fetched} == {image.digest}
    assert fetched[0].path.read_bytes() == image.path.read_bytes()
    assert not list((pair.folder / "h2/partial").iterdir())


async def test_who_has_no_server_of_it_gets_nothing(pair: Pair) -> None:
    """A host whose servers do not lie on an image is refused, whatever its certificate; it hears who was asked."""
    image = await pair.hold()
    pair.api.servers["h2"] = []
    with pytest.raises(HolderAway, match=r"image demo/golden: host h1.*no server of host h2 needs"):
        await pair.fetch(image.digest)


async def test_a_holder_that_is_away_is_named(pair: Pair) -> None:
    """Without its holder an image cannot be had now: the reason is typed and names the host."""
    image = await pair.hold()
    await pair.h1.port.close()
    with pytest.raises(HolderAway, match="host h1, which holds it") as caught:
        await pair.fetch(image.digest)
    assert caught.value.reason == "ImageHostAway"


async def test_hosts_meet_while_the_api_server_is_away(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that cannot ask for its authorities goes by those that it knows, as a migration under way needs."""
    image = await pair.hold()
    asked = []

    async def away() -> Contexts:
        asked.append(1)
        raise ApiError(0, "Unreachable", "no answer")

    monkeypatch.setattr(pair.h1.port._credentials, "contexts", away)
    await pair.h1.port.need("a migration")
    assert (await pair.fetch(image.digest)).digest == image.digest
    assert asked


async def test_a_broken_transfer_goes_on_where_it_stopped(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second attempt asks only for what the first has not brought."""
    image = await pair.hold()
    offsets = []
    half = (await asyncio.to_thread(image.path.read_bytes))[: image.size // 2]
    send = exchange._send

    async def breaks(path: Path, connection: Any, hello: Any) -> None:
        offsets.append(hello.size)
        if len(offsets) == 1:
            connection[1].write(b"ok\n" + image.size.to_bytes(8, "big") + half)
            await connection[1].drain()
            return
        await send(path, connection, hello)

    monkeypatch.setattr(exchange, "_send", breaks)
    with pytest.raises(HolderAway):
        await pair.fetch(image.digest)
    assert (await pair.fetch(image.digest)).path.read_bytes() == image.path.read_bytes()
    assert offsets == [0, image.size // 2]


async def test_the_only_copy_is_never_evicted(pair: Pair) -> None:
    """What an Image owns stays however full the cache is, also for the agent that comes next."""
    image = await pair.hold()
    again = ImageCache(pair.folder / "h1", 0)
    assert await again.evict() == []
    assert not await again.unneeded(image.digest)
    found = await again.owned(OWNER)
    assert found is not None
    assert found.path.exists()


async def test_a_deleted_image_goes_from_both_hosts(pair: Pair) -> None:
    """The holder removes its bytes and then the finalizer, the other host its copy; both close their ports."""
    image = await pair.hold()
    await pair.fetch(image.digest)
    pair.say(image, deletionTimestamp="2026-01-01T00:00:00Z")
    pair.api.servers["h2"] = []
    for side in (pair.h1, pair.h2):
        await side.held.reconcile(KEY)
    assert pair.api.released == ["golden"]
    for name in ("h1", "h2"):
        assert not [path for path in (pair.folder / name).rglob("*") if path.is_file()]


async def test_a_guest_that_migrates_to_here_keeps_what_it_lies_on(pair: Pair) -> None:
    """A copy of a deleted image stays for a server that another host still has, until that does not come any more."""
    image = await pair.hold()
    await pair.fetch(image.digest)
    pair.api.objects[Server, "b"] = pair.api.servers["h2"].pop()
    action = {"metadata": {"namespace": "demo"}, "spec": {"server": {"name": "b"}}, "status": {"phase": "Running"}}
    pair.api.coming["h2"] = [action]
    held = pair.h2.held
    del pair.api.objects[Image, "golden"]
    await held.reconcile(KEY)
    assert await pair.h2.cache.path_of(image.digest) is not None
    action["status"] = {"phase": "Failed"}
    await held.reconcile(KEY)
    assert await pair.h2.cache.path_of(image.digest) is None


async def test_what_a_disk_lies_on_outlives_its_image(pair: Pair) -> None:
    """Bytes below a guest's disk stay until the disk is gone; another host that gets the server has them from there."""
    image = await pair.hold()
    held = pair.h1.held
    pair.used = {image.digest}
    pair.say(image, deletionTimestamp="2026-01-01T00:00:00Z")
    await held.reconcile(KEY)
    assert pair.api.released == ["golden"]
    del pair.api.objects[Image, "golden"]
    await held.reconcile(KEY)
    assert (await pair.fetch(image.digest, also_on(ADDRESS, "h1"))).digest == image.digest
    pair.used = set()
    held.disks_changed()
    await held.reconcile(KEY)
    assert not image.path.exists()


async def test_that_an_image_is_absent_proves_nothing(pair: Pair) -> None:
    """The only copy stays when its object is not found: only a live deletion removes it."""
    image = await pair.hold()
    held = pair.h1.held
    del pair.api.objects[Image, "golden"]
    await held.reconcile(KEY)
    assert image.path.exists()


async def test_the_same_disk_twice_is_one_file_with_two_owners(pair: Pair) -> None:
    """Two images of equal bytes share the file, and it stays until both are deleted."""
    image = await pair.hold()
    part = pair.folder / "again"
    shutil.copyfile(image.path, part)
    again = await pair.h1.cache.adopt(part, "kumulus-image:///demo/second", "demo/second", LIMIT)
    assert (again.digest, again.path) == (image.digest, image.path)
    assert not part.exists()
    await pair.h1.cache.disown(OWNER)
    assert not await pair.h1.cache.unneeded(image.digest)
    await pair.h1.cache.disown("demo/second")
    assert await pair.h1.cache.unneeded(image.digest)
