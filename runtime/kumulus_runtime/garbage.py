"""Short pauses for the garbage collector in a process that keeps many objects, little waste in one that keeps few.

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

_EARLY = (700, 10, 2)
"""Python's own but for the last: a full collection is cheap when it has nothing to do with what was imported."""


def keep_waste_small() -> None:
    """Find what fell apart soon, in a process that keeps little of its own; called when all is imported.

    A full collection is due when what lives has grown by a quarter. Counted with code and classes that is many MiB of
    messages that refer to themselves, as those of pyroute2 do, and what was taken for them stays taken, because
    something is always kept among them. So what is there now is set aside for good.
    """
    gc.collect()
    gc.freeze()
    gc.collect()  # counts what is left: nothing, of which everything is more than a quarter
    gc.set_threshold(*_EARLY)


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
