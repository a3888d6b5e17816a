"""Takes images' bytes from the console proxy's users.

GET /v1/images/{namespace}/{name}/{uid}/upload    WebSocket: see kumulus_api.upload_messages
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Awaitable
from http import HTTPStatus
from typing import Any, BinaryIO, Final, TypeVar

import structlog
from aiohttp import WSMsgType, web

from kumulus_agent.consoles.server import Unavailable
from kumulus_agent.images.uploads import Sender, Upload, Uploads, finished
from kumulus_agent.storage.download import Digests, store
from kumulus_api import Image
from kumulus_api.base import Model
from kumulus_api.quantities import parse_quantity
from kumulus_api.upload_messages import (
    LONGEST_MESSAGE,
    Begin,
    Done,
    End,
    Have,
    Offer,
    Received,
    Refused,
    UploadRefusal,
    wire,
)
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.conditions import get_condition

PATH: Final = "/v1/images/{namespace}/{name}/{uid}/upload"
AT_ONCE: Final = 16
"""Uploads that a host takes at once: each has about a MiB of memory."""
OF_A_PROJECT: Final = 4
"""Those of one project among them: who keeps his open keeps no other project out."""
_HEARTBEAT: Final = 30.0
_THINKING_SECONDS: Final = 900.0
"""How long a sender may take to compare what is here with its file."""
_TOLD_EVERY: Final = 4 << 20
_Said = TypeVar("_Said", bound=Model)
_T = TypeVar("_T")
_log = structlog.stdlib.get_logger(__name__)


class Stop(Exception):
    """Nothing more is taken; the sender is told why."""

    def __init__(self, refusal: UploadRefusal, message: str) -> None:
        super().__init__(message)
        self.answer = Refused(refused=refusal, message=message)


class _Left(Exception):
    """The sender is gone."""


class UploadServer:
    """Talks to senders.

    Args:
        client: to see what an Image says now.
        node: this host's name.
        uploads: what was sent.
        most: bytes that an image may have.
        idle: seconds without a byte after which a sender is sent away.
    """

    def __init__(self, client: KubeClient, node: str, uploads: Uploads, most: int, idle: float = 60.0) -> None:
        self._client = client
        self._node = node
        self._uploads = uploads
        self._most = most
        self._idle = idle

    async def take(self, request: web.Request) -> web.StreamResponse:
        """Take the bytes of one image from one sender.

        Raises:
            Unavailable: not of this image, or not here.
            ApiError: the API server cannot be asked.
        """
        namespace, name, uid = (request.match_info[word] for word in ("namespace", "name", "uid"))
        body = await self._client.get(Image, name, namespace)
        if body is None or body["metadata"]["uid"] != uid:
            raise Unavailable(HTTPStatus.NOT_FOUND, f"there is no image {name} in {namespace} any more")
        if why := untaken(body, self._node):
            raise Unavailable(HTTPStatus.CONFLICT, f"image {name} {why}")
        if request.headers.get("Upgrade", "").lower() != "websocket":
            raise Unavailable(HTTPStatus.BAD_REQUEST, "an upload is a WebSocket")
        size = body["spec"]["source"]["upload"].get("size")
        upload = self._uploads.of((namespace, name), uid)
        socket = web.WebSocketResponse(
            heartbeat=_HEARTBEAT, protocols=("binary",), max_msg_size=LONGEST_MESSAGE, compress=False
        )
        await socket.prepare(request)
        talk = asyncio.create_task(self._talk(socket, upload, parse_quantity(size) if size else None))
        try:
            await asyncio.wait({talk})
        finally:
            talk.cancel()
            await asyncio.wait({talk})
        return socket

    async def _talk(self, socket: web.WebSocketResponse, upload: Upload, wanted: int | None) -> None:
        answer: Done | Refused | None = None
        try:
            offer = await self._heard(socket, Offer, self._idle)
            sender = await self._only(upload, offer)
            try:
                answer = await self._conversation(socket, upload, offer, wanted)
            except asyncio.CancelledError:
                if sender.stopped is None:
                    raise
                answer = sender.stopped
            finally:
                upload.sender = None
                self._uploads.changed_later(upload.key)
        except Stop as stop:
            answer = stop.answer
        except _Left:
            return
        except OSError as error:
            _log.warning("upload broken off", image="/".join(upload.key), error=str(error))
        refused = answer.refused.value if isinstance(answer, Refused) else ""
        _log.info("upload ended", image="/".join(upload.key), refused=refused)
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(5.0):
                if answer is not None:
                    await socket.send_bytes(wire(answer))
                await socket.close()

    async def _only(self, upload: Upload, offer: Offer) -> Sender:
        """Let one sender in; it may take over from itself."""
        while (other := upload.sender) is not None:
            if other.name != offer.sender:
                raise Stop(UploadRefusal.BUSY, "another sends the bytes of this image just now")
            other.stop(UploadRefusal.BUSY, "the same sender has come anew")
            await asyncio.wait({other.task})
        namespace = upload.key[0]
        for what, count, most in (
            ("uploads", self._uploads.senders(), AT_ONCE),
            (f"uploads of {namespace}", self._uploads.senders(namespace), OF_A_PROJECT),
        ):
            if count >= most:
                message = f"host {self._node} takes {count} {what} just now; transient: goes on when one has ended"
                raise Stop(UploadRefusal.BUSY, message)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        upload.sender, upload.answer = Sender(offer.sender, task, 0), None
        return upload.sender

    async def _conversation(
        self, socket: web.WebSocketResponse, upload: Upload, offer: Offer, wanted: int | None
    ) -> Done | Refused:
        if wanted is not None and offer.size != wanted:
            message = f"the file has {offer.size} bytes, the image's spec.source.upload.size says {wanted}"
            raise Stop(UploadRefusal.WRONG_SIZE, message)
        if offer.size > self._most:
            message = f"the file has {offer.size} bytes, {self._most} are allowed; use a smaller image"
            raise Stop(UploadRefusal.TOO_LARGE, message)
        digests, whole = await self._beside(socket, self._uploads.read(upload))
        await self._room(offer.size - digests.size)
        if upload.sender is not None:
            upload.sender.size = offer.size
        have = Have(offset=digests.size, sha256=digests.sha256.hexdigest(), host=self._node)
        await socket.send_bytes(wire(have))
        begin = await self._heard(socket, Begin, _THINKING_SECONDS)
        digests = await self._begun(upload, digests, begin.offset, whole=whole)
        if digests.size > offer.size:
            raise Stop(UploadRefusal.WRONG_SIZE, f"{digests.size} bytes are here, the file has {offer.size}")
        self._uploads.changed(upload.key)
        if not whole:
            await self._bytes(socket, upload, digests, offer.size)
        end = await self._heard(socket, End, self._idle)
        if end.sha256 != digests.sha256.hexdigest():
            if not whole:
                await self._uploads.drop(upload)
            message = "what came is not what was sent: the file was changed meanwhile, or its bytes on their way"
            raise Stop(UploadRefusal.CHANGED, message)
        return await self._beside(socket, self._judged(upload))

    async def _room(self, wanted: int) -> None:
        lacking = await self._uploads.lacking(wanted)
        if lacking:
            message = f"host {self._node} lacks {lacking} bytes for it; free some there, or ask an administrator"
            raise Stop(UploadRefusal.NO_ROOM, f"{message}, then run the command again")

    async def _begun(self, upload: Upload, digests: Digests, offset: int, *, whole: bool) -> Digests:
        if offset == digests.size:
            return digests
        if offset:
            message = f"byte {offset} is neither the first nor the next, which is {digests.size}"
            raise Stop(UploadRefusal.UNREADABLE, message)
        if whole:
            raise Stop(UploadRefusal.BUSY, "another file has come already, and is looked into just now")
        await self._uploads.drop(upload)
        return (await self._uploads.read(upload))[0]

    async def _bytes(self, socket: web.WebSocketResponse, upload: Upload, digests: Digests, size: int) -> None:
        """Write what comes, up to the size; the next message is read when this one is written."""
        told = digests.size
        try:
            with await finished(asyncio.to_thread(_opened, upload, digests.size)) as file:
                while digests.size < size:
                    data = await self._message(socket, self._idle)
                    if len(data) > size - digests.size:
                        raise Stop(UploadRefusal.WRONG_SIZE, f"more bytes come than the {size} that were said")
                    await finished(asyncio.to_thread(store, file, digests, data))
                    if digests.size - told >= _TOLD_EVERY:
                        told = digests.size
                        await socket.send_bytes(wire(Received(received=told)))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            message = f"host {self._node} has no room for the rest; free some there, then run the command again"
            raise Stop(UploadRefusal.NO_ROOM, message) from error
        await socket.send_bytes(wire(Received(received=digests.size)))

    async def _judged(self, upload: Upload) -> Done | Refused:
        """Have what came looked at, as a download is."""
        answer: asyncio.Future[Done | Refused] = asyncio.get_running_loop().create_future()
        upload.answer = answer
        try:
            await self._uploads.keep(upload)
        except FileNotFoundError:
            raise Stop(UploadRefusal.CHANGED, "what came was thrown away meanwhile") from None
        self._uploads.changed(upload.key)
        return await answer

    async def _beside(self, socket: web.WebSocketResponse, work: Awaitable[_T]) -> _T:
        """Do something that takes long while the sender, who has nothing to say now, stays."""
        doing, heard = asyncio.ensure_future(work), asyncio.ensure_future(socket.receive())
        try:
            await asyncio.wait({doing, heard}, return_when=asyncio.FIRST_COMPLETED)
            if doing.done():
                return doing.result()
            if heard.result().type in (WSMsgType.BINARY, WSMsgType.TEXT):
                raise Stop(UploadRefusal.UNREADABLE, "something was sent out of turn")
            raise _Left
        finally:
            for task in (doing, heard):
                task.cancel()
            await asyncio.gather(doing, heard, return_exceptions=True)

    async def _heard(self, socket: web.WebSocketResponse, kind: type[_Said], seconds: float) -> _Said:
        try:
            return kind.model_validate_json(await self._message(socket, seconds))
        except ValueError:
            raise Stop(UploadRefusal.UNREADABLE, f"no {kind.__name__} was sent where one is due") from None

    async def _message(self, socket: web.WebSocketResponse, seconds: float) -> bytes:
        try:
            async with asyncio.timeout(seconds):
                message = await socket.receive()
        except TimeoutError:
            raise Stop(UploadRefusal.IDLE, f"nothing came for {seconds:.0f} s; what came is kept") from None
        if message.type is WSMsgType.BINARY:
            return bytes(message.data)
        if message.type is WSMsgType.TEXT:
            return str(message.data).encode()
        raise _Left


def untaken(body: dict[str, Any], node: str) -> str:
    """Give why a host takes no bytes of an Image; empty if it does (pure)."""
    status = body.get("status") or {}
    if "upload" not in body["spec"]["source"]:
        return "comes from elsewhere: nothing is uploaded to it"
    if "deletionTimestamp" in body["metadata"]:
        return "is being deleted"
    if (get_condition(status.get("conditions") or [], "Ready") or {}).get("status") == "True":
        return "is whole already"
    named = status.get("importHost")
    return "" if named == node else f"is not for host {node} to take: {named or 'no host'} was named"


def _opened(upload: Upload, offset: int) -> BinaryIO:
    """Open the file to be gone on with; what a failed write has left behind the offset goes."""
    upload.part.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not offset:
        return upload.part.open("wb")
    file = upload.part.open("r+b")
    file.truncate(offset)
    file.seek(offset)
    return file
