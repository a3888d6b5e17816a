"""Short pauses for the garbage collector in a process that keeps many objects.

A full collection looks at all that lives, and is due whenever that has grown by a quarter. With ten thousand servers it
takes a second in which nothing else happens, and while they are listed it takes half of all time. What has survived one
is therefore set aside; most of what goes later goes when it is referred to no more, and needs no collector.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

_WHOLE_SECONDS = 3600.0
"""After so long a collection looks at what was set aside, too: rings that fell apart later are found then."""


def keep_pauses_short(clock: Callable[[], float] = time.monotonic) -> None:
    """Set aside what survives a full collection, from now on.

    Args:
        clock: monotonic seconds.
    """
    whole_at = clock()

    def collecting(phase: str, info: dict[str, int]) -> None:
        nonlocal whole_at
        if info["generation"] < 2:
            return
        if phase == "stop":
            gc.freeze()
        elif clock() - whole_at >= _WHOLE_SECONDS:
            whole_at = clock()
            gc.unfreeze()

    gc.callbacks.append(collecting)
