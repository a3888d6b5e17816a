"""A process that is not our child: is it the one that we know, and how to end it."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

STOP_SECONDS = 3.0
"""How long a process may take to end after SIGTERM before it is killed."""


@dataclass(frozen=True)
class ProcessId:
    """A process: its number and its start in clock ticks since boot; together they are never used twice."""

    pid: int
    started: int


def identify(pid: int) -> ProcessId | None:
    """Return the running process with that number; None if there is none, or only its exit status is left."""
    with suppress(ChildProcessError):
        # One that we started and that has ended stays a zombie until it is waited for.
        os.waitpid(pid, os.WNOHANG)
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field, in parentheses, may hold anything.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in {"Z", "X"} else ProcessId(pid, int(fields[19]))


def send(process: ProcessId, number: signal.Signals) -> bool:
    """Send a signal to exactly this process; False if it is gone."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        # The handle holds the process that has the number now; only then is it compared.
        if identify(process.pid) != process:
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


async def stop(process: ProcessId) -> bool:
    """End the process, by force after STOP_SECONDS, and what it had started and left behind.

    Returns when it has exited: False if it was gone before.
    """
    started = children(process.pid)
    if not send(process, signal.SIGTERM):
        return False
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await _exited(process)
    except TimeoutError:
        send(process, signal.SIGKILL)
        await _exited(process)
    for child in started:
        send(child, signal.SIGKILL)
    return True


def children(pid: int) -> tuple[ProcessId, ...]:
    """Give the running processes that a process has started; see proc(5)."""
    try:
        numbers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return ()
    return tuple(found for number in numbers if (found := identify(int(number))) is not None)


async def _exited(process: ProcessId) -> None:
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(handle, ended.set)
    try:
        if identify(process.pid) == process:
            await ended.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)
    identify(process.pid)
