"""For tests of what an agent does with backups: the API, its work queue, and a way to the bucket that can be held."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from kumulus_runtime.errors import NotFound
from kumulus_runtime.store import Store


class API:
    """What the agent reads and writes."""

    def __init__(self) -> None:
        self.store = Store()
        self.released: list[str] = []
        self.events: list[str] = []
        """Reasons of Events."""

    def put(self, body: dict[str, Any]) -> None:
        """Have an object as somebody else has written it."""
        self.store.apply("MODIFIED", body)

    async def get(self, kind: type, name: str, namespace: str) -> dict[str, Any] | None:
        """Give an object as it is now."""
        return self.store.get(kind, name, namespace)

    async def list(self, kind: type, namespace: str) -> tuple[list[dict[str, Any]], str]:
        """Give all objects of a kind."""
        return list(self.store.list(kind, namespace)), "1"

    async def apply_status(self, kind: type, body: dict[str, Any], *, manager: str) -> dict[str, Any]:
        """Take what is told."""
        known = self.store.get(kind, body["metadata"]["name"], body["metadata"]["namespace"])
        if known is None:
            raise NotFound(404, "NotFound", kind.__name__)
        return known | {"status": body["status"]}

    async def remove_finalizer(self, kind: type, name: str, _: str, namespace: str, **__: Any) -> None:
        """Let an object go."""
        self.released.append(name)
        self.store.apply("DELETED", self.store.get(kind, name, namespace) or {})

    def post(self, _about: Any, reason: str, _message: str, **_: Any) -> None:
        """Take an Event."""
        self.events.append(reason)


class Queue:
    """The work queue: it only notes that something was added."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self.again: list[float] = []

    def add(self, _key: Any) -> None:
        """Look at it at once."""
        self.changed.set()

    def add_after(self, _key: Any, seconds: float) -> None:
        """Look at it later."""
        if seconds:
            self.again.append(seconds)
        self.changed.set()


class Door:
    """The way to the bucket; while it is held nothing that was put there is acknowledged."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open = asyncio.Event()
        self._open.set()
        self.putting = asyncio.Event()
        """Somebody has begun to put a chunk."""
        self.endpoint = ""

    async def __aenter__(self) -> Door:
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        self.endpoint = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release()
        self._server.close()

    def hold(self) -> None:
        """Hold up what is put from now on."""
        self.putting.clear()
        self._open.clear()

    def release(self) -> None:
        """Let it go on."""
        self._open.set()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inside, into = await asyncio.open_connection("127.0.0.1", self._port)

        async def copy(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
            with suppress(ConnectionError):
                while data := await source.read(1 << 16):
                    if data.startswith(b"PUT ") and b"/chunks/" in data[:512]:
                        self.putting.set()
                        await self._open.wait()
                    to.write(data)
                    await to.drain()
            to.close()

        await asyncio.gather(copy(reader, into), copy(inside, writer))
