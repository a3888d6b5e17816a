"""Bytes from a guest to a WebSocket and back, each way only as fast as the other end reads."""

from __future__ import annotations

import asyncio
import contextlib

from aiohttp import WSCloseCode, WSMsgType, web

TAKEN = "another session has taken the console over"
ENDED = "the guest has closed its console"
_BLOCK = 32768


async def relay(
    socket: web.WebSocketResponse, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> web.WebSocketResponse:
    """Pass on until one of the two ends, or until cancelled with a message; then close both.

    Returns:
        The WebSocket, closed; its other end was told why.
    """
    out = asyncio.create_task(_to_socket(socket, reader))
    into = asyncio.create_task(_to_guest(socket, writer))
    code, reason = WSCloseCode.OK, ENDED
    try:
        await asyncio.wait({out, into}, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError as cancelled:
        code, reason = WSCloseCode.GOING_AWAY, str(cancelled)
    out.cancel()
    into.cancel()
    await asyncio.gather(out, into, return_exceptions=True)
    writer.close()
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(1.0):
            await socket.close(code=code, message=reason.encode())
    return socket


async def _to_socket(socket: web.WebSocketResponse, reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_BLOCK):
            await socket.send_bytes(data)


async def _to_guest(socket: web.WebSocketResponse, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        async for message in socket:
            if message.type in (WSMsgType.BINARY, WSMsgType.TEXT):
                writer.write(message.data if message.type is WSMsgType.BINARY else message.data.encode())
                await writer.drain()
