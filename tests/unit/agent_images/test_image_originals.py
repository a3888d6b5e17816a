"""Images that are made of others, on the host that has the bytes of these: one file, while one of them is there."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kumulus_agent.images.controller import ImageController, needs_import
from kumulus_agent.images.originals import bytes_of_copy
from kumulus_agent.images.uploads import Uploads
from kumulus_agent.storage.cached_image import CachedImage, Came
from kumulus_agent.storage.errors import HolderAway, Retryable, SourceGone
from kumulus_api import API_VERSION, Image
from kumulus_lab.testing.image_hosts import KEY, LIMIT, OWNER, Events, Pair, Side
from kumulus_runtime.store import Store

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")
MINE = ("other", "mine")
GOLDEN = {"image": {"name": "golden", "namespace": "demo"}}
DELETED = {"deletionTimestamp": "2026-01-01T00:00:00Z"}
Object = dict[str, Any]


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    """Give two hosts."""
    pair = Pair(tmp_path)
    yield pair
    await pair.close()


def copy_of(pair: Pair, digest: str) -> Object:
    """Have the API tell of a copy that h1 shall take."""
    metadata = {"name": "mine", "namespace": "other", "uid": "2", "generation": 1, "finalizers": ["kumulus.dev/agent"]}
    given = {"original": {"digest": digest}, "assignment": {"store": "Hosts", "hosts": ["h1"]}}
    spec = {"source": GOLDEN, "format": "qcow2"} | given
    body: Object = {"metadata": metadata, "spec": spec, "status": {"importHost": "h1"}}
    pair.api.objects[Image, "mine"] = body
    return body


async def bring(pair: Pair, side: Side, body: Object) -> Object:
    """Have a host import the copy; give the condition that it tells."""
    store = Store()
    store.apply("ADDED", body | {"kind": "Image", "apiVersion": API_VERSION})
    settings: Any = SimpleNamespace(node_name="h1", max_image_bytes=LIMIT)
    client: Any = pair.api
    events: Any = Events()
    look = side.held.queue.add
    uploads = Uploads(side.cache, "h1", look, look, look)
    importer = ImageController(settings, client, store, side.cache, events, uploads, side.held.stored, side.held.find)
    await importer.reconcile(MINE)
    told: Object = pair.api.told[-1]["conditions"][0]
    return told


async def test_a_copy_outlives_its_original_and_goes_without_a_trace(pair: Pair) -> None:
    """A copy keeps the file when its original is deleted, hosts have it by its own name, and the file goes with it."""
    image = await pair.hold()
    body = copy_of(pair, image.digest)
    assert (await bring(pair, pair.h1, body))["status"] == "True"
    told = pair.api.told[-1]
    assert (told["digest"], told["size"]) == (image.digest, image.size)
    assert await pair.h1.cache.kept() == {OWNER: {image.digest}, "other/mine": {image.digest}}
    pair.say(image, **DELETED)
    await pair.h1.held.reconcile(KEY)
    del pair.api.objects[Image, "golden"]
    await pair.h1.held.reconcile(KEY)
    assert image.path.exists()
    body["status"] |= told
    assert (await pair.fetch(image.digest, "kumulus-image:///other/mine")).digest == image.digest
    pair.used = {image.digest}
    body["metadata"] |= DELETED
    pair.h1.held._seen[MINE] = body
    await pair.h1.held.reconcile(MINE)
    assert pair.api.released == ["golden", "mine"]
    del pair.api.objects[Image, "mine"]
    assert image.path.exists()
    pair.used = set()
    pair.h1.held.disks_changed()
    await pair.h1.held.reconcile(MINE)
    assert not image.path.exists()


async def test_that_a_copy_is_absent_proves_nothing(pair: Pair) -> None:
    """Its bytes may be nowhere else: they stay when its object is not found."""
    image = await pair.hold()
    await bring(pair, pair.h1, copy_of(pair, image.digest))
    pair.say(image, **DELETED)
    await pair.h1.held.reconcile(KEY)
    del pair.api.objects[Image, "mine"]
    await pair.h1.held.reconcile(MINE)
    assert image.path.exists()


async def test_a_copy_whose_bytes_went_first_says_so(pair: Pair) -> None:
    """A copy that comes after its original was deleted is told to be nothing; before that it is tried again."""
    image = await pair.hold()
    await pair.h1.cache.disown(OWNER)
    await pair.h1.cache.remove(image.digest)
    body = copy_of(pair, image.digest)
    assert (await bring(pair, pair.h1, body))["reason"] == "DownloadFailed"
    pair.say(image, **DELETED)
    told = await bring(pair, pair.h1, body)
    assert told["reason"] == "SourceGone"
    body["status"]["conditions"] = [told]
    assert not needs_import(body, "h1")


async def test_a_file_that_goes_as_it_is_taken_is_not_told(pair: Pair) -> None:
    """What another image has left between finding and keeping it is looked for again."""
    image = await pair.hold()
    body = copy_of(pair, image.digest)
    await pair.h1.cache.remove(image.digest)
    with pytest.raises(Retryable):
        await pair.h1.held.stored(body, image)


async def test_a_copy_is_of_the_file_that_was_made(pair: Pair) -> None:
    """Of an image that was converted the copy has the file's digest and size, not those of what had come."""
    image = await pair.hold()
    entries = await pair.h1.cache._load()
    made = replace(image, made_of=Came("vmdk", 5, "sha256:" + "9" * 64))
    entries[image.digest] = replace(entries[image.digest], image=made)
    assert (await bring(pair, pair.h1, copy_of(pair, image.digest)))["status"] == "True"
    told = pair.api.told[-1]
    assert (told["digest"], told["size"], told["stored"]["digest"]) == (image.digest, image.size, image.digest)


