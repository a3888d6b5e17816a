"""What an Image says while it is being imported, and how often."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from kumulus_agent.images import controller
from kumulus_agent.images.controller import ImageController, import_status
from kumulus_agent.images.progress import Seen, past_half, seen, worth_telling
from kumulus_agent.images.uploads import Uploads
from kumulus_agent.storage.cached_image import CachedImage, Came
from kumulus_agent.storage.download import Progress
from kumulus_agent.storage.image_store import ImageStore
from kumulus_agent.storage.qemu_img import qemu_img
from kumulus_api import Image
from kumulus_api.image import ImageReason
from kumulus_api.testing import make_object
from kumulus_runtime.store import Store

KEY = ("demo", "example")


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(0, 1000)), max_size=60), st.sampled_from([0, 50_000]))
def test_it_is_told_seldom(steps: list[tuple[float, int]], total: int) -> None:
    """However bytes come, two writes are five seconds and a tenth apart, or half a minute where no total is known."""
    progress, now, told = Progress(total=total), 0.0, Seen(0.0)
    for seconds, received in steps:
        now, progress.received = now + seconds, progress.received + received
        found = seen(progress, now)
        if worth_telling(told, found):
            assert found.at - told.at >= (5 if total else 30)
            assert (found.percent or 0) - (told.percent or 0) >= 10 or not total
            told = found


def test_a_conversion_is_told() -> None:
    """That all has come and is being converted is worth a write of its own, once."""
    told = Seen(0.0, 95, 95)
    assert worth_telling(told, Seen(6.0, 100, 100, converting=True))
    assert not worth_telling(Seen(6.0, 100, 100, converting=True), Seen(20.0, 100, 100, converting=True))
    assert not worth_telling(told, Seen(4.0, 100, 100, converting=True))


def test_half_is_passed_once() -> None:
    """Of the looks at an import one is past its half, also if it is the first."""
    looks = [Seen(float(at), percent, percent) for at, percent in enumerate((20, 45, 60, 70))]
    assert [past_half(*pair) for pair in zip([None, *looks], looks, strict=False)] == [False, False, True, False]
    assert past_half(None, looks[-1])
    assert not past_half(None, seen(Progress(10), 0.0))


def test_the_status_tells_both_files() -> None:
    """Size and digest are of what came; what was made of it is told beside them."""
    body = make_object(Image, format="vmdk")
    body["metadata"]["generation"] = 1
    image = CachedImage(Path("a"), "sha256:2", "qcow2", 300, 1000, Came("vmdk", 200, "sha256:1"))
    status = import_status(body, ImageReason.IMPORTED, image=image)
    assert (status["size"], status["digest"], status["virtualSize"]) == (200, "sha256:1", 1000)
    assert status["stored"] == {"digest": "sha256:2", "size": 300, "format": "qcow2"}
    plain = import_status(body, ImageReason.IMPORTED, image=CachedImage(Path("a"), "sha256:1", "raw", 300, 300))
    assert plain["stored"] == {"digest": plain["digest"], "size": plain["size"], "format": "raw"}


def status_of(body: dict[str, Any]) -> dict[str, Any]:
    """Give an object's status."""
    status: dict[str, Any] = body["status"]
    return status


class Api:
    """Notes what is written."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.body = body
        self.written: list[dict[str, Any]] = []
        self.told = asyncio.Event()

    async def apply_status(self, kind: type, body: dict[str, Any], *, manager: str) -> dict[str, Any]:
        """Note a status, and give the object with it."""
        self.written.append(body["status"])
        if status_of(body).get("progress", 0) >= 50:
            self.told.set()
        status = {"importHost": "h1"} | body["status"]
        return self.body | {"status": status}


class Events:
    """Notes what is posted."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def post(self, _about: dict[str, Any], reason: str, _message: str, **_: Any) -> None:
        """Note an Event's reason."""
        self.reasons.append(reason)


