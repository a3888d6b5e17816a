"""Messages from one WebSocket to another and back, each way only as fast as the other end reads."""

from __future__ import annotations

import asyncio
import contextlib

import aiohttp
from aiohttp import WSCloseCode, WSMsgType, web

_Socket = web.WebSocketResponse | aiohttp.ClientWebSocketResponse
Close = tuple[int, str]
"""A WebSocket's closing code and reason (RFC 6455, section 7.4)."""
_LONGEST_REASON = 120


async def relay(user: web.WebSocketResponse, agent: aiohttp.ClientWebSocketResponse) -> None:
    """Pass on until one of the two ends, or until cancelled with a message; then close both, the user told why."""
    code, reason = WSCloseCode.OK.value, ""
    tasks = [asyncio.create_task(_pass_on(user, agent)), asyncio.create_task(_pass_on(agent, user))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[1].done():
            code, reason = tasks[1].result()
    except asyncio.CancelledError as cancelled:
        code, reason = WSCloseCode.GOING_AWAY.value, str(cancelled)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    message = reason.encode()[:_LONGEST_REASON]
    with contextlib.suppress(OSError, aiohttp.ClientError, TimeoutError):
        async with asyncio.timeout(2.0):
            await agent.close()
            await user.close(code=code, message=message)


async def _pass_on(source: _Socket, sink: _Socket) -> Close:
    """Pass on until `source` is closed, and give what it said."""
    with contextlib.suppress(OSError, aiohttp.ClientError):
        while True:
            message = await source.receive()
            if message.type in (WSMsgType.BINARY, WSMsgType.TEXT):
                data = message.data if message.type is WSMsgType.BINARY else message.data.encode()
                await sink.send_bytes(data)
            elif message.type is WSMsgType.CLOSE:
                return int(message.data or WSCloseCode.OK), str(message.extra or "")
            else:
                break
    return WSCloseCode.GOING_AWAY.value, "the connection to the server's host was lost"
