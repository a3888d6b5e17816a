"""Waiting for an NBD server that was just started."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 0.05
_GREETING: Final = b"NBDMAGIC"
"""What it says first: a socket alone is there before the server has opened what it serves."""

Dial = Callable[[], Awaitable[tuple[StreamReader, StreamWriter]]]


async def answers(dial: Dial, runs: Callable[[], bool], seconds: float = _SECONDS) -> bool:
    """Wait until a server greets; False if it has ended, or does not in time.

    Args:
        dial: connects to it.
        runs: says whether its process is there.
        seconds: how long it may take.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while runs() and loop.time() < deadline:
        with suppress(OSError, TimeoutError, EOFError):
            async with asyncio.timeout_at(deadline):
                reader, writer = await dial()
                try:
                    if await reader.readexactly(len(_GREETING)) == _GREETING:
                        return runs()
                finally:
                    writer.close()
        await asyncio.sleep(_LOOK_SECONDS)
    return False
