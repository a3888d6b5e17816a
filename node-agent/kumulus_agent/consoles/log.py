"""What a guest has written on its serial console, as far as virtlogd keeps it.

What it wrote on the hosts that it came from lies beside that, in a file of its own: the last of it arrives when the
guest runs here already and virtlogd has the log open.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

_BLOCK = 65536
_CARRIED = 4 << 20
"""Bytes that go along to another host: as much as is shown of what virtlogd keeps."""


def earlier(log: Path) -> Path:
    """Give the file with what the guest wrote on other hosts."""
    return log.with_name(f"{log.name}.earlier")


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
    """Give a console log, what is older before what is newer; `lines` from the end, or all for 0."""
    rotated = [log.with_name(f"{log.name}.0"), log]
    # Rotated twice, the log does not follow any more on what came from elsewhere.
    parts = rotated if log.with_name(f"{log.name}.1").exists() else [earlier(log), *rotated]
    # A line may go over from one part into the next.
    said = b"".join(tail(part, lines) for part in parts)
    return said if lines <= 0 else b"".join(said.splitlines(keepends=True)[-lines:])


def carried(log: Path) -> bytes:
    """Give as much of a console log as goes along with its guest to another host."""
    return console_log(log, 0)[-_CARRIED:]


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