@pytest.fixture
async def slow(tmp_path: Path) -> AsyncIterator[SimpleNamespace]:
    """A server that sends an image by halves, the second when it is let."""
    content = b""
    goes_on, half = asyncio.Event(), asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = len(content)
        await response.prepare(request)
        await response.write(content[: len(content) * 8 // 10])
        half.set()
        await goes_on.wait()
        await response.write(content[len(content) * 8 // 10 :])
        return response

    if shutil.which("qemu-img") is None:
        pytest.skip("needs qemu-img")
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(range(256)) * (4 << 12))
    await qemu_img("convert", "-f", "raw", "-O", "vdi", str(raw), str(tmp_path / "vdi"))
    content = (tmp_path / "vdi").read_bytes()
    app = web.Application()
    app.router.add_get("/image", answer)
    async with TestServer(app) as server:
        url = str(server.make_url("/image"))
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        caches: list[ImageStore] = []
        yield SimpleNamespace(url=url, digest=digest, goes_on=goes_on, size=len(content), caches=caches)
        goes_on.set()
        for cache in caches:
            await cache.close()


def _controller(slow: SimpleNamespace, folder: Path) -> tuple[ImageController, Api, Events]:
    body = make_object(Image, source={"url": slow.url}, format="vdi", checksum=slow.digest)
    body["metadata"] |= {"generation": 1, "uid": "u"}
    body["status"] = {"importHost": "h1"}
    store, api, events = Store(), Api(body), Events()
    store.apply("ADDED", body)
    cache = ImageStore(folder / "images", 1 << 30)
    slow.caches.append(cache)
    settings = SimpleNamespace(node_name="h1", max_image_bytes=1 << 30)

    async def stored(_body: dict[str, Any], _image: CachedImage) -> None:
        """Keep it nowhere else."""

    unseen: list[tuple[str, str]] = []
    uploads = Uploads(cache, "h1", unseen.append, unseen.append, unseen.append)
    return ImageController(settings, api, store, cache, events, uploads, stored), api, events  # type: ignore[arg-type]


async def test_a_long_import_is_followed(
    slow: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An import that takes long says how far it is, that half has come, that it was converted, and that it is ready."""
    monkeypatch.setattr(controller, "PACE_SECONDS", 0.02)
    monkeypatch.setattr("kumulus_agent.images.progress.PACE_SECONDS", 0.02)
    importer, api, events = _controller(slow, tmp_path)
    importing = asyncio.ensure_future(importer.reconcile(KEY))
    await asyncio.wait_for(api.told.wait(), 30)
    assert api.written[-1]["progress"] in range(50, 81)
    assert api.written[-1]["downloadedBytes"] in range(slow.size // 2, slow.size)
    assert api.written[-1]["conditions"][0]["reason"] == "Importing"
    slow.goes_on.set()
    assert await asyncio.wait_for(importing, 60) is None
    last = api.written[-1]
    assert (last["conditions"][0]["status"], last["progress"], last["size"]) == ("True", 100, slow.size)
    assert "downloadedBytes" not in last
    assert [reason for reason in events.reasons if reason != "Converting"] == [
        "Downloading",
        "HalfDownloaded",
        "Converted",
        "Imported",
    ]


async def test_a_short_import_is_told_at_its_end(
    slow: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What takes less than the pace costs one write."""
    monkeypatch.setattr(controller, "PACE_SECONDS", 120.0)
    slow.goes_on.set()
    importer, api, events = _controller(slow, tmp_path)
    await importer.reconcile(KEY)
    assert len(api.written) == 1
    assert events.reasons == ["Converted", "Imported"]


@pytest.mark.parametrize("signed", [True, False])
async def test_what_nobody_signed_is_not_ready(slow: SimpleNamespace, tmp_path: Path, *, signed: bool) -> None:
    """An image with a signature is Ready if it is of these bytes, and refused for good if it is of others."""
    slow.goes_on.set()
    importer, api, _ = _controller(slow, tmp_path)
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    of_bytes = bytes.fromhex(slow.digest.removeprefix("sha256:")) if signed else bytes(32)
    value = base64.b64encode(key.sign(of_bytes, ec.ECDSA(Prehashed(SHA256())))).decode()
    api.body["spec"]["signature"] = {"publicKey": public, "value": value}
    assert await importer.reconcile(KEY) is None
    (condition,) = api.written[-1]["conditions"]
    expected = ("True", "Imported") if signed else ("False", "SignatureInvalid")
    assert (condition["status"], condition["reason"]) == expected
    # Before the end a slow machine also tells how far it is.
    told = len(api.written)
    assert await importer.reconcile(KEY) is None
    assert len(api.written) == told


async def test_a_failure_is_not_repeated_by_its_own_word(slow: SimpleNamespace, tmp_path: Path) -> None:
    """The status of a failed attempt brings the image back at once; it is tried again when it is due, not before."""
    importer, api, _ = _controller(slow, tmp_path)
    slow.goes_on.set()
    api.body["spec"]["source"] = {"url": "http://127.0.0.1:9/none"}
    pause = await importer.reconcile(KEY)
    again = await importer.reconcile(KEY)
    assert pause is not None
    assert again is not None
    assert 0 < again <= pause
    assert len(api.written) == 1
