"""A serial console in this terminal: keys go to the guest as they are pressed, and Ctrl-] leaves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import termios
import threading
import tty
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
from aiohttp import WSMsgType

from kumulus_cli import stream
from kumulus_cli.session import Session

LEAVE = b"\x1d"
"""Ctrl-], as telnet, virsh and virtctl have it."""
_BLOCK = 4096
_QUIET_SECONDS = 2.0
"""Where standard input is no terminal and has ended: how long the guest must be silent before we leave."""


async def attach(socket: Path, session: Session) -> str:
    """Join standard input and output with a server's serial console until one of the two ends.

    Args:
        socket: of `kubectl.private_proxy`.
        session: for the serial console.

    Returns:
        Why it ended; empty if the user left.

    Raises:
        ConsoleError: it cannot be had.
    """
    async with stream.console(socket, session) as console:
        _say(f"Connected to server {session.server}. Leave with Ctrl-] ; Enter may wake a prompt.")
        with _raw(sys.stdin.fileno()):
            return await _talk(console)


async def _talk(console: aiohttp.ClientWebSocketResponse) -> str:
    heard = asyncio.Event()
    shown = asyncio.create_task(_show(console, heard))
    typed = asyncio.create_task(_type(console))
    try:
        await asyncio.wait({shown, typed}, return_when=asyncio.FIRST_COMPLETED)
        if shown.done():
            return shown.result()
        if not typed.result():
            await _until_quiet(shown, heard)
        return shown.result() if shown.done() else ""
    finally:
        for task in (shown, typed):
            task.cancel()
        await asyncio.gather(shown, typed, return_exceptions=True)


async def _until_quiet(shown: asyncio.Task[str], heard: asyncio.Event) -> None:
    while not shown.done():
        heard.clear()
        try:
            async with asyncio.timeout(_QUIET_SECONDS):
                await heard.wait()
        except TimeoutError:
            return


async def _show(console: aiohttp.ClientWebSocketResponse, heard: asyncio.Event) -> str:
    """Write what comes to standard output; give why it ended."""
    while True:
        message = await console.receive()
        if message.type is WSMsgType.BINARY:
            heard.set()
            await asyncio.to_thread(_write, message.data)
        elif message.type is WSMsgType.CLOSE:
            heard.set()
            return str(message.extra or "the console was closed")
        elif message.type is not WSMsgType.TEXT:
            heard.set()
            return "the connection to the console proxy was lost"


async def _type(console: aiohttp.ClientWebSocketResponse) -> bool:
    """Send what is typed; give whether the user left, rather than that there is no more."""
    async for data in _keys(sys.stdin.fileno()):
        before, left, _ = data.partition(LEAVE)
        if before:
            await console.send_bytes(before)
        if left:
            return True
    return False


async def _keys(descriptor: int) -> AsyncIterator[bytes]:
    """Give what comes in, until its end. A thread reads: a file can be polled by none, and a terminal by one only."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[bytes] = asyncio.Queue()

    def read() -> None:
        data = b"-"
        while data:
            try:
                data = os.read(descriptor, _BLOCK)
            except OSError:  # the terminal is gone
                data = b""
            try:
                loop.call_soon_threadsafe(queue.put_nowait, data)
            except RuntimeError:  # we have left
                return

    threading.Thread(target=read, name="keys", daemon=True).start()
    while data := await queue.get():
        yield data


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


@contextlib.contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    """Have each key as it is pressed, if it is a terminal."""
    if not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
