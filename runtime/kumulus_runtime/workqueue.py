"""A work queue as controllers need it: level-triggered keys, one worker per key, bounded backoff."""

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog

from kumulus_runtime.errors import Conflict, Retryable
from kumulus_runtime.metrics import (
    QUEUE_ADDS,
    QUEUE_DEPTH,
    QUEUE_LATENCY,
    QUEUE_LONGEST,
    QUEUE_RETRIES,
    QUEUE_WORK,
)

K = TypeVar("K", bound=Hashable)

_log = structlog.stdlib.get_logger(__name__)


class Retry(Exception):
    """Raised by a reconcile that cannot go on yet and knows when to look again.

    Attributes:
        delay: seconds.
    """

    def __init__(self, delay: float, reason: str = "") -> None:
        super().__init__(delay, reason)
        self.delay = delay
        self.reason = reason


@dataclass(frozen=True)
class Backoff:
    """How long to wait after failures in a row.

    Attributes:
        base: seconds after the first failure, at least.
        ceiling: seconds, at most.
    """

    base: float = 0.005
    ceiling: float = 60.0

    def delay(self, failures: int, chance: float) -> float:
        """Seconds before the next attempt: doubled with each failure, then shortened at random by up to a half.

        Args:
            failures: failures in a row, from 1.
            chance: evenly distributed from 0 to 1.

        Returns:
            From ``base`` to ``ceiling``.
        """
        # 2**64 times any base is beyond any ceiling; larger powers would overflow.
        longest = min(self.ceiling, self.base * 2.0 ** min(failures - 1, 64))
        return max(min(self.base, self.ceiling), longest * (1.0 - chance / 2.0))


class WorkQueue(Generic[K]):
    """Keys to reconcile.

    A key that waits is not added twice; a key is never handled by two workers at once; a key added while it is handled
    is handled again afterwards. All methods belong to the thread of the event loop.

    Args:
        name: label of the metrics.
        backoff: waits after failures.
        chance: source of jitter, evenly distributed from 0 to 1.
    """

    def __init__(
        self, name: str = "default", *, backoff: Backoff | None = None, chance: Callable[[], float] = random.random
    ) -> None:
        self._backoff = backoff or Backoff()
        self._chance = chance
        self._waiting: deque[K] = deque()
        self._dirty: dict[K, float] = {}
        self._processing: dict[K, float] = {}
        self._failures: dict[K, int] = {}
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._available = asyncio.Semaphore(0)
        self._stopping = False
        self._workers = 0
        self._name = name
        self._adds = QUEUE_ADDS.labels(name=name)
        self._retries = QUEUE_RETRIES.labels(name=name)
        self._latency = QUEUE_LATENCY.labels(name=name)
        self._work = QUEUE_WORK.labels(name=name)
        QUEUE_DEPTH.labels(name=name).set_function(lambda: len(self._waiting))
        QUEUE_LONGEST.labels(name=name).set_function(self._longest)

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, key: K) -> None:
        """Have the key handled as soon as a worker is free."""
        if self._stopping or key in self._dirty:
            return
        self._adds.inc()
        self._dirty[key] = time.monotonic()
        if key not in self._processing:
            self._enqueue(key)

    def add_after(self, key: K, seconds: float) -> None:
        """Have the key handled in so many seconds, or when it was already due if that is earlier."""
        if self._stopping:
            return
        if seconds <= 0:
            self.add(key)
            return
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= due:
                return
            timer.cancel()
        self._timers[key] = loop.call_at(due, self._due, key)

    def stop(self) -> None:
        """Take nothing more; `run` returns when the keys now being handled are done.

        Waiting keys are forgotten: whoever starts next lists everything anyway.
        """
        self._stopping = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._waiting.clear()
        for _ in range(self._workers):
            self._available.release()

    async def run(self, reconcile: Callable[[K], Awaitable[float | None]], workers: int) -> None:
        """Handle keys until `stop` is called.

        Args:
            reconcile: brings the key's object to its desired state. Returns the seconds after which it wants to see
                the key again, or None. Any exception repeats it with backoff; `Retry` names the delay itself.
            workers: how many keys are handled at once.
        """
        self._workers += workers
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(workers):
                    group.create_task(self._worker(reconcile))
        finally:
            self._workers -= workers

    async def _worker(self, reconcile: Callable[[K], Awaitable[float | None]]) -> None:
        while not self._stopping:
            await self._available.acquire()
            if self._stopping:
                return
            key = self._waiting.popleft()
            started = time.monotonic()
            self._latency.observe(started - self._dirty.pop(key))
            self._processing[key] = started
            try:
                await self._handle(key, reconcile)
            finally:
                del self._processing[key]
                self._work.observe(time.monotonic() - started)
                if key in self._dirty and not self._stopping:
                    self._enqueue(key)
            # A reconcile with nothing to do waits for nothing: ten thousand of them would be one turn of the loop.
            await asyncio.sleep(0)

    async def _handle(self, key: K, reconcile: Callable[[K], Awaitable[float | None]]) -> None:
        try:
            again = await reconcile(key)
        except Retry as retry:
            _log.debug("reconcile waits", queue=self._name, key=key, reason=retry.reason, retry_in=retry.delay)
            self.add_after(key, retry.delay)
        except Conflict:
            delay = self._fail(key)
            _log.debug("reconcile lost a race", queue=self._name, key=key, retry_in=delay)
        except Retryable as error:
            delay = self._fail(key, error.delay)
            _log.warning("reconcile cannot reach the API", queue=self._name, key=key, error=str(error), retry_in=delay)
        except Exception:  # noqa: BLE001 - logged in full, and ends nothing else
            # Whatever a reconcile raises concerns its own key only.
            delay = self._fail(key)
            _log.exception("reconcile failed", queue=self._name, key=key, retry_in=delay)
        else:
            self._failures.pop(key, None)
            if again is not None:
                self.add_after(key, again)

    def _fail(self, key: K, least: float = 0.0) -> float:
        failures = self._failures.get(key, 0) + 1
        self._failures[key] = failures
        delay = max(least, self._backoff.delay(failures, self._chance()))
        self._retries.inc()
        self.add_after(key, delay)
        return round(delay, 3)

    def _due(self, key: K) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _enqueue(self, key: K) -> None:
        self._waiting.append(key)
        self._available.release()

    def _longest(self) -> float:
        # The metrics endpoint may ask from another thread: a tuple is taken in one step.
        started = tuple(self._processing.values())
        return time.monotonic() - min(started) if started else 0.0
