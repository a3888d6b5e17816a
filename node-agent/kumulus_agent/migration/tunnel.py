"""The source's end of the tunnel: sockets that lead to the target, as if it were on this host."""

from __future__ import annotations

import asyncio
import os
from asyncio import Server, StreamReader, StreamWriter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import structlog

from kumulus_agent.migration.channels import Channel, Denied, Hello, Piece, Sockets, pieces, read_line
from kumulus_agent.migration.credentials import Contexts
from kumulus_agent.migration.relay import LIMIT, Connection, close, relay, sever, watch_peer

_DIAL_SECONDS: Final = 10.0
_FILE_SECONDS: Final = 600.0

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Peer:
    """The target: its name, which its certificate must bear, and where it listens."""

    name: str
    address: str
    port: int


class Tunnel:
    """Connections to the target of one migration, while the block lasts.

    The connection to the own libvirtd goes through here too. When the one to the target's libvirtd ends, for whatever
    reason, this one is ended first: libvirt's client, which drives both, then cannot wake the guest here because it has
    not heard that it runs there. libvirtd leaves it paused, and both hypervisors are asked.

    Args:
        peer: the target.
        contexts: TLS.
        hello: what this migration's connections begin with.
        sockets: where the sockets are made.
        libvirt: path of the own libvirtd's socket.
    """

    def __init__(self, peer: Peer, contexts: Contexts, hello: Hello, sockets: Sockets, libvirt: str) -> None:
        self._peer = peer
        self._contexts = contexts
        self._hello = hello
        self._libvirt = libvirt
        self.sockets = sockets
        self._servers: list[Server] = []
        self._open: set[asyncio.Task[None]] = set()
        self._local: set[StreamWriter] = set()
        self.refusal = ""
        """What the target said last when it did not take a connection."""

    async def __aenter__(self) -> Self:
        """Listen on the sockets."""
        for path, serve in (
            (self.sockets.control, self._control),
            (self.sockets.local, self._to_own_libvirt),
            (self.sockets.memory, self._carrying(Channel.MEMORY)),
            (self.sockets.disks, self._carrying(Channel.DISKS)),
        ):
            await self._listen(path, serve)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all connections and remove the sockets."""
        for server in self._servers:
            server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        for path in (self.sockets.control, self.sockets.local, self.sockets.memory, self.sockets.disks):
            path.unlink(missing_ok=True)
        with suppress(OSError):
            self.sockets.directory.rmdir()

    async def send_file(self, path: Path, name: str) -> None:
        """Have the target keep a copy of a file.

        Raises:
            Denied: it does not take it.
            OSError: the connection broke.
        """
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            hello = replace(self._hello, channel=Channel.FILE, file=name, size=size)
            reader, writer = await dial(self._peer, self._contexts, hello)
            try:
                for piece in pieces(file.fileno(), size):
                    data = await asyncio.to_thread(os.pread, file.fileno(), piece.length, piece.offset)
                    if len(data) != piece.length:
                        raise Denied(f"{path} became shorter while it was copied")
                    writer.write(piece.head() + data)
                    await writer.drain()
                writer.write(Piece(0, 0).head())
                async with asyncio.timeout(_FILE_SECONDS):
                    await _accepted(reader)
            finally:
                await close(writer)

    async def _listen(self, path: Path, serve: Callable[[Connection], Awaitable[None]]) -> None:
        async def connected(reader: StreamReader, writer: StreamWriter) -> None:
            task = asyncio.current_task()
            if task is not None:
                self._open.add(task)
                task.add_done_callback(self._open.discard)
            try:
                await serve((reader, writer))
            except (OSError, Denied, TimeoutError) as error:
                self.refusal = str(error)
                _log.info("tunnel connection ended", channel=path.name, error=str(error))
            finally:
                await close(writer)

        self._servers.append(await asyncio.start_unix_server(connected, str(path), limit=LIMIT))
        # The folder keeps strangers out; QEMU runs as a user of its own.
        await asyncio.to_thread(path.chmod, 0o666)

    def _carrying(self, channel: Channel) -> Callable[[Connection], Awaitable[None]]:
        async def carry(local: Connection) -> None:
            remote = await dial(self._peer, self._contexts, replace(self._hello, channel=channel))
            try:
                await relay(local, remote)
            finally:
                await close(remote[1])

        return carry

    async def _control(self, local: Connection) -> None:
        remote: Connection | None = None
        try:
            remote = await dial(self._peer, self._contexts, replace(self._hello, channel=Channel.CONTROL))
            await relay(local, remote)
        finally:
            # First, and before anybody can read the end of the other: see the class.
            for writer in list(self._local):
                sever(writer)
            if remote is not None:
                await close(remote[1])

    async def _to_own_libvirt(self, local: Connection) -> None:
        own = await asyncio.open_unix_connection(self._libvirt, limit=LIMIT)
        writers = {local[1], own[1]}
        self._local |= writers
        try:
            await relay(local, own)
        finally:
            self._local -= writers
            await close(own[1])


async def dial(peer: Peer, contexts: Contexts, hello: Hello) -> Connection:
    """Connect to another host's agent.

    Raises:
        Denied: it does not take the connection.
        OSError, TimeoutError: it does not answer, or is not who it should be.
    """
    async with asyncio.timeout(_DIAL_SECONDS):
        reader, writer = await asyncio.open_connection(
            peer.address, peer.port, ssl=contexts.client, server_hostname=peer.name, limit=LIMIT
        )
        try:
            watch_peer(writer)
            writer.write(hello.line())
            await writer.drain()
            await _accepted(reader)
        except BaseException:
            writer.transport.abort()
            raise
    return reader, writer


async def _accepted(reader: StreamReader) -> None:
    answer = (await read_line(reader)).decode(errors="replace").strip()
    if answer != "ok":
        raise Denied(f"the other host said: {answer[:500]}")
