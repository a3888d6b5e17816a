"""A guest's console log, followed as the guest writes it."""

import contextlib
import os
import re
import selectors
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

# What a serial console carries besides text: escape sequences and control characters.
_NOISE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()=>][0-9A-B]?|[\x00-\x08\x0b-\x1f\x7f]")


def read(argv: Sequence[str], pattern: str, *, limit: float) -> list[str]:
    """Follow a log until a line matches, and give what was read by then.

    Args:
        argv: the command that prints the log and what comes to it; it is ended here.
        pattern: regular expression, searched for in each line.
        limit: seconds after which what there is has to do.

    Returns:
        Lines without control characters; the empty ones are left out.
    """
    seen: list[str] = []
    for chunk in _chunks(argv, limit):
        lines = [_NOISE.sub("", line).rstrip() for line in chunk]
        seen += [line for line in lines if line]
        if any(re.search(pattern, line) for line in lines):
            break
    return seen


def following(folder: Path) -> list[str]:
    """The command that prints an instance's console log and what comes to it, with what it wrote on former hosts."""
    logs = [str(folder / name) for name in ("console.log.earlier", "console.log")]
    return ["tail", "--quiet", "--lines=+1", "--follow=name", "--retry", *logs]


def _chunks(argv: Sequence[str], limit: float) -> Iterator[list[str]]:
    """Give the lines that came at once, again and again until the time is over or the command has ended."""
    deadline = time.monotonic() + limit
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        )
        stack.callback(process.kill)
        assert process.stdout is not None  # noqa: S101 - it was asked for above
        ready = stack.enter_context(selectors.DefaultSelector())
        ready.register(process.stdout, selectors.EVENT_READ)
        pending = b""
        while ready.select(max(0.0, deadline - time.monotonic())):
            chunk = os.read(process.stdout.fileno(), 65536)
            if not chunk:
                return
            *complete, pending = (pending + chunk).split(b"\n")
            yield [line.decode(errors="replace") for line in complete]


def reports(lines: Sequence[str], most: int) -> list[str]:
    """The last lines of the latest boot, as far as the shell that waits at the end of a guest's start."""
    starts = [number for number, line in enumerate(lines) if "kumulus-guest: boot-id=" in line]
    boot = list(lines[starts[-1] :] if starts else lines)
    ends = [number for number, line in enumerate(boot) if "kumulus-guest: " in line]
    return boot[: ends[-1] + 1][-most:] if ends else boot[-most:]
