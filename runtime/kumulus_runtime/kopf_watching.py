"""Running kopf as one task among others of a process that has more to stop than kopf."""

from __future__ import annotations

import asyncio
import signal

import kopf
import structlog

_log = structlog.stdlib.get_logger(__name__)
_WATCHER = "watcher for "
"""How kopf names the task of a watch; behind it stand plural, version and group, then the namespace."""


def name_of(plural: str) -> str:
    """Give the name of a task that watches a kind without kopf, so that `watched` counts it, too."""
    return f"{_WATCHER}{plural}"


def watched(loop: asyncio.AbstractEventLoop) -> frozenset[str]:
    """Give the plurals of all kinds that are watched at this moment in a loop; any thread may ask.

    kopf logs the failure of one of its watches and goes on without it, so somebody has to look.
    """
    names = (task.get_name() for task in asyncio.all_tasks(loop))
    return frozenset(name.removeprefix(_WATCHER).partition(".")[0] for name in names if name.startswith(_WATCHER))


async def watch(registry: kopf.OperatorRegistry, stop: asyncio.Event, *, ends_with_stop: bool) -> None:
    """Run a registry's handlers until cancelled, or until `stop` is set if `ends_with_stop`.

    Args:
        registry: the handlers.
        stop: set by SIGTERM and SIGINT, which kopf takes for itself and this takes back.
        ends_with_stop: whether kopf is told of `stop`. At its end kopf waits for tasks that began after it, so this
            is for a process that begins it last.

    Raises:
        RuntimeError: kopf ended without being asked to; without it the process would be deaf.
    """
    ready = asyncio.Event()
    told = stop if ends_with_stop else None
    watching = asyncio.create_task(
        kopf.operator(registry=registry, clusterwide=True, standalone=True, ready_flag=ready, stop_flag=told)
    )
    waiting = asyncio.create_task(ready.wait())
    try:
        # kopf may also fail before it is ever ready.
        await asyncio.wait({watching, waiting}, return_when=asyncio.FIRST_COMPLETED)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await watching
    except Exception:
        # Told to end while it begins, kopf closes its session under requests of its own.
        if not stop.is_set():
            raise
        _log.debug("kopf ended with a failure", exc_info=True)
    finally:
        waiting.cancel()
        watching.cancel()
    if not stop.is_set():
        raise RuntimeError("kopf ended without being asked to")
