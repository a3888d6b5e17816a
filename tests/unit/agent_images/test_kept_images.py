"""Images that hosts keep: fetched by those that are named, told, let go with proof, and had before they are needed."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from kumulus_agent.images import exchange
from kumulus_agent.images.exchange import keeps
from kumulus_agent.images.kept import can_be_had_anew
from kumulus_agent.storage.download import hash_file
from kumulus_agent.storage.image_cache import CachedImage
from kumulus_agent.storage.image_store import ImageStore
from kumulus_api import Host, Image
from kumulus_lab.testing.image_hosts import ADDRESS, KEY, LIMIT, OWNER, Pair, Side

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")
URL = {"url": "http://127.0.0.1:1/golden.qcow2"}


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    made = Pair(tmp_path)
    yield made
    await made.close()


async def held(pair: Pair) -> CachedImage:
    """Have h1 hold an image that no server of h2 needs."""
    image = await pair.hold()
    pair.api.servers.clear()
    return image


async def replicated(pair: Pair) -> CachedImage:
    """Have both hosts keep it."""
    image = await held(pair)
    await pair.h2.look(pair.say(image, hosts=("h1", "h2")))
    return image


def is_kept(side: Side, image: CachedImage) -> bool:
    """Give whether a host says that it keeps the image's bytes."""
    return side.tells() == [image.digest]


async def test_a_named_host_fetches_and_tells(pair: Pair) -> None:
    """A host that is named gets the bytes though no server needs them, keeps them in a full cache, and says so."""
    image = await held(pair)
    body = pair.say(image, hosts=("h1", "h2"))
    for side in (pair.h1, pair.h2):
        await side.look(body)
        assert is_kept(side, image)
    again = ImageStore(pair.folder / "h2", 0)
    assert await again.evict() == []
    found = await again.path_of(image.digest)
    assert found is not None
    assert await asyncio.to_thread(found.read_bytes) == await asyncio.to_thread(image.path.read_bytes)


