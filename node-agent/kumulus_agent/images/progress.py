"""How far an import is, and when it is worth a write (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from kumulus_agent.storage.download import Progress

PACE_SECONDS: Final = 5.0
"""Between two writes at least; what takes no longer is told at its end alone."""
_STEP_PERCENT: Final = 10
_UNKNOWN_SECONDS: Final = 30.0
"""Between two writes where the source does not tell how many bytes there are."""
_HALF: Final = 50


@dataclass(frozen=True, slots=True)
class Seen:
    """A moment of an import: seconds of a monotonic clock, bytes, percent of them if that is known."""

    at: float
    received: int = 0
    percent: int | None = None
    converting: bool = False

    def status(self) -> dict[str, Any]:
        """Give what the Image's status says of it."""
        return {"downloadedBytes": self.received} | ({} if self.percent is None else {"progress": self.percent})

    def sentence(self, host: str) -> str:
        """Say it."""
        if self.converting:
            return f"host {host} has {self.received} bytes of it and makes qcow2 of them"
        share = "" if self.percent is None else f", {self.percent} %"
        return f"host {host} downloads it: {self.received} bytes have come{share}"


def seen(progress: Progress | None, now: float) -> Seen:
    """Look at an import; None is of one that has not begun."""
    if progress is None:
        return Seen(now)
    percent = min(100, 100 * progress.received // progress.total) if progress.total else None
    return Seen(now, progress.received, percent, progress.converting)


def worth_telling(told: Seen, found: Seen) -> bool:
    """Say whether what is found differs enough from what was told last."""
    if found.at - told.at < PACE_SECONDS:
        return False
    if found.converting != told.converting:
        return True
    if found.percent is None:
        return found.at - told.at >= _UNKNOWN_SECONDS and found.received != told.received
    return found.percent - (told.percent or 0) >= _STEP_PERCENT


def past_half(last: Seen | None, found: Seen) -> bool:
    """Say whether half of it has come between two looks; the first has none before it."""
    before = (last.percent or 0) if last is not None else 0
    return before < _HALF <= (found.percent or 0) and not found.converting
