"""Take turns: what changes for many at once is written a few times a second, and more gathers for each write."""

from __future__ import annotations

from kumulus_operator.views import Key


class Turns:
    """Gives each key a time at which it may write.

    After a quiet time it is at once for a few; beyond that keys are served at an even rate, in the order in which they
    asked.

    Args:
        per_second: writes of all keys together.
        burst: so many at once after a quiet time.
    """

    def __init__(self, per_second: float, burst: int) -> None:
        self._step = 1 / per_second
        self._burst = burst
        self._next = 0.0
        self._due: dict[Key, float] = {}

    def wait(self, key: Key, now: float, not_before: float = 0.0) -> float:
        """Give the seconds until it is a key's turn, at most 0 if it is now; it keeps its turn until `done`.

        Args:
            key: who asks.
            now: monotonic seconds.
            not_before: the earliest time that suits it.
        """
        if key not in self._due:
            self._next = max(self._next, now - self._burst * self._step) + self._step
            self._due[key] = max(self._next, not_before)
        return self._due[key] - now

    def done(self, key: Key) -> None:
        """Note that a key has had its turn, or needs none any more."""
        self._due.pop(key, None)
