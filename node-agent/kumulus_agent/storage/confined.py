"""qemu-img on a file that nobody trusts: in a sandbox, with limits, and its failures told apart."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kumulus_agent.execution import Finished, execute
from kumulus_agent.storage.errors import Retryable, UnsafeImage
from kumulus_agent.storage.sandbox import NOT_STARTED, Room

_PROGRAM: Final = "/usr/bin/qemu-img"
_MEMORY_BYTES: Final = 512 << 20
"""Address space; an image of a TiB that is whole needs a tenth."""
_CHECK_SECONDS: Final = 600.0
_READ_ONLY_BYTES: Final = 0
_KILLED: Final = 128
_NO_MEMORY: Final = ("Cannot allocate memory", "Could not allocate", "failed to allocate")


@dataclass(frozen=True, slots=True)
class Work:
    """A run of qemu-img.

    Attributes:
        name: what it does, for messages.
        arguments: the subcommand and its arguments; the files are `sandbox.SOURCE` and `sandbox.TARGET`.
        source: the file it reads.
        target: the file it writes, which exists; None for none.
        seconds: of the clock; of a processor's time half.
        output: bytes that the target may have.
    """

    name: str
    arguments: tuple[str, ...]
    source: Path
    target: Path | None = None
    seconds: float = _CHECK_SECONDS
    output: int = _READ_ONLY_BYTES


async def confined(work: Work) -> Finished:
    """Run qemu-img where it reaches the two files and nothing else.

    Raises:
        UnsafeImage: it needs more memory or processor time than it has.
        Retryable: it could not be started, or did not end in time.
    """
    room = Room(
        source=str(work.source.absolute()),
        target=str(work.target.absolute()) if work.target is not None else "",
        memory=_MEMORY_BYTES,
        seconds=int(work.seconds / 2),
        output=work.output,
    )
    program = shutil.which("qemu-img") or _PROGRAM
    try:
        done = await execute((*room.argv(), program, *work.arguments), deadline=work.seconds)
    except TimeoutError as error:
        raise Retryable(f"qemu-img {work.name} did not end in {work.seconds:.0f} s") from error
    if done.code == NOT_STARTED or done.code < 0:
        raise Retryable(f"qemu-img {work.name}: its sandbox could not be made: {done.said}")
    if done.code > _KILLED:
        raise UnsafeImage(_too_much(work, f"{room.seconds} s of a processor or {_MEMORY_BYTES >> 20} MiB of memory"))
    if any(word in done.said for word in _NO_MEMORY):
        raise UnsafeImage(_too_much(work, f"{_MEMORY_BYTES >> 20} MiB of memory"))
    return done


def _too_much(work: Work, limit: str) -> str:
    return (
        f"qemu-img {work.name} takes more than the {limit} that an image is given; write it anew with qemu-img convert"
    )
