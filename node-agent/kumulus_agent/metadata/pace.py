"""How much one guest may ask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

CONNECTIONS: Final = 8
"""Open at once."""
RATE: Final = 30.0
"""Requests a second for long."""
BURST: Final = 150.0
"""Requests at once: cloud-init reads some fifty values."""


class TooMuch(Exception):
    """It asks too much."""


@dataclass
class Pace:
    """What one port has asked lately.

    Attributes:
        tokens: requests that it may make now.
        counted: when that was so, seconds.
        connections: how many it has open.
    """

    tokens: float = BURST
    counted: float = field(default=0.0)
    connections: int = 0

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Count a connection for as long as the block lasts.

        Raises:
            TooMuch: it has enough.
        """
        if self.connections >= CONNECTIONS:
            raise TooMuch
        self.connections += 1
        try:
            yield
        finally:
            self.connections -= 1

    def take(self, now: float) -> bool:
        """Count a request at a time in seconds; tell whether it is to be answered."""
        self.tokens = min(BURST, self.tokens + (now - self.counted) * RATE) if self.counted else BURST
        self.counted = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True
