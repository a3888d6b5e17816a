"""Judge images as an agent does, in a process whose memory and writes are counted.

As a program: reads ``[[path, declared], …]`` on standard input and writes a `Judged` as JSON for each, a line each.
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from kumulus_agent.storage import convert
from kumulus_agent.storage.arrival import make_ready
from kumulus_agent.storage.download import Progress
from kumulus_agent.storage.errors import StorageError
from kumulus_agent.storage.inspection import source_format

DISK_LIMIT = 1 << 30
"""Bytes that a disk may have here."""
GROWTH_GRANTED = 8 << 20
"""Bytes that a conversion is granted here besides its share, so that little is written by a test."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What came of an image.

    Attributes:
        reason: of the refusal; empty if it was taken.
        message: of the refusal.
        written: bytes that were written for it, by whatever process.
        memory: bytes that the largest process for it or for an earlier one had.
        seconds: it took.
    """

    reason: str
    message: str
    written: int
    memory: int
    seconds: float


def judge(images: Sequence[tuple[Path, str]]) -> list[Judged]:
    """Judge images; each is given with its declared format."""
    asked = json.dumps([[str(path), declared] for path, declared in images])
    argv = [sys.executable, "-m", __name__]
    done = subprocess.run(argv, input=asked, check=True, capture_output=True, text=True, timeout=600)
    return [Judged(**json.loads(line)) for line in done.stdout.splitlines()]


async def _judge(path: Path, declared: str) -> Judged:
    before, began, reason, message = _written(), time.monotonic(), "", ""
    try:
        arrived = await make_ready(path, source_format(declared), DISK_LIMIT, Progress())
        if arrived.digest:
            arrived.path.unlink()
    except StorageError as error:
        reason, message = getattr(error, "reason", type(error).__name__), str(error)
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10
    return Judged(reason, message, _written() - before, memory, time.monotonic() - began)


def _written() -> int:
    """Give the bytes that this process and those that it has waited for have written."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("wchar")).split()[1])


async def _main() -> None:
    convert._GROWTH_GRANTED = GROWTH_GRANTED  # type: ignore[misc]  # noqa: SLF001 - it is a test's process
    for path, declared in json.load(sys.stdin):
        sys.stdout.write(json.dumps(asdict(await _judge(Path(path), declared))) + "\n")


if __name__ == "__main__":
    asyncio.run(_main())
