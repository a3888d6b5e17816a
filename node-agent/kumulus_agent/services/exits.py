"""Hearing that host services have ended: by a pidfd each, so that nothing polls, and those of a former agent count."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from kumulus_agent.services import process
from kumulus_agent.services.process import ProcessId

OnExit = Callable[[str, float], None]
"""Takes the unit that has ended, and for how many seconds it was watched."""


@dataclass(frozen=True)
class _Watched:
    process: ProcessId
    handle: int
    since: float


class Exits:
    """Watches one process per unit and calls back once when it ends; belongs to the event loop's thread."""

    def __init__(self) -> None:
        self.on_exit: OnExit = lambda _unit, _seconds: None
        self._watched: dict[str, _Watched] = {}

    def watch(self, unit: str, identity: ProcessId) -> None:
        """Watch the unit's process instead of a former one; one that is gone already is told of soon."""
        known = self._watched.get(unit)
        if known is not None and known.process == identity:
            return
        self.forget(unit)
        loop = asyncio.get_running_loop()
        try:
            handle = os.pidfd_open(identity.pid)
        except ProcessLookupError:
            self.report(unit)
            return
        self._watched[unit] = _Watched(identity, handle, time.monotonic())
        loop.add_reader(handle, self._ended, unit)
        # The handle holds whatever has the number now; only then is it compared.
        if process.identify(identity.pid) != identity:
            loop.call_soon(self._ended, unit)

    def report(self, unit: str) -> None:
        """Tell soon that the unit ended before it could be watched."""
        asyncio.get_running_loop().call_soon(self.on_exit, unit, 0.0)

    def forget(self, unit: str) -> None:
        """Watch the unit no longer: its end is wanted."""
        known = self._watched.pop(unit, None)
        if known is not None:
            asyncio.get_running_loop().remove_reader(known.handle)
            os.close(known.handle)

    def close(self) -> None:
        """Watch nothing any more."""
        for unit in tuple(self._watched):
            self.forget(unit)

    def _ended(self, unit: str) -> None:
        known = self._watched.get(unit)
        if known is None:
            return
        self.forget(unit)
        # One that we started stays a zombie until it is asked for.
        process.identify(known.process.pid)
        self.on_exit(unit, time.monotonic() - known.since)
