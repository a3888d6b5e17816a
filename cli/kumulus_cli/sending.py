"""One connection over which a file is sent; see `kumulus_api.upload_messages`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Protocol

import aiohttp
from aiohttp import WSMsgType

from kumulus_api.upload_messages import (
    SESSION_DELETED,
    Begin,
    Done,
    End,
    Have,
    Offer,
    Received,
    Refused,
    read_answer,
    wire,
)
from kumulus_cli import stream
from kumulus_cli.image_file import ImageFile, UploadError
from kumulus_cli.session import Session

_LAST_WORDS = 5.0
_NOTHING = "0" * 64


class Broken(Exception):
    """The connection has ended before the file had; the message says how."""


class Show(Protocol):
    """Shows how far it is."""

    def at(self, done: int) -> None:
        """So many bytes of the file are there."""

    def say(self, text: str) -> None:
        """Something has happened, or goes on that takes long."""


class Sending:
    """Sends a file, or the rest of it.

    Args:
        file: the file.
        sender: name of this command, the same for all its connections.
        show: tells the user.

    Attributes:
        done: bytes that the host has said to have.
        all_sent: the host has been told that there are no more.
    """

    def __init__(self, file: ImageFile, sender: str, show: Show) -> None:
        self._file = file
        self._sender = sender
        self._show = show
        self._have: asyncio.Future[Have]
        self.done = 0
        self.all_sent = False

    async def once(self, socket: Path, session: Session) -> Done | Refused:
        """Send until the host says that it has the image, or that it takes no more.

        Args:
            socket: of `kubectl.private_proxy`.
            session: for the upload.

        Raises:
            ConsoleError: the way there is closed.
            Broken: the connection has ended.
            UploadError: somebody has ended the upload, or changed the file.
        """
        async with stream.console(socket, session) as web_socket:
            return await self.talk(web_socket)

    async def talk(self, web_socket: aiohttp.ClientWebSocketResponse) -> Done | Refused:
        """Do what `once` does, over a WebSocket that is open."""
        self._have = asyncio.get_running_loop().create_future()
        await web_socket.send_bytes(wire(Offer(size=self._file.size, sender=self._sender)))
        hearing = asyncio.create_task(self._hear(web_socket))
        sending = asyncio.create_task(self._send(web_socket))
        try:
            await asyncio.wait({hearing, sending}, return_when=asyncio.FIRST_COMPLETED)
            failed = sending.exception() if sending.done() else None
            if failed is not None and not hearing.done():
                await asyncio.wait({hearing}, timeout=_LAST_WORDS)  # why it has hung up
            if failed is not None and (isinstance(failed, UploadError) or not hearing.done()):
                raise failed
            return await hearing
        finally:
            for task in (hearing, sending):
                task.cancel()
            await asyncio.gather(hearing, sending, return_exceptions=True)

    async def _hear(self, web_socket: aiohttp.ClientWebSocketResponse) -> Done | Refused:
        while True:
            message = await web_socket.receive()
            if message.type is WSMsgType.CLOSE and message.extra == SESSION_DELETED:
                raise UploadError("somebody has ended the upload by deleting its ImageUpload, or the Image")
            if message.type is not WSMsgType.BINARY:
                raise Broken(str(message.extra or "the connection was lost"))
            try:
                answer = read_answer(message.data)
            except ValueError as error:
                raise UploadError(f"the host does not speak as this command does: {error}") from error
            if isinstance(answer, Have) and not self._have.done():
                self._have.set_result(answer)
            elif isinstance(answer, Received):
                self.done = answer.received
                self._show.at(self.done)
            elif isinstance(answer, Done | Refused):
                return answer

    async def _send(self, web_socket: aiohttp.ClientWebSocketResponse) -> None:
        try:
            await web_socket.send_bytes(wire(Begin(offset=await self._where(await self._have))))
            while data := await asyncio.to_thread(self._file.read):
                await web_socket.send_bytes(data)
            changed = await asyncio.to_thread(lambda: self._file.changed)
            await web_socket.send_bytes(wire(End(sha256=_NOTHING if changed else self._file.sha256)))
        except (OSError, aiohttp.ClientError) as error:
            raise Broken(str(error) or type(error).__name__) from error
        if changed:
            raise UploadError(f"{self._file.path} was changed while it was sent: run the command again")
        self.all_sent = True
        self._show.say("the host looks into the image")

    async def _where(self, have: Have) -> int:
        """Give where the file goes on: behind what the host has, if that is how the file begins."""
        if 0 < have.offset <= self._file.size:
            self._show.say(f"host {have.host} has {have.offset} bytes already: compared with the file")
            await asyncio.to_thread(self._file.go_to, have.offset)
            if self._file.sha256 == have.sha256:
                self.done = have.offset
                self._show.at(self.done)
                return have.offset
        if have.offset:
            self._show.say(f"host {have.host} has bytes of another file: begins anew")
        await asyncio.to_thread(self._file.go_to, 0)
        self.done = 0
        self._show.at(0)
        return 0
