"""What the probes and people are told of the process: who leads, and whether the leader still sees what happens."""

from __future__ import annotations

from collections.abc import Callable, Collection
from enum import Enum
from typing import Protocol


class Stage(Enum):
    """What the process is doing."""

    STANDBY = "standby"
    LEADING = "leading"
    STOPPING = "stopping"


class Lead(Protocol):
    """The Lease as this process sees it; `kumulus_runtime.lease.Leadership` is one."""

    @property
    def valid(self) -> bool: ...  # noqa: D102
    @property
    def holder(self) -> str | None: ...  # noqa: D102


class Vitals:
    """Health, readiness and leadership.

    A standby that has seen the Lease is ready: it is all that a rolling update waits for, and it takes over when the
    leader ends. A leader is ready when it watches all kinds, and unhealthy when it once watched one and does no more:
    it would decide by what it remembers.

    Args:
        lead: the Lease.
        kinds: plurals of what a leader watches.
        watched: gives the plurals of what is watched now.
    """

    def __init__(self, lead: Lead, kinds: Collection[str], watched: Callable[[], Collection[str]]) -> None:
        self.stage = Stage.STANDBY
        self._lead = lead
        self._kinds = frozenset(kinds)
        self._watched = watched
        self._once: frozenset[str] = frozenset()

    def watches(self) -> int:
        """Give how many of the kinds are watched now; any thread may ask."""
        return len(self._kinds.intersection(self._watched()))

    def health(self) -> str | None:
        """Say what only a restart repairs, or None."""
        if self.stage is not Stage.LEADING:
            return None
        if not self._lead.valid:
            return "it decides though its Lease is not valid any more"
        ended = sorted(self._once - self._seen())
        return f"its watches have ended: {', '.join(ended)}" if ended else None

    def readiness(self) -> str | None:
        """Say why the process does not do its part, or None."""
        if self.stage is Stage.STANDBY:
            return "it has not read the Lease yet" if self._lead.holder is None else None
        if self.stage is Stage.STOPPING:
            return None
        missing = sorted(self._kinds - self._seen())
        return f"it does not watch yet: {', '.join(missing)}" if missing else None

    def leadership(self) -> str:
        """Say who leads, and what this process does."""
        holder = self._lead.holder
        if self.stage is Stage.STANDBY:
            return f"standby, {holder} leads" if holder else "standby, nobody leads"
        return f"{self.stage.value} as {holder}"

    def _seen(self) -> frozenset[str]:
        seen = self._kinds.intersection(self._watched())
        self._once |= seen
        return seen
