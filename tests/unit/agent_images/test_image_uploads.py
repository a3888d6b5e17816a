"""What a host takes of images that users send: from where one left off, whole, checked, no more than allowed."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kumulus_agent.images import upload_server
from kumulus_agent.images import uploads as uploads_module
from kumulus_agent.images.upload_server import UploadServer
from kumulus_agent.storage.download import Digests
from kumulus_agent.storage.qemu_img import qemu_img
from kumulus_api.base import Model
from kumulus_api.console import ERROR_HEADER
from kumulus_api.upload_messages import (
    Begin,
    Done,
    End,
    Have,
    Offer,
    Received,
    Refused,
    UploadRefusal,
    read_answer,
    wire,
)
from kumulus_cli.image_file import ImageFile, UploadError
from kumulus_cli.sending import Broken, Sending
from kumulus_lab.testing.uploading import KEY, UID, TakingHost, UploadApi, uploaded_image

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")
CONTENT = os.urandom((3 << 20) + 12345)
DIGEST = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
SENDER, OTHER = "s" * 32, "o" * 32
UPLOAD = f"/v1/images/demo/golden/{UID}/upload"
HEADERS = {"Authorization": "Bearer for-h1"}
Talk = Callable[..., Any]


class Quiet:
    """Shows nothing, and remembers what it was told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def at(self, done: int) -> None:
        """Forget it."""

    def say(self, text: str) -> None:
        """Remember it."""
        self.said.append(text)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The user's file."""
    path = tmp_path / "golden.raw"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Talk]:
    """Start hosts on the same directory, as an agent that starts again does: the one before has ended."""
    async with AsyncExitStack() as stack:

        async def go(api: UploadApi | None = None, **settings: Any) -> tuple[TakingHost, TestClient[Any, Any]]:
            await stack.aclose()
            host = TakingHost(api or UploadApi(uploaded_image()), tmp_path / "agent", **settings)
            await stack.enter_async_context(host.working())
            return host, await stack.enter_async_context(TestClient(TestServer(host.application)))

        yield go


async def send(client: TestClient[Any, Any], file: Path, sender: str = SENDER) -> tuple[Done | Refused, Sending, Quiet]:
    """Send a file as the plugin does."""
    show = Quiet()
    with closing(ImageFile(file)) as opened:
        sending = Sending(opened, sender, show)
        async with connected(client) as socket:
            return await sending.talk(socket), sending, show


@asynccontextmanager
async def connected(client: TestClient[Any, Any]) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    async with asyncio.timeout(30), client.ws_connect(UPLOAD, headers=HEADERS) as socket:
        yield socket


async def heard(socket: aiohttp.ClientWebSocketResponse) -> Any:
    return read_answer((await socket.receive()).data)


async def say(socket: aiohttp.ClientWebSocketResponse, *messages: Model | bytes) -> None:
    for message in messages:
        await socket.send_bytes(message if isinstance(message, bytes) else wire(message))


async def until(ready: Callable[[], object]) -> None:
    """Wait for what other tasks do."""
    async with asyncio.timeout(30):
        while not ready():  # noqa: ASYNC110 - the host has no event for it
            await asyncio.sleep(0.005)