@pytest.mark.parametrize(("kept", "comes"), [(True, True), (False, False)])
async def test_after_a_restore_a_bucket_has_it(pair: Pair, kept: bool, comes: bool) -> None:
    """A copy whose original is no more comes from where it was put itself, if it is there."""
    body = copy_of(pair, "sha256:" + "1" * 64)
    asked = []

    class Cache:
        async def ensure(self, address: str, digest: str, *_: Any) -> CachedImage:
            asked.append(address)
            if address.endswith("golden"):
                raise HolderAway("nobody has it")
            return CachedImage(Path("a"), digest, "qcow2", 1, 2)

    async def find(_key: Any, _body: Any) -> str | None:
        return "sha256:" + "1" * 64 if kept else None

    coming = bytes_of_copy(pair.api, Cache(), body, find, LIMIT)  # type: ignore[arg-type]
    if not comes:
        with pytest.raises(SourceGone):
            await coming
        return
    assert (await coming).digest == "sha256:" + "1" * 64
    assert asked == ["kumulus-image:///demo/golden", "kumulus-image:///other/mine"]


async def test_who_makes_a_volume_of_an_image_gets_it(pair: Pair) -> None:
    """A host on which a volume is being made of an image is served, until the volume is there."""
    image = await pair.hold()
    pair.api.servers["h2"] = []
    pair.api.volumes["h2"] = [{"spec": {"assignment": {"origin": {"image": {"digest": image.digest}}}}}]
    assert (await pair.fetch(image.digest)).digest == image.digest
    await pair.h2.cache.remove(image.digest)
    pair.api.volumes["h2"][0]["status"] = {"sizeBytes": 1}
    with pytest.raises(HolderAway):
        await pair.fetch(image.digest)


@pytest.mark.parametrize(
    ("source", "original", "imports"),
    [
        ({"url": "https://images.test/a"}, None, True),
        ({"image": {"name": "a"}}, None, False),
        ({"image": {"name": "a"}}, {"digest": "sha256:0"}, True),
    ],
)
def test_a_copy_waits_for_the_word_of_what(source: Object, original: Object | None, imports: bool) -> None:
    """A copy is imported once the operator has said of which bytes."""
    spec = {"source": source} | ({"original": original} if original is not None else {})
    body = {"metadata": {"generation": 1}, "spec": spec, "status": {"importHost": "h1"}}
    assert needs_import(body, "h1") is imports