@asynccontextmanager
async def source(file: Path) -> AsyncIterator[tuple[str, list[str]]]:
    """Serve a file; give its URL and what was asked."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.FileResponse:
        asked.append(request.path)
        return web.FileResponse(file)

    app = web.Application()
    app.router.add_get("/golden", answer)
    async with TestServer(app) as server:
        yield str(server.make_url("/golden")), asked


def unheld(pair: Pair, file: Path, url: str, **of: Any) -> tuple[CachedImage, dict[str, Any]]:
    """Have the API tell of an image of a URL that no host has; give it and the object."""
    hashed = hash_file(file)
    image = CachedImage(file, f"sha256:{hashed.sha256.hexdigest()}", "qcow2", hashed.size, 1 << 22)
    body = pair.say(image, **of)
    body["spec"]["source"] = {"url": url}
    return image, body


async def test_the_source_is_read_once(pair: Pair) -> None:
    """Of the hosts that are to keep an image that none has, one asks the source, and a hundred needs of another it."""
    file = await pair.made()
    async with source(file) as (url, asked):
        image, body = unheld(pair, file, url, hosts=("h1", "h2"))
        await pair.h2.look(body)
        assert (pair.h2.tells(), asked) == ([], [])
        await pair.h1.look(body)
        assert is_kept(pair.h1, image)
        await pair.serves(pair.h1)
        sent = 0
        send = exchange._send

        async def counted(*args: Any) -> None:
            nonlocal sent
            sent += 1
            await send(*args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(exchange, "_send", counted)
            await asyncio.gather(*(pair.fetch(image.digest) for _ in range(100)))
        pair.h2.kept._due.clear()
        await pair.h2.look(body)
        assert is_kept(pair.h2, image)
        assert (sent, len(asked)) == (1, 1)


async def test_an_image_is_kept_before_it_is_told(pair: Pair) -> None:
    """What was imported here is kept and served before the Image is Ready, and forgotten if that has gone meanwhile."""
    file = await pair.made()
    async with source(file) as (url, _):
        image, body = unheld(pair, file, url, hosts=("h1",))
        found = await pair.h1.cache.ensure(url, None, "qcow2", LIMIT)
        await pair.h1.held.stored(body, found)
        deleting = pair.say(found, deletionTimestamp="2026-01-01T00:00:00Z")
        deleting["spec"]["source"] = {"url": url}
        await pair.h1.look(deleting)
        assert await pair.h1.cache.path_of(image.digest) is None
        unheld(pair, file, url, hosts=("h1",))
        pair.h1.held._seen.clear()
        await pair.h1.held.stored(body, await pair.h1.cache.ensure(url, None, "qcow2", LIMIT))
    assert is_kept(pair.h1, image)
    assert pair.h1.port._needs == {"images"}
    del pair.api.objects[Image, "golden"]
    await pair.h1.held.reconcile(KEY)
    assert pair.h1.tells() == []
    assert pair.h1.port._needs == set()


async def test_who_is_not_named_gets_nothing(pair: Pair) -> None:
    """The holder goes by what the API says at that moment: a host named no more, another digest or image is refused."""
    image = await held(pair)
    stale = pair.say(image, hosts=("h1", "h2"))
    pair.say(image, hosts=("h1",))
    await pair.h2.look(stale)
    assert await pair.h2.cache.path_of(image.digest) is None
    assert any("nor is it to keep it" in said for said in pair.h2.events.posted)
    client: Any = pair.api
    pair.say(image, hosts=("h1", "h2"))
    assert await keeps(client, "h2", KEY, image.digest)
    assert not await keeps(client, "h3", KEY, image.digest)
    assert not await keeps(client, "h2", KEY, "sha256:" + "0" * 64)
    assert not await keeps(client, "h2", ("", ""), image.digest)
    pair.say(image, hosts=("h1", "h2"), deletionTimestamp="2026-01-01T00:00:00Z")
    assert not await keeps(client, "h2", KEY, image.digest)


async def test_a_replica_serves_when_its_maker_is_gone(pair: Pair) -> None:
    """With the host that made the image gone, a third one that needs it for a server has it from the replica."""
    image = await replicated(pair)
    await pair.h1.port.close()
    await pair.serves(pair.h2, "h2")
    pair.say(image, hosts=("h1", "h2"), replicas=("h1", "h2"))
    pair.api.servers["h3"] = [{"spec": {"assignment": {"image": {"digest": image.digest}}}}]
    pair.api.objects[Host, "h1"]["status"]["tunnelAddress"] = "127.0.0.2"
    third = pair.side("h3")
    third.port.port = pair.h2.port.port
    fetched = await third.cache.ensure(ADDRESS, image.digest, "qcow2", LIMIT)
    assert await asyncio.to_thread(fetched.path.read_bytes) == await asyncio.to_thread(image.path.read_bytes)


async def test_a_surplus_copy_goes_only_when_the_others_have_it(pair: Pair) -> None:
    """A host named no more keeps its copy until all that are named say that they have theirs."""
    image = await replicated(pair)
    stale = pair.say(image, hosts=("h1",), replicas=())
    await pair.h2.look(stale)
    assert is_kept(pair.h2, image)
    pair.say(image, hosts=("h1", "h2"), replicas=("h1", "h2"))
    await pair.h2.look(stale)  # named again, which only a live read tells
    assert is_kept(pair.h2, image)
    await pair.h2.look(pair.say(image, hosts=("h1",), replicas=("h1", "h2")))
    assert pair.h2.tells() == []
    assert await pair.h2.cache.unneeded(image.digest)


async def test_absence_proves_nothing_to_a_replica(pair: Pair) -> None:
    """An Image that is not found is no reason to remove the bytes that its hosts were told to keep."""
    image = await replicated(pair)
    pair.api.objects[Host, "h2"] = {"status": {"images": [item.dump() for item in pair.h2.kept.told() or ()]}}
    await pair.h2.kept.refresh()
    del pair.api.objects[Image, "golden"]
    pair.h2.held._seen.clear()
    await pair.h2.held.reconcile(KEY)
    assert is_kept(pair.h2, image)


async def test_a_copy_that_nobody_heard_of_goes(pair: Pair) -> None:
    """A copy that came while its Image was deleted is not left behind: it was never told."""
    image = await replicated(pair)
    del pair.api.objects[Image, "golden"]
    pair.h2.held._seen.clear()
    await pair.h2.held.reconcile(KEY)
    assert pair.h2.tells() == []
    assert await pair.h2.cache.path_of(image.digest) is None


async def test_what_comes_for_a_deleted_image_is_not_kept(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """An Image that is deleted while its bytes come is not kept when they are there."""
    image = await held(pair)
    body, send = pair.say(image, hosts=("h1", "h2")), exchange._send

    async def deleted_meanwhile(*args: Any) -> None:
        await send(*args)
        pair.say(image, hosts=("h1", "h2"), deletionTimestamp="2026-01-01T00:00:00Z")

    monkeypatch.setattr(exchange, "_send", deleted_meanwhile)
    await pair.h2.look(body)
    assert pair.h2.tells() == []


async def test_the_object_waits_for_all_that_keep_it(pair: Pair) -> None:
    """The maker removes its copy and lets the object go only when no other host says that it has one."""
    image = await replicated(pair)
    deleting = {"hosts": ("h1", "h2"), "deletionTimestamp": "2026-01-01T00:00:00Z"}
    await pair.h1.look(pair.say(image, replicas=("h1", "h2"), **deleting))
    assert pair.api.released == []
    await pair.h2.look(pair.say(image, replicas=("h2",), **deleting))
    assert pair.api.released == []
    await pair.h1.look(pair.say(image, replicas=(), **deleting))
    assert pair.api.released == ["golden"]
    for name in ("h1", "h2"):
        assert not [path for path in (pair.folder / name).rglob("*") if path.is_file()]


async def test_an_image_of_elsewhere_is_forgotten_with_its_object(pair: Pair) -> None:
    """Bytes that a URL gave are cache again when the Image is gone, or is another one of that name."""
    image = await pair.h1.cache.adopt(await pair.made(), ADDRESS, OWNER + "?anew", LIMIT)
    body = pair.say(image, hosts=("h1",))
    body["spec"]["source"] = URL
    await pair.h1.look(body)
    assert is_kept(pair.h1, image)
    body["status"]["digest"] = "sha256:" + "0" * 64
    await pair.h1.look(body)
    assert pair.h1.tells() == []
    await pair.h1.cache.keep(image.digest, OWNER + "?anew")
    del pair.api.objects[Image, "golden"]
    pair.h1.held._seen.clear()
    await pair.h1.held.reconcile(KEY)
    assert await pair.h1.cache.path_of(image.digest) is None


async def test_it_is_there_before_it_is_needed(pair: Pair) -> None:
    """Hosts that an Image's prePull selects have it without being named, and let it go when they are not any more."""
    image = await held(pair)
    pair.say(image, hosts=("h1",), replicas=("h1",))
    body = pair.api.objects[Image, "golden"]
    body["spec"]["prePull"] = {"hostSelector": {"matchLabels": {"disk": "nvme"}}}
    await pair.h2.look(body)
    assert pair.h2.tells() == []
    pair.api.objects[Host, "h2"] = {"metadata": {"name": "h2", "labels": {"disk": "nvme"}}}
    await pair.h2.look(body)
    assert is_kept(pair.h2, image)
    pair.api.objects[Host, "h2"] = {"metadata": {"name": "h2"}}
    await pair.h2.look(body)
    assert pair.h2.tells() == []
    body["spec"]["prePull"] = {}
    await pair.h2.look(body)
    assert is_kept(pair.h2, image)


async def test_a_fetch_that_fails_is_told_and_tried_again(pair: Pair) -> None:
    """A holder that is away is an Event on the Image and a later attempt, not one at once."""
    image = await held(pair)
    await pair.h1.port.close()
    body = pair.say(image, hosts=("h1", "h2"))
    await pair.h2.look(body)
    assert len(pair.h2.events.posted) == 1
    assert "host h1, which holds it" in pair.h2.events.posted[0]
    again = await pair.h2.held.reconcile(KEY)
    assert again is not None
    assert 0 < again <= 4


@pytest.mark.parametrize(
    ("source", "anew"),
    [({"url": "http://a.test/b"}, True), ({"s3": {}}, True), ({"server": {}}, False), ({"upload": {}}, False)],
)
def test_what_was_sent_or_copied_cannot_be_had_anew(source: dict[str, Any], anew: bool) -> None:
    """The absence of an Image has nobody let go of bytes that have no other source."""
    assert can_be_had_anew({"spec": {"source": source}}) is anew
