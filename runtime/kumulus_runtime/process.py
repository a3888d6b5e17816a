"""Run an asyncio process that stops gracefully."""

import asyncio
import signal
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable, Coroutine
from typing import Any, Final

import structlog

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

TLS_BUFFER: Final = 32 << 10
"""Bytes that asyncio keeps for what each TLS connection receives. It would be 256 KiB, all of them touched: many MiB in
a process with its watches. A record has at most 16 KiB (RFC 8446, section 5.1)."""

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
    SSLProtocol.max_size = TLS_BUFFER
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