async def left_after(client: TestClient[Any, Any], host: TakingHost, count: int) -> None:
    """Send the first bytes of the file and go without a word."""
    async with connected(client) as socket:
        await say(socket, Offer(size=len(CONTENT), sender=SENDER))
        assert (await heard(socket)).offset == 0
        await say(socket, Begin(offset=0), CONTENT[: count // 2], CONTENT[count // 2 : count])
        await until(lambda: (host.uploads.of(KEY, UID).digests or Digests()).size == count)
    await until(lambda: not host.uploads.senders())


def left_over(directory: Path) -> set[str]:
    return {path.name for path in directory.rglob("*") if path.is_file()} - {f"{DIGEST[7:]}.img", f"{DIGEST[7:]}.json"}


async def test_a_file_becomes_an_image(start: Talk, file: Path, tmp_path: Path) -> None:
    """What was sent lies in the cache as the Image's only copy, told with its digest, and nothing else is left."""
    host, client = await start()
    answer, sending, _ = await send(client, file)
    assert answer == Done(digest=DIGEST)
    assert sending.done == len(CONTENT)
    assert host.api.image is not None
    status = host.api.image["status"]
    assert (status["digest"], status["size"], status["conditions"][0]["reason"]) == (DIGEST, len(CONTENT), "Imported")
    owned = await host.cache.owned("demo/golden")
    assert owned is not None
    assert owned.path.read_bytes() == CONTENT
    assert await host.cache.held() == {"kumulus-image:///demo/golden": {DIGEST}}
    assert KEY in host.held
    host.see()
    await until(lambda: not host.uploads.senders())
    assert left_over(tmp_path / "agent" / "images") == set()


async def test_what_comes_is_converted_and_kept_before_it_is_told(start: Talk, file: Path, tmp_path: Path) -> None:
    """A file of another format becomes qcow2; the digest is of what came, and the file is kept when that is told."""
    host, client = await start(UploadApi(uploaded_image(format="vmdk")))
    await qemu_img("create", "-q", "-f", "vmdk", str(file), "4M")
    content = await asyncio.to_thread(file.read_bytes)
    came = "sha256:" + hashlib.sha256(content).hexdigest()
    answer, _, _ = await send(client, file)
    assert answer == Done(digest=came)
    assert host.api.image is not None
    status = host.api.image["status"]
    assert (status["digest"], status["size"], status["stored"]["format"]) == (came, len(content), "qcow2")
    assert status["stored"]["digest"] != came
    assert await host.cache.kept() == {"demo/golden": {status["stored"]["digest"]}}
    assert host.kept_before_told == [True]
    host.see()
    await until(lambda: not host.uploads.senders())
    assert not list((tmp_path / "agent" / "images" / "partial").iterdir())


async def test_bytes_that_nobody_has_signed_are_not_kept(start: Talk, file: Path) -> None:
    """A file that has the wrong signature is refused, no owner keeps it, and the next one is judged at once."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    wrong = base64.b64encode(key.sign(b"other bytes", ec.ECDSA(SHA256()))).decode()
    host, client = await start(UploadApi(uploaded_image(signature={"publicKey": public, "value": wrong})))
    for _ in range(2):
        answer, _, _ = await send(client, file)
        assert isinstance(answer, Refused)
        assert "SignatureInvalid" in answer.message
        assert await host.cache.kept() == {}
        assert host.kept_before_told == []


async def test_an_image_that_goes_meanwhile_leaves_nothing(
    start: Talk, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the Image is deleted while its bytes are looked into nobody keeps them, and the sender is told."""
    host, client = await start()

    async def deleted(_body: Any, _image: Any) -> None:
        assert await host.cache.kept() == {"demo/golden": {DIGEST}}
        host.api.image = None

    object.__setattr__(host.images, "stored", deleted)
    answer, _, _ = await send(client, file)
    assert isinstance(answer, Refused)
    assert answer.refused is UploadRefusal.GONE
    assert await host.cache.kept() == {}
    assert KEY in host.held


async def test_the_same_bytes_have_all_their_owners(start: Talk, file: Path, tmp_path: Path) -> None:
    """Bytes that another Image holds already are then held for both, and stay when one of them goes."""
    host, client = await start()
    other = tmp_path / "made-here"
    await qemu_img("create", "-q", "-f", "qcow2", str(other), "1M")
    content = await asyncio.to_thread(other.read_bytes)
    made = await host.cache.adopt(other, "kumulus-image:///demo/first", "demo/first", 1 << 30)
    await asyncio.to_thread(file.write_bytes, content)
    assert host.api.image is not None
    host.api.image["spec"]["format"] = "qcow2"
    host.see()
    answer, _, _ = await send(client, file)
    assert answer == Done(digest=made.digest)
    assert await host.cache.held() == {
        "kumulus-image:///demo/first": {made.digest}, "kumulus-image:///demo/golden": {made.digest}
    }  # fmt: skip
    await host.cache.disown("demo/golden")
    assert not await host.cache.unneeded(made.digest)
    owned = await host.cache.owned("demo/first")
    assert owned is not None
    assert await asyncio.to_thread(owned.path.read_bytes) == content


async def test_what_came_is_not_sent_again(start: Talk, file: Path) -> None:
    """After a break, and after a restart of the agent, the rest alone is sent, and the whole is the file."""
    host, client = await start()
    await left_after(client, host, 1 << 20)
    host, client = await start(host.api)
    show = Quiet()
    sent: list[int] = []
    async with connected(client) as socket:
        send_bytes = socket.send_bytes

        async def counted(data: bytes, *rest: Any) -> None:
            sent.append(len(data))
            await send_bytes(data, *rest)

        socket.send_bytes = counted  # type: ignore[method-assign]
        with closing(ImageFile(file)) as opened:
            assert await Sending(opened, OTHER, show).talk(socket) == Done(digest=DIGEST)
    assert len(CONTENT) - (1 << 20) <= sum(sent) < len(CONTENT) - (1 << 20) + 1000
    assert any("compared" in text for text in show.said)


async def test_bytes_of_another_file_are_not_built_upon(start: Talk, file: Path) -> None:
    """Where what is there is not how the file begins, the file is sent from its first byte."""
    host, client = await start()
    await left_after(client, host, 1 << 20)
    other = bytes(1 << 20) + CONTENT
    await asyncio.to_thread(file.write_bytes, other)
    answer, _, show = await send(client, file)
    assert answer == Done(digest="sha256:" + hashlib.sha256(other).hexdigest())
    assert any("another file" in text for text in show.said)


async def test_one_sends_at_a_time(start: Talk, file: Path) -> None:
    """A second sender is told to wait; a sender that comes again takes over from itself."""
    _, client = await start()
    async with connected(client) as first:
        await say(first, Offer(size=len(CONTENT), sender=SENDER))
        await heard(first)
        answer, _, _ = await send(client, file, OTHER)
        assert isinstance(answer, Refused)
        assert answer.refused is UploadRefusal.BUSY
        answer, _, _ = await send(client, file, SENDER)
        assert answer == Done(digest=DIGEST)
        assert (await heard(first)).refused is UploadRefusal.BUSY


@pytest.mark.parametrize(
    ("spec", "settings", "refusal", "word"),
    [
        ({"source": {"upload": {"size": "1Mi"}}}, {}, UploadRefusal.WRONG_SIZE, "1048576"),
        ({}, {"most": 1 << 20}, UploadRefusal.TOO_LARGE, "are allowed"),
        ({"format": "qcow2"}, {}, UploadRefusal.IMAGE, "FormatMismatch"),
        ({"checksum": "sha256:" + "0" * 64}, {}, UploadRefusal.IMAGE, "ChecksumMismatch"),
    ],
)
async def test_what_is_wrong_is_said(  # noqa: PLR0917 - a case has that many
    start: Talk, file: Path, tmp_path: Path, spec: dict[str, Any], settings: dict[str, Any], refusal: str, word: str
) -> None:
    """A file of another size, format or hash, or too large, is refused with the reason, and nothing of it stays."""
    host, client = await start(UploadApi(uploaded_image(**spec)), **settings)
    answer, _, _ = await send(client, file)
    assert isinstance(answer, Refused)
    assert answer.refused == refusal
    assert word in answer.message
    assert left_over(tmp_path / "agent" / "images") == set()
    if refusal is UploadRefusal.IMAGE:
        assert host.api.told[-1][0] == word
        again, _, _ = await send(client, file)  # something else may be sent
        assert again == answer


async def test_a_full_disk_is_said_before_it_is_full(start: Talk, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host without room for the file, and for what others send, takes no byte of it."""
    monkeypatch.setattr(uploads_module, "_room", lambda _: len(CONTENT) - 1)
    _, client = await start()
    answer, _, _ = await send(client, file)
    assert isinstance(answer, Refused)
    assert (answer.refused, "lacks 1 bytes" in answer.message) == (UploadRefusal.NO_ROOM, True)


async def test_a_disk_that_fills_up_is_said(start: Talk, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the room goes meanwhile the sender is told, and what is there serves the next attempt."""

    def full(opened: Any, digests: Any, data: bytes) -> None:
        if digests.size >= 1 << 20:
            opened.write(data[:100])
            raise OSError(28, "No space left on device")
        store(opened, digests, data)

    store = upload_server.store
    monkeypatch.setattr(upload_server, "store", full)
    host, client = await start()
    answer, _, _ = await send(client, file)
    assert isinstance(answer, Refused)
    assert answer.refused is UploadRefusal.NO_ROOM
    monkeypatch.setattr(upload_server, "store", store)
    # What the failed write has left behind does not count, also where nothing is written over it.
    await asyncio.to_thread(os.truncate, file, 1 << 20)
    answer, _, _ = await send(client, file)
    assert answer == Done(digest="sha256:" + hashlib.sha256(CONTENT[: 1 << 20]).hexdigest())
    assert [reason for reason, _ in host.api.told].count("Uploading") >= 1


async def test_a_silent_sender_is_sent_away(start: Talk) -> None:
    """Who sends nothing for too long is told so; what came is kept."""
    host, client = await start(idle=0.2)
    async with connected(client) as socket:
        await say(socket, Offer(size=len(CONTENT), sender=SENDER))
        await heard(socket)
        await say(socket, Begin(offset=0), CONTENT[: 1 << 19], CONTENT[1 << 19 : 1 << 20])
        answer = await heard(socket)
        assert (answer.refused, host.uploads.senders()) == (UploadRefusal.IDLE, 1 if answer is None else 0)
    async with connected(client) as socket:
        await say(socket, Offer(size=len(CONTENT), sender=SENDER))
        assert (await heard(socket)).offset == 1 << 20


@pytest.mark.parametrize("nonsense", [b"nonsense", wire(Begin(offset=5)), wire(End(sha256="0" * 64))])
async def test_nonsense_is_refused(start: Talk, nonsense: bytes) -> None:
    """Whatever is said out of turn ends the conversation with a word."""
    _, client = await start()
    async with connected(client) as socket:
        await say(socket, b"{}")
        assert (await heard(socket)).refused is UploadRefusal.UNREADABLE
    async with connected(client) as socket:
        await say(socket, Offer(size=10, sender=SENDER))
        assert isinstance(await heard(socket), Have)
        await say(socket, nonsense)
        assert (await heard(socket)).refused is UploadRefusal.UNREADABLE


async def test_more_than_was_said_is_refused(start: Talk) -> None:
    """No sender writes more bytes than it has announced."""
    host, client = await start()
    async with connected(client) as socket:
        await say(socket, Offer(size=10, sender=SENDER))
        await heard(socket)
        await say(socket, Begin(offset=0), b"x" * 11)
        assert (await heard(socket)).refused is UploadRefusal.WRONG_SIZE
    digests = host.uploads.of(KEY, UID).digests
    assert digests is not None
    assert digests.size == 0


async def test_what_was_damaged_on_its_way_is_thrown_away(start: Talk, tmp_path: Path) -> None:
    """If host and sender hash to different values nothing of it is kept."""
    _, client = await start()
    async with connected(client) as socket:
        await say(socket, Offer(size=10, sender=SENDER))
        await heard(socket)
        await say(socket, Begin(offset=0), b"x" * 10)
        assert isinstance(await heard(socket), Received)
        await say(socket, End(sha256="0" * 64))
        assert (await heard(socket)).refused is UploadRefusal.CHANGED
    assert left_over(tmp_path / "agent" / "images") == set()


async def test_a_file_that_changes_is_told_and_not_kept(
    start: Talk, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that somebody writes to while it is sent becomes no image."""
    _, client = await start()
    monkeypatch.setattr(ImageFile, "changed", True)
    with pytest.raises(UploadError, match="was changed"):
        await send(client, file)
    await until(lambda: not left_over(tmp_path / "agent" / "images"))


async def test_another_host_takes_over(start: Talk, tmp_path: Path) -> None:
    """When another host is named, or the image deleted, the sender is told and what came is removed."""
    host, client = await start()
    async with connected(client) as socket:
        await say(socket, Offer(size=len(CONTENT), sender=SENDER))
        await heard(socket)
        await say(socket, Begin(offset=0), CONTENT[:100])
        host.see("DELETED")
        assert (await heard(socket)).refused is UploadRefusal.MOVED
    await until(lambda: not left_over(tmp_path / "agent" / "images"))


@pytest.mark.parametrize(
    ("change", "status", "word"),
    [
        ({"spec": {"source": {"url": "http://images.test/i"}, "format": "raw"}}, 409, "elsewhere"),
        ({"status": {"importHost": "h2"}}, 409, "h2"),
        ({"status": {"importHost": "h1", "conditions": [{"type": "Ready", "status": "True"}]}}, 409, "whole"),
        ({"metadata": {"uid": UID, "name": "golden", "namespace": "demo", "deletionTimestamp": "x"}}, 409, "deleted"),
        ({"metadata": {"uid": "another", "name": "golden", "namespace": "demo"}}, 404, "no%20image"),
    ],
)
async def test_only_what_waits_here_is_taken(
    start: Talk, file: Path, change: dict[str, Any], status: int, word: str
) -> None:
    """An image from elsewhere, of another host, that is whole, goes or is another one takes no bytes."""
    _, client = await start(UploadApi(uploaded_image() | change))
    with pytest.raises(aiohttp.WSServerHandshakeError) as error:
        await send(client, file)
    assert error.value.status == status
    assert error.value.headers is not None
    assert word in error.value.headers[ERROR_HEADER]


async def test_only_the_proxy_gets_in(start: Talk) -> None:
    """Without the console proxy's token for this host nobody sends anything."""
    _, client = await start()
    assert (await client.get(UPLOAD)).status == 401
    assert (await client.get(UPLOAD, headers={"Authorization": "Bearer another"})).status == 401


async def test_a_sender_whose_bytes_are_all_there_only_waits(
    start: Talk, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a restart between the last byte and the verdict nothing is sent again, and the image becomes whole."""
    host, client = await start()
    judged = UploadServer._judged

    async def dies(self: UploadServer, upload: Any) -> Any:
        await self._uploads.keep(upload)
        raise OSError(5, "the agent ends here")

    monkeypatch.setattr(UploadServer, "_judged", dies)
    with pytest.raises(Broken):
        await send(client, file)
    monkeypatch.setattr(UploadServer, "_judged", judged)
    host, client = await start(host.api)  # looks at the Image as it begins
    await until(lambda: host.api.told[-1:] == [("Imported", "")])


@pytest.mark.parametrize("limit", ["AT_ONCE", "OF_A_PROJECT"])
async def test_few_at_once(start: Talk, file: Path, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    """A host takes a bounded number of uploads at once, and of a project; the next is told to wait."""
    monkeypatch.setattr(upload_server, limit, 0)
    _, client = await start()
    answer, _, _ = await send(client, file)
    assert isinstance(answer, Refused)
    assert (answer.refused, "transient" in answer.message) == (UploadRefusal.BUSY, True)
