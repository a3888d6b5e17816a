"""The other end of a connection between hosts: one TCP port, open while somebody here has something for others."""

from __future__ import annotations

import asyncio
import socket
import ssl
from asyncio import StreamReader, StreamReaderProtocol, StreamWriter
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog

from kumulus_agent.migration.channels import Denied, Hello, parse_hello, read_line
from kumulus_agent.migration.credentials import NoCredentials
from kumulus_agent.migration.relay import LIMIT, Connection, close, watch_peer
from kumulus_runtime.api_client import ApiError

_HELLO_SECONDS: Final = 10.0
Serve = Callable[[Connection, Hello], Awaitable[None]]
"""Carries one connection to its end; it answers `ok` itself when it is ready for what follows."""
Admit = Callable[[str, Hello], Awaitable[Serve]]
"""Takes the other host's name and what it wants; gives who serves it, or raises Denied."""
Provide = Callable[[], Awaitable[ssl.SSLContext]]
"""Gives the context of a connection that begins now: certificates and authorities change while the port is open."""

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
        self._socket: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._open: dict[asyncio.Task[None], str] = {}
        self._changing = asyncio.Lock()

    @property
    def port(self) -> int:
        """The port that it listens on, 0 if it does not."""
        return int(self._socket.getsockname()[1]) if self._socket is not None else 0

    async def open(self, provide: Provide) -> None:
        """Listen, unless it does already.

        Raises:
            OSError: the port cannot be had.
        """
        async with self._changing:
            if self._socket is None:
                family = socket.AF_INET6 if ":" in self._address else socket.AF_INET
                self._socket = socket.create_server((self._address, self._port), family=family)
                self._socket.setblocking(False)
                self._accepting = asyncio.create_task(self._accept(self._socket, provide))

    async def close(self) -> None:
        """Listen no more, and end what is connected."""
        async with self._changing:
            if self._accepting is not None:
                await self._end([self._accepting])
            if self._socket is not None:
                self._socket.close()
            self._socket = self._accepting = None
            await self._end(list(self._open))

    async def end(self, uid: str) -> None:
        """End the connections of one migration."""
        await self._end([task for task, of in self._open.items() if of == uid])

    async def _end(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, listening: socket.socket, provide: Provide) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connected, _ = await loop.sock_accept(listening)
            except OSError as error:  # such as too many open files
                _log.warning("connection not accepted", error=str(error))
                await asyncio.sleep(1.0)
                continue
            task = asyncio.create_task(self._connected(connected, provide))
            self._open[task] = ""
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._open.pop(task, None)

    async def _connected(self, connected: socket.socket, provide: Provide) -> None:
        loop = asyncio.get_running_loop()
        try:
            context = await provide()
        except BaseException as error:
            connected.close()
            if not isinstance(error, NoCredentials | ApiError | OSError):
                raise
            _log.warning("connection not opened", error=str(error))
            return
        reader = StreamReader(limit=LIMIT)
        protocol = StreamReaderProtocol(reader)
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol, connected, ssl=context, ssl_handshake_timeout=_HELLO_SECONDS
            )
        except OSError as error:
            _log.info("connection not opened", error=str(error))
            return
        await self._serve(reader, StreamWriter(transport, protocol, reader, loop))

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
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
            _log.warning("connection refused", peer=peer, error=str(error))
            writer.write(f"denied: {error}\n".encode())
        except (OSError, EOFError) as error:
            _log.info("connection ended", peer=peer, error=str(error))
        finally:
            await close(writer)


def peer_name(certificate: Any) -> str:
    """Give the host that a verified certificate was made out to (pure); empty if it names none."""
    names = [value for kind, value in (certificate or {}).get("subjectAltName", ()) if kind == "DNS"]
    return str(names[0]) if len(names) == 1 else ""
