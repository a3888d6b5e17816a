"""What keepalived says of its state: read from its FIFO, kept in a file for the next agent."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum

from kumulus_agent.failover.config import Files

_LINES = 1 << 16


class Role(StrEnum):
    """A member's state in its VRRP instance."""

    MASTER = "MASTER"
    BACKUP = "BACKUP"
    FAULT = "FAULT"
    """Its link is gone or down, or a program that it needs."""


def last_role(text: str) -> Role | None:
    """Give the state that the last notice tells of: INSTANCE "gateway" MASTER 100."""
    for line in reversed(text.splitlines()):
        words = line.split()
        if words[:1] == ["INSTANCE"]:
            with suppress(ValueError, IndexError):
                return Role(words[2])
    return None


class Notices:
    """Listens to one keepalived; belongs to the event loop's thread.

    The FIFO holds what is said while no agent listens.

    Args:
        files: of that keepalived.
        changed: called when its state is another.
    """

    def __init__(self, files: Files, changed: Callable[[], None]) -> None:
        self._files = files
        self._changed = changed
        if not files.fifo.is_fifo():
            files.fifo.unlink(missing_ok=True)
            os.mkfifo(files.fifo, 0o600)
        # Opened for both ways it never ends when keepalived does.
        self._fifo = os.open(files.fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self.role = last_role(files.role.read_text()) if files.role.exists() else None
        self._read()
        asyncio.get_running_loop().add_reader(self._fifo, self._heard)

    def ended(self) -> None:
        """Take note that keepalived runs no more, and leads nothing."""
        self._read()
        self._take(None, "")

    def close(self) -> None:
        """Listen no more."""
        asyncio.get_running_loop().remove_reader(self._fifo)
        os.close(self._fifo)

    def _heard(self) -> None:
        former = self.role
        self._read()
        if self.role != former:
            self._changed()

    def _read(self) -> None:
        with suppress(BlockingIOError):
            text = os.read(self._fifo, _LINES).decode(errors="replace")
            found = last_role(text)
            if found is not None:
                self._take(found, text.splitlines()[-1])

    def _take(self, role: Role | None, line: str) -> None:
        self.role = role
        self._files.role.write_text(f"{line}\n")
