"""What the agent remembers of the instances here, none of which is needed after a restart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from kumulus_agent import metrics
from kumulus_agent.servers.desired import Key
from kumulus_api.host import UnclaimedInstance

_LONGEST_PAUSE = 60.0
_LASTING_PAUSE = 60.0


@dataclass
class Instances:
    """Instances of this host by id.

    Attributes:
        changed: called when the unclaimed ones or the running ones have changed, for the Host's status.
        keys: the Server that each domain here was started for.
        unclaimed: what is reported in the Host's status.
        bases: digest of the image that each instance's root disk lies on, as its domain says.
    """

    changed: Callable[[], None]
    keys: dict[str, Key] = field(default_factory=dict)
    unclaimed: dict[str, UnclaimedInstance] = field(default_factory=dict)
    bases: dict[str, str] = field(default_factory=dict)
    _started: dict[str, float] = field(default_factory=dict)
    _pressed: dict[str, float] = field(default_factory=dict)
    _failures: dict[str, int] = field(default_factory=dict)
    _starting: dict[Key, asyncio.Event] = field(default_factory=dict)

    def of(self, key: Key) -> set[str]:
        """Give the ids of the domains that were started for a Server."""
        return {instance_id for instance_id, known in self.keys.items() if known == key}

    def report(self, found: UnclaimedInstance) -> None:
        """Have an instance reported as unclaimed."""
        if self.unclaimed.get(found.instance_id) != found:
            self.unclaimed[found.instance_id] = found
            self._count()

    def claimed(self, instance_id: str) -> None:
        """Report an instance no longer."""
        if self.unclaimed.pop(instance_id, None) is not None:
            self._count()

    def gone(self, instance_id: str) -> None:
        """Forget an instance that is not here any more."""
        known = self.keys.pop(instance_id, None)
        self.forget_failures(instance_id)
        self._pressed.pop(instance_id, None)
        self.bases.pop(instance_id, None)
        self.claimed(instance_id)
        if known is not None:
            self.changed()

    @contextmanager
    def starting(self, key: Key) -> Iterator[asyncio.Event]:
        """Give an event that is set when the start of a Server, which lasts as long as the block, is wanted no more."""
        event = self._starting[key] = asyncio.Event()
        try:
            yield event
        finally:
            del self._starting[key]

    def unwanted(self, key: Key) -> None:
        """Note that a Server is on its way out: a start that waits for something long is given up."""
        if key in self._starting:
            self._starting[key].set()

    def started(self, instance_id: str) -> None:
        """Note that the domain was started now."""
        self._started[instance_id] = time.monotonic()
        self._pressed.pop(instance_id, None)
        self._failures.pop(instance_id, None)

    def pressed(self, instance_id: str) -> None:
        """Note that the power button was pressed now."""
        self._pressed[instance_id] = time.monotonic()

    def off(self, instance_id: str) -> None:
        """Note that the guest is off."""
        self._pressed.pop(instance_id, None)

    def uptime(self, instance_id: str) -> float | None:
        """Seconds since `started`."""
        return _since(self._started.get(instance_id))

    def stopping_for(self, instance_id: str) -> float | None:
        """Seconds since `pressed`."""
        return _since(self._pressed.get(instance_id))

    def forget_failures(self, instance_id: str) -> None:
        """Forget failed starts, and when the guest was started: the next crash is answered at once."""
        self._started.pop(instance_id, None)
        self._failures.pop(instance_id, None)

    def failed(self, instance_id: str, *, lasting: bool) -> float:
        """Count a failed start; give the seconds to wait before the next."""
        failures = self._failures[instance_id] = self._failures.get(instance_id, 0) + 1
        return _LASTING_PAUSE if lasting else min(_LONGEST_PAUSE, 2.0 ** (failures - 1))

    def _count(self) -> None:
        metrics.UNCLAIMED.set(len(self.unclaimed))
        self.changed()


def _since(moment: float | None) -> float | None:
    return None if moment is None else time.monotonic() - moment
