"""The metadata service of this host's networks: a listening socket in the namespace of each network's servers.

Who asks is told by network and source address, which the port's rules let nobody else use, and by the MAC that answers
to it; nothing in a request counts. Only ports of this host are known: the link is shut off from the overlay.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, Protocol

import structlog

from kumulus_agent import metrics
from kumulus_agent.metadata.answers import answer, is_password, names
from kumulus_agent.metadata.door import BACKLOG, Door, inode, open_door
from kumulus_agent.metadata.ec2 import Guest
from kumulus_agent.metadata.exchange import HEAD_BYTES, Reply, Request, Unreadable, read_body, read_request, reply_bytes
from kumulus_agent.metadata.pace import Pace, TooMuch
from kumulus_agent.network import metadata_link
from kumulus_agent.network.errors import NetworkError
from kumulus_agent.network.state import NetworkDesired, PortDesired
from kumulus_agent.storage.config_drive import RANDOM_BYTES

_log = structlog.stdlib.get_logger(__name__)
_SECONDS: Final = 5.0
"""A request's head takes no longer, a kept connection is idle no longer, and an answer is taken as fast."""
_READING: Final = ("GET", "HEAD")


class Source(Protocol):
    """What is known of guests, by their instance ids."""

    async def guest(self, instance_id: str) -> Guest | None:
        """Give what a guest is told; None if that is not known here."""

    async def keep_password(self, instance_id: str, text: str) -> HTTPStatus:
        """Keep what a guest tells as its password, encrypted; give what is answered."""


@dataclass
class _Served:
    """One network."""

    vni: int
    door: Door
    ports: dict[str, PortDesired] = field(default_factory=dict)
    paces: dict[str, Pace] = field(default_factory=dict)
    talks: set[asyncio.Task[None]] = field(default_factory=set)
    servers: list[asyncio.Server] = field(default_factory=list)

    def know(self, network: NetworkDesired) -> None:
        """Answer the network's ports here, and no others."""
        self.ports = {port.mac: port for port in network.ports}
        self.paces = {port.tap: self.paces.get(port.tap, Pace()) for port in network.ports}


class MetadataService:
    """Answers guests of this host.

    Args:
        source: what each is told.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._served: dict[int, _Served] = {}

    def serves(self, vni: int, namespace: str) -> bool:
        """Tell whether the network's guests are answered in that namespace."""
        served = self._served.get(vni)
        return served is not None and served.door.inode == inode(namespace)

    async def ensure(self, network: NetworkDesired, namespace: str, *, anew: bool) -> bool:
        """Answer the network's ports on this host.

        Args:
            network: as it should be here.
            namespace: that of its servers, by name.
            anew: the namespace's interface is a new one.

        Returns:
            Whether the socket was opened for it.

        Raises:
            NetworkError: the socket cannot be opened.
        """
        opening = anew or not self.serves(network.vni, namespace)
        if opening:
            await self.absent(network.vni)
            await metadata_link.bound(namespace)
            try:
                served = _Served(network.vni, open_door(namespace))
            except OSError as error:
                asked = f"listen for questions for metadata in namespace {namespace}"
                raise NetworkError(f"{asked}: {error}") from error
            self._served[network.vni] = served
            served.know(network)

            async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await self._accepted(served, reader, writer)

            for listener in served.door.listeners:
                # Left out, asyncio would shorten the queue to a guest's own burst.
                server = await asyncio.start_server(talk, sock=listener, limit=HEAD_BYTES, backlog=BACKLOG)
                served.servers.append(server)
        self._served[network.vni].know(network)
        return opening

    async def absent(self, vni: int) -> bool:
        """Answer a network no longer; False if it was not answered. No socket is left that would keep its namespace."""
        served = self._served.pop(vni, None)
        if served is None:
            return False
        for server in served.servers:
            server.close()
        talks = list(served.talks)
        for talk in talks:
            talk.cancel()
        await asyncio.gather(*talks, return_exceptions=True)
        served.door.close()
        return True

    async def close(self) -> None:
        """Answer nobody any more."""
        for vni in list(self._served):
            await self.absent(vni)

    async def _accepted(self, served: _Served, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            served.talks.add(task)
            task.add_done_callback(served.talks.discard)
        try:
            await self._talk(served, reader, writer)
        except (ConnectionError, TimeoutError):
            pass
        finally:
            # What was to be sent was waited for.
            writer.transport.abort()

    async def _talk(self, served: _Served, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        source = str(writer.get_extra_info("peername")[0])
        port = served.door.caller(source, served.ports)
        if port is None:
            metrics.METADATA_REFUSED.labels(reason="unknown").inc()
            return
        try:
            with served.paces[port.tap].connected():
                while await self._exchange(served, source, reader, writer):
                    pass
                await _end(reader, writer)
        except TooMuch:
            metrics.METADATA_REFUSED.labels(reason="connections").inc()

    async def _exchange(
        self, served: _Served, source: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer a request; give whether the connection is kept."""
        request = None
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_SECONDS):
                    request = await read_request(reader)
            if request is None:
                return False
            # An address may have become another's while the connection was open.
            port = served.door.caller(source, served.ports)
            if port is None:
                return False
            reply = await self._reply(served, port, request, reader)
        except Unreadable as unreadable:
            reply = Reply(unreadable.status)
        keeps = request is not None and request.keeps and reply.status is not HTTPStatus.TOO_MANY_REQUESTS
        metrics.METADATA_REQUESTS.labels(code=str(reply.status.value)).inc()
        writer.write(reply_bytes(reply, keeps=keeps, head_only=request is not None and request.method == "HEAD"))
        async with asyncio.timeout(_SECONDS):
            await writer.drain()
        return keeps

    async def _reply(self, served: _Served, port: PortDesired, request: Request, reader: asyncio.StreamReader) -> Reply:
        if not served.paces[port.tap].take(time.monotonic()):
            return Reply(HTTPStatus.TOO_MANY_REQUESTS, headers=(("Retry-After", "5"),))
        path = names(request.target)
        allowed = (*_READING, "POST") if is_password(path) else _READING
        if request.method == "POST" and request.method in allowed:
            async with asyncio.timeout(_SECONDS):
                body = await read_body(reader, request)
            text = body.decode("ascii", errors="replace").strip()
            return Reply(await self._source.keep_password(port.instance_id, text))
        guest = await self._source.guest(port.instance_id)
        if guest is None:
            _log.warning("a guest asks of whom nothing is known", instance=port.instance_id, vni=served.vni)
            return Reply(HTTPStatus.SERVICE_UNAVAILABLE, headers=(("Retry-After", "5"),))
        found = answer(guest, path, os.urandom(RANDOM_BYTES))
        if found is None:
            return Reply(HTTPStatus.NOT_FOUND)
        if request.method not in allowed:
            return Reply(HTTPStatus.METHOD_NOT_ALLOWED, headers=(("Allow", ", ".join(allowed)),))
        return Reply(HTTPStatus.OK, found.body, found.kind)


async def _end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say that this was all, and wait until the guest has heard it: what is cut off may not have arrived."""
    async with asyncio.timeout(_SECONDS):
        if writer.can_write_eof():
            writer.write_eof()
        while await reader.read(HEAD_BYTES):
            pass
