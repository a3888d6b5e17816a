"""Carrying bytes both ways between two connections."""

from __future__ import annotations

import asyncio
import socket
from asyncio import StreamReader, StreamWriter
from contextlib import suppress
from typing import Final

Connection = tuple[StreamReader, StreamWriter]
CHUNK: Final = 256 << 10
LIMIT: Final = 1 << 20
_SILENCE_MILLISECONDS: Final = 15_000
_KEEPALIVE: Final = ((socket.TCP_KEEPIDLE, 5), (socket.TCP_KEEPINTVL, 3), (socket.TCP_KEEPCNT, 3))


def watch_peer(writer: StreamWriter) -> None:
    """Have the kernel end a connection whose other host has gone silent, after about 15 s."""
    found = writer.get_extra_info("socket")
    if found is None or found.family not in (socket.AF_INET, socket.AF_INET6):
        return
    found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        found.setsockopt(socket.IPPROTO_TCP, option, value)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SILENCE_MILLISECONDS)


def sever(writer: StreamWriter) -> None:
    """End a connection at this very moment: its other side reads the end before we go on."""
    found = writer.get_extra_info("socket")
    if found is not None:
        with suppress(OSError):
            found.shutdown(socket.SHUT_RDWR)
    writer.transport.abort()


async def relay(one: Connection, other: Connection) -> None:
    """Carry bytes both ways until either side ends; what it had sent before has been passed on then.

    Neither connection is closed: the caller decides in which order.
    """
    pumps = [asyncio.create_task(_pump(one[0], other[1])), asyncio.create_task(_pump(other[0], one[1]))]
    try:
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(reader: StreamReader, writer: StreamWriter) -> None:
    # A connection that breaks ends like one that is closed: whoever used it finds out by its own protocol.
    with suppress(OSError, EOFError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()


async def close(*writers: StreamWriter) -> None:
    """Close connections, sending what is still to be sent."""
    for writer in writers:
        writer.close()
    for writer in writers:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(5):
                await writer.wait_closed()
