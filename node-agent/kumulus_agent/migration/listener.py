"""The target's end of the tunnel: one TCP port, open while a guest is on its way here."""

from __future__ import annotations

import asyncio
import ssl
from asyncio import Server, StreamReader, StreamWriter
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog

from kumulus_agent.migration.channels import Denied, Hello, parse_hello, read_line
from kumulus_agent.migration.relay import LIMIT, Connection, close, watch_peer

_HELLO_SECONDS: Final = 10.0
Serve = Callable[[Connection, Hello], Awaitable[None]]
"""Carries one connection to its end; it answers `ok` itself when it is ready for what follows."""
Admit = Callable[[str, Hello], Awaitable[Serve]]
"""Takes the other host's name and what it wants; gives who serves it, or raises Denied."""

_log = structlog.stdlib.get_logger(__name__)


class Listener:
    """Listens while somebody needs it.

    Args:
        address: where.
        port: TCP.
        admit: judges each connection.
    """

    def __init__(self, address: str, port: int, admit: Admit) -> None:
        self._address = address
        self._port = port
        self._admit = admit
        self._server: Server | None = None
        self._open: dict[asyncio.Task[None], str] = {}
        self._changing = asyncio.Lock()

    @property
    def port(self) -> int:
        """The port that it listens on, 0 if it does not."""
        return int(self._server.sockets[0].getsockname()[1]) if self._server is not None else 0

    async def open(self, context: ssl.SSLContext) -> None:
        """Listen with this context; what is connected by an earlier one goes on."""
        async with self._changing:
            if self._server is not None:
                self._server.close()
            self._server = await asyncio.start_server(
                self._connected, self._address, self._port, ssl=context, limit=LIMIT
            )

    async def close(self) -> None:
        """Listen no more, and end what is connected."""
        async with self._changing:
            server, self._server = self._server, None
            if server is not None:
                server.close()
            await self._end(list(self._open))

    async def end(self, action_uid: str) -> None:
        """End the connections of one migration."""
        await self._end([task for task, uid in self._open.items() if uid == action_uid])

    async def _end(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader: StreamReader, writer: StreamWriter) -> None:
        task: asyncio.Task[Any] | None = asyncio.current_task()
        peer = peer_name(writer.get_extra_info("peercert"))
        try:
            watch_peer(writer)
            async with asyncio.timeout(_HELLO_SECONDS):
                hello = parse_hello(await read_line(reader))
                serve = await self._admit(peer, hello)
            if task is not None:
                self._open[task] = hello.uid
            await serve((reader, writer), hello)
        except (Denied, TimeoutError) as error:
            _log.warning("tunnel connection refused", peer=peer, error=str(error))
            writer.write(f"denied: {error}\n".encode())
        except OSError as error:
            _log.info("tunnel connection ended", peer=peer, error=str(error))
        finally:
            if task is not None:
                self._open.pop(task, None)
            await close(writer)


def peer_name(certificate: Any) -> str:
    """Give the host that a verified certificate was made out to (pure); empty if it names none."""
    names = [value for kind, value in (certificate or {}).get("subjectAltName", ()) if kind == "DNS"]
    return str(names[0]) if len(names) == 1 else ""
