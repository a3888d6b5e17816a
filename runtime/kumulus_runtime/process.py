"""Run an asyncio process that stops gracefully."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_log = structlog.stdlib.get_logger(__name__)

Main = Callable[[asyncio.Event], Coroutine[Any, Any, None]]


def run(main: Main, *, grace: float = 25.0) -> int:
    """Run ``main`` to its end.

    The first SIGTERM or SIGINT sets the event that ``main`` was given; a second one, or ``grace`` seconds, cancels it.

    Args:
        main: coroutine function; is expected to return soon after the event is set.
        grace: seconds.

    Returns:
        The exit code: 0, or 1 after an exception or when the grace was used up.
    """
    return asyncio.run(_supervise(main, grace))


async def _supervise(main: Main, grace: float) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    task = asyncio.create_task(main(stop), name="main")

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            _log.warning("second signal, giving up the graceful stop", signal=number.name)
            task.cancel()
            return
        _log.info("stopping", signal=number.name)
        stop.set()
        loop.call_later(grace, task.cancel)

    for number in _SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    try:
        await task
    except asyncio.CancelledError:
        _log.error("stopped without finishing")
        return 1
    except Exception:  # noqa: BLE001 - logged in full, and the process ends
        _log.exception("process failed")
        return 1
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
    return 0
