"""Virtual time: a loop whose clock jumps to the next timer, so that minutes of waiting take no time."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Advances its clock instead of sleeping; complains when nothing can ever happen again."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 1000.0
        real_select = self._selector.select

        def select(timeout: float | None = None) -> list[Any]:
            ready = real_select(0)
            if not ready:
                if timeout is None:
                    raise RuntimeError("deadlock: every task waits and no timer is set")
                self._now += timeout
            return ready

        self._selector.select = select

    def time(self) -> float:
        """The virtual present."""
        return self._now


@pytest.fixture(scope="session")
def in_virtual_time() -> Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]:
    """Runs a coroutine function on a loop with virtual time."""

    def run(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            return runner.run(main())

    return run
