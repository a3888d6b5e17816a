"""A connection to charon's control socket (vici)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kumulus_agent.network.errors import NetworkError
from kumulus_agent.vpn.messages import Malformed, Message, Packet, named, opened

_ANSWER_SECONDS = 10.0
_LARGEST = 512 * 1024
"""vici's own bound."""

OnEvent = Callable[[str, dict[str, Any]], None]


class DaemonUnanswered(NetworkError):
    """charon is not there, or does not answer."""


class DaemonRefused(NetworkError):
    """charon has answered that it does not do what it was asked for."""


class Vici:
    """One connection; belongs to the event loop's thread. Nothing that is sent is told in errors.

    Args:
        reader: from the socket.
        writer: to the socket.
        on_event: called with name and message of an event that was asked for.
        on_close: called once when the connection has ended by itself.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        on_event: OnEvent,
        on_close: Callable[[], None],
    ) -> None:
        self._reader, self._writer = reader, writer
        self._on_event, self._on_close = on_event, on_close
        self._asking = asyncio.Lock()
        self._answer: asyncio.Future[tuple[Packet, dict[str, Any]]] | None = None
        self._gathered: tuple[str, list[dict[str, Any]]] | None = None
        self._closed = False
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def connect(cls, socket: Path, on_event: OnEvent, on_close: Callable[[], None]) -> Vici:
        """Open a connection.

        Raises:
            DaemonUnanswered: nobody listens there.
        """
        try:
            reader, writer = await asyncio.open_unix_connection(str(socket))
        except OSError as error:
            raise DaemonUnanswered(f"charon does not listen at {socket}: {error.strerror}") from error
        return cls(reader, writer, on_event, on_close)

    @property
    def closed(self) -> bool:
        """Whether it has ended."""
        return self._closed

    async def ask(self, command: str, message: Message | None = None) -> dict[str, Any]:
        """Give the answer to a command.

        Raises:
            DaemonRefused: it says why.
            DaemonUnanswered: it says nothing.
        """
        async with self._asking:
            packet, found = await self._exchange(named(Packet.REQUEST, command, message))
        if packet is not Packet.RESPONSE:
            raise DaemonRefused(f"charon does not know {command}")
        if found.get("success", "yes") != "yes":
            raise DaemonRefused(f"charon refuses {command}: {found.get('errmsg', 'it does not say why')}")
        return found

    async def gather(self, command: str, event: str, message: Message | None = None) -> list[dict[str, Any]]:
        """Give what a command tells by events before its answer: `list-sas` by `list-sa`.

        Raises:
            DaemonRefused: it does not know them.
            DaemonUnanswered: it says nothing.
        """
        async with self._asking:
            found: list[dict[str, Any]] = []
            self._gathered = (event, found)
            try:
                await self._subscribe(Packet.REGISTER, event)
                await self._exchange(named(Packet.REQUEST, command, message))
                await self._subscribe(Packet.UNREGISTER, event)
            finally:
                self._gathered = None
            return found

    async def register(self, event: str) -> None:
        """Hear of an event from now on.

        Raises:
            DaemonRefused: it does not know it.
            DaemonUnanswered: it says nothing.
        """
        async with self._asking:
            await self._subscribe(Packet.REGISTER, event)

    async def close(self) -> None:
        """End the connection."""
        self._on_close = lambda: None
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)

    async def _subscribe(self, packet: Packet, event: str) -> None:
        answer, _ = await self._exchange(bytes([packet, len(event)]) + event.encode())
        if answer is not Packet.CONFIRMED:
            raise DaemonRefused(f"charon knows no event {event}")

    async def _exchange(self, content: bytes) -> tuple[Packet, dict[str, Any]]:
        if self._closed:
            raise DaemonUnanswered("charon has closed the connection")
        self._answer = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                self._writer.write(len(content).to_bytes(4) + content)
                await self._writer.drain()
                return await self._answer
        except TimeoutError as error:
            raise DaemonUnanswered(f"charon has not answered in {_ANSWER_SECONDS:.0f} s") from error
        except OSError as error:
            raise DaemonUnanswered(f"charon has closed the connection: {error.strerror}") from error
        finally:
            self._answer = None

    async def _listen(self) -> None:
        try:
            while True:
                length = int.from_bytes(await self._reader.readexactly(4))
                if length > _LARGEST:
                    break
                self._take(*opened(await self._reader.readexactly(length)))
        except (asyncio.IncompleteReadError, OSError, Malformed):
            pass
        finally:
            self._closed = True
            self._writer.close()
            if self._answer is not None and not self._answer.done():
                self._answer.set_exception(DaemonUnanswered("charon has closed the connection"))
            self._on_close()

    def _take(self, packet: Packet, name: str, message: dict[str, Any]) -> None:
        if packet is not Packet.EVENT:
            if self._answer is not None and not self._answer.done():
                self._answer.set_result((packet, message))
        elif self._gathered is not None and name == self._gathered[0]:
            self._gathered[1].append(message)
        else:
            self._on_event(name, message)
