"""Running a program to its end: an argument list, a deadline, no shell."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finished:
    """A program that ended: its exit code, standard output, and what it wrote on standard error, stripped."""

    code: int
    output: bytes
    said: str


async def execute(
    argv: Sequence[str], *, deadline: float, stdin: bytes = b"", descriptors: Sequence[int] = ()
) -> Finished:
    """Run a program and wait for its end; it is killed when the waiting ends otherwise.

    Args:
        argv: the program and its arguments.
        deadline: seconds.
        stdin: what it reads.
        descriptors: open files that it gets by the same numbers.

    Raises:
        OSError: it could not be started.
        TimeoutError: it did not end in time.
    """
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe, stderr=pipe, pass_fds=descriptors)
    try:
        async with asyncio.timeout(deadline):
            output, errors = await process.communicate(stdin)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Finished(process.returncode or 0, output, errors.decode(errors="replace").strip())
