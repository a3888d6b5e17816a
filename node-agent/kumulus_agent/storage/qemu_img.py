"""The tool qemu-img: its subcommands that are used here, with a deadline."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

from kumulus_agent.execution import execute
from kumulus_agent.storage.confined import Work, confined
from kumulus_agent.storage.errors import CorruptImage, Retryable
from kumulus_agent.storage.sandbox import SOURCE

QEMU_IMG: Final = "qemu-img"
_DEADLINE_SECONDS: Final = 60
_CHECKED: Final = frozenset({0, 1, 2, 3})
"""Exit codes of `qemu-img check` that say something of the image: whole, not readable, corrupt, space lost."""


async def qemu_img(
    *arguments: str,
    allowed: Collection[int] = (0,),
    deadline: float = _DEADLINE_SECONDS,
    descriptors: Sequence[int] = (),
) -> bytes:
    """Run qemu-img and return its output.

    Args:
        arguments: the subcommand and what belongs to it.
        allowed: exit codes that are no failure.
        deadline: seconds.
        descriptors: open files that it gets by the same numbers.

    Raises:
        Retryable: it failed or did not end in time.
    """
    try:
        done = await execute((QEMU_IMG, *arguments), deadline=deadline, descriptors=descriptors)
    except TimeoutError as error:
        raise Retryable(f"qemu-img {arguments[0]} did not end in {deadline:.0f} s") from error
    if done.code not in allowed:
        raise Retryable(f"qemu-img {arguments[0]} failed: {done.said}")
    return done.output


async def check_whole(path: Path) -> None:
    """Check that the tables of a qcow2 file, inspected before, agree with each other and with the file's length.

    Space that is lost in it (a leak) does no harm.

    Raises:
        CorruptImage: they do not.
        UnsafeImage: the check takes more memory or time than it is given.
        Retryable: it could not be checked.
    """
    options = f"driver=qcow2,file.driver=file,file.filename={SOURCE}"
    done = await confined(Work("check", ("check", "--output=json", "--image-opts", options), path))
    if done.code not in _CHECKED:
        raise Retryable(f"qemu-img check failed: {done.said}")
    if not done.output:
        raise CorruptImage("the image is cut off or damaged: qemu-img check cannot open it; mend the source")
    answer = json.loads(done.output)
    faults = int(answer.get("corruptions", 0)) + int(answer.get("check-errors", 0))
    if faults:
        raise CorruptImage(f"the image is cut off or damaged: qemu-img check finds {faults} faults; mend the source")
