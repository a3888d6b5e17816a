"""What a guest has written on its serial console, as far as virtlogd keeps it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

_BLOCK = 65536


def tail(path: Path, lines: int) -> bytes:
    """Give the last lines of a file, or all of it where `lines` is 0; an absent file is empty.

    The end is looked for from behind, in blocks: a log may be larger than memory.
    """
    try:
        with path.open("rb") as file:
            if lines <= 0:
                return file.read()
            position, data = file.seek(0, os.SEEK_END), b""
            while position > 0 and data.count(b"\n") <= lines:
                step = min(_BLOCK, position)
                position = file.seek(position - step)
                data = file.read(step) + data
                file.seek(position)
    except FileNotFoundError:
        return b""
    return b"".join(data.splitlines(keepends=True)[-lines:])


def console_log(log: Path, lines: int) -> bytes:
    """Give a console log, the rotated part before the present one; `lines` from the end, or all for 0."""
    present = tail(log, lines)
    have = len(present.splitlines())
    if lines > 0 and have >= lines:
        return present
    return tail(log.with_name(f"{log.name}.0"), lines - have if lines > 0 else 0) + present


async def followed(log: Path, lines: int | None) -> AsyncIterator[bytes]:
    """Give a console log, or its last lines, and then what is added to it; it never ends.

    Args:
        log: the file; it may be rotated, and need not exist yet.
        lines: how many lines of what is there already; None for all.
    """
    size = await asyncio.to_thread(_size, log)
    if lines != 0:
        yield await asyncio.to_thread(console_log, log, lines or 0)
    # inotify, rotation and absence are what coreutils' tail knows.
    process = await asyncio.create_subprocess_exec(
        "tail", f"--bytes=+{size + 1}", "--follow=name", "--retry", "--", str(log),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while process.stdout is not None and (chunk := await process.stdout.read(_BLOCK)):
            yield chunk
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _size(log: Path) -> int:
    try:
        return log.stat().st_size
    except FileNotFoundError:
        return 0
