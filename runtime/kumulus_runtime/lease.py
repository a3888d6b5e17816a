"""Leases: one leader among operators, and the heartbeat of an agent.

Time is only ever measured on the own monotonic clock; the times in a Lease are for people. A holder counts as gone
when its Lease has not *changed* for its duration as seen from here, so clocks need not agree.
"""

import asyncio
import os
import socket
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog

from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.errors import AlreadyExists, ApiError, Conflict, NotFound, Retryable
from kumulus_runtime.metrics import HEARTBEAT_AGE, LEADER
from kumulus_runtime.resources import LEASE

_HOST_PREFIX = "host-"
_LONGEST_NAME = 253
"""Characters of a DNS subdomain name (RFC 1123), which Nodes and Leases have."""

_log = structlog.stdlib.get_logger(__name__)


def _exit_at_once() -> None:
    os._exit(3)


class LeadershipLost(Exception):
    """This process must not act any more; its Lease is about to end or belongs to somebody else."""


@dataclass(frozen=True)
class LeaseTiming:
    """Seconds of a leader's Lease.

    Attributes:
        duration: how long others wait after the last change of the Lease.
        renew: pause between renewals.
        retry: pause after a failed renewal, and between looks at somebody else's Lease.
        margin: how long before its end the Lease is given up, so that what runs can be stopped.
    """

    duration: int = 15
    renew: float = 2.0
    retry: float = 2.0
    margin: float = 5.0


class Leadership:
    """The right to decide, held by at most one process at a time.

    Args:
        client: to reach the API server.
        namespace: of the Lease.
        name: of the Lease.
        identity: of the holder: no two processes that run at once may share it, and one that finds the Lease held by
            its own identity goes on with it; default host name, process id and random digits.
        timing: all durations.
        clock: monotonic seconds.
    """

    def __init__(  # noqa: PLR0913 - all but two have defaults and names
        self,
        client: KubeClient,
        namespace: str,
        *,
        name: str = "kumulus-operator",
        identity: str = "",
        timing: LeaseTiming | None = None,
        clock: Callable[[], float] = time.monotonic,
        give_up: Callable[[], None] = _exit_at_once,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._give_up = give_up
        self.identity = identity or f"{socket.gethostname()}_{os.getpid()}_{uuid.uuid4().hex[:8]}"
        self._timing = timing or LeaseTiming()
        self._clock = clock
        self._lease: dict[str, Any] | None = None
        self._ends = float("-inf")
        self._holder: str | None = None
        self._gauge = LEADER.labels(name=name)
        self._gauge.set(0)

    @property
    def valid(self) -> bool:
        """Whether the Lease certainly still belongs to this process: to be asked before an irreversible act."""
        return self._lease is not None and self._clock() < self._ends

    @property
    def holder(self) -> str | None:
        """The identity of who held the Lease when it was last seen; empty for nobody, None before it was looked at."""
        return self._holder

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Wait for the Lease, run ``lead`` while renewing it, release it when ``lead`` has returned or was cancelled.

        Raises:
            LeadershipLost: the Lease could not be kept; ``lead`` was cancelled before it ended.
        """
        tasks: set[asyncio.Future[None]] = set()
        try:
            await self.acquire()
            leading, holding = asyncio.ensure_future(lead()), asyncio.ensure_future(self.hold())
            tasks = {leading, holding}
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if holding.done():
                holding.result()
            await leading
        finally:
            await self._end(tasks)
            await self.release()

    async def _end(self, tasks: set[asyncio.Future[None]]) -> None:
        """Cancel what runs under the Lease; what does not stop before the Lease ends, ends with the process."""
        for task in tasks:
            task.cancel()
        if not tasks:
            return
        _done, running = await asyncio.wait(tasks, timeout=self._timing.margin)
        if running:
            _log.critical("cannot stop leading in time, exiting at once", lease=self._name)
            self._give_up()

    async def acquire(self) -> None:
        """Return when this process is the leader.

        If another holder's Lease ran out without being released, one more duration is waited (and renewed) after the
        take-over, so that whatever that holder started has ended too.
        """
        seen: tuple[Any, ...] | None = None
        seen_at = self._clock()
        while True:
            try:
                lease = await self._client.get(LEASE, self._name, self._namespace)
                self._holder = "" if lease is None else _holder(lease)
                version = None if lease is None else (lease["metadata"]["uid"], lease["metadata"]["resourceVersion"])
                if version != seen:
                    seen, seen_at = version, self._clock()
                free = lease is None or _holder(lease) in {"", self.identity}
                if free or self._clock() - seen_at >= _duration(lease, self._timing.duration):
                    await self._take(lease)
                    if not free:
                        await self._hold_for(self._timing.duration)
                    break
            except (Conflict, AlreadyExists, LeadershipLost):
                _log.debug("another process was faster", lease=self._name)
            except ApiError as error:
                _log.warning("cannot read the Lease", lease=self._name, error=str(error))
            await asyncio.sleep(self._timing.retry)
        self._gauge.set(1)
        _log.info("leading", lease=self._name, identity=self.identity)

    async def hold(self) -> None:
        """Renew for ever.

        Raises:
            LeadershipLost: another process holds the Lease, or it could not be renewed until shortly before its end.
        """
        await self._hold_for(float("inf"))

    async def release(self) -> None:
        """Let the next process in at once; does nothing without the Lease, never raises an API error."""
        self._gauge.set(0)
        lease, self._lease, held = self._lease, None, self.valid
        if lease is None or not held:
            return
        spec = lease["spec"] | {"holderIdentity": "", "renewTime": _now()}
        try:
            await asyncio.wait_for(self._client.update(LEASE, lease | {"spec": spec}), self._timing.margin)
        except (ApiError, TimeoutError) as error:
            _log.warning("Lease not released, it will run out", lease=self._name, error=str(error))
        else:
            _log.info("Lease released", lease=self._name)

    async def _hold_for(self, seconds: float) -> None:
        until = self._clock() + seconds
        pause = self._timing.renew
        while self._clock() + pause < until:
            await asyncio.sleep(max(0.0, min(pause, self._left())))
            pause = self._timing.renew if await self._renewed() else self._timing.retry
        await asyncio.sleep(max(0.0, until - self._clock()))

    async def _renewed(self) -> bool:
        """Renew once; False if it may be tried again.

        Raises:
            LeadershipLost: it must not be tried again.
        """
        if self._left() <= 0 or self._lease is None:
            raise LeadershipLost(f"Lease {self._name} could not be renewed in time")
        try:
            async with asyncio.timeout(self._left()):
                await self._write(self._lease, self._lease["spec"] | {"renewTime": _now()})
        except (Conflict, NotFound) as error:
            await self._reread(error)
            return False
        except (ApiError, TimeoutError) as error:
            _log.warning("Lease not renewed", lease=self._name, error=str(error), seconds_left=round(self._left(), 1))
            return False
        return True

    async def _reread(self, cause: ApiError) -> None:
        """After a lost update: go on only if the Lease still names us."""
        try:
            async with asyncio.timeout(max(0.0, self._left())):
                lease = await self._client.get(LEASE, self._name, self._namespace)
        except (ApiError, TimeoutError) as error:
            _log.warning("cannot read the Lease", lease=self._name, error=str(error))
            return
        if lease is None or _holder(lease) != self.identity:
            self._lease, self._ends = None, float("-inf")
            holder = "nobody" if lease is None else _holder(lease)
            raise LeadershipLost(f"Lease {self._name} is held by {holder}, not by {self.identity}") from cause
        self._lease = lease

    async def _take(self, lease: dict[str, Any] | None) -> None:
        now = _now()
        spec: dict[str, Any] = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": self._timing.duration,
            "acquireTime": now,
            "renewTime": now,
        }
        if lease is None:
            body = {"metadata": {"name": self._name, "namespace": self._namespace}}
            await self._write(body, spec | {"leaseTransitions": 0}, create=True)
            return
        transitions = int(lease["spec"].get("leaseTransitions") or 0)
        await self._write(lease, lease["spec"] | spec | {"leaseTransitions": transitions + 1})

    async def _write(self, lease: dict[str, Any], spec: dict[str, Any], *, create: bool = False) -> None:
        # Counted from before the request: the API server cannot have stored it earlier.
        started = self._clock()
        write = self._client.create if create else self._client.update
        self._lease = await write(LEASE, lease | {"spec": spec})
        self._holder = self.identity
        self._ends = started + self._timing.duration - self._timing.margin

    def _left(self) -> float:
        return self._ends - self._clock()


def host_lease_name(node: str) -> str:
    """Give the name of the Lease by which a host's agent shows that it lives.

    It is ``host-<node>``, and the Node's own name where the prefix would make that too long for a name.
    """
    return f"{_HOST_PREFIX}{node}" if len(_HOST_PREFIX) + len(node) <= _LONGEST_NAME else node


def host_of_lease(name: str) -> str | None:
    """Give the host that a Lease of the system namespace speaks for, or None if it is none of theirs."""
    if name.startswith(_HOST_PREFIX):
        return name.removeprefix(_HOST_PREFIX)
    return name if len(_HOST_PREFIX) + len(name) > _LONGEST_NAME else None


class Heartbeat:
    """Renews a host's Lease (see `host_lease_name`), by which the operator knows that the agent lives.

    Args:
        client: to reach the API server.
        node: name of the Node and of the Host.
        namespace: of the Lease.
        interval: seconds between renewals.
        duration: seconds written into the Lease.
        renewed: called after each renewal.
    """

    def __init__(
        self,
        client: KubeClient,
        node: str,
        *,
        namespace: str = "kumulus-system",
        interval: float = 10.0,
        duration: int = 40,
        renewed: Callable[[], None] | None = None,
    ) -> None:
        self._client = client
        self._node = node
        self._namespace = namespace
        self._interval = interval
        self._duration = duration
        self._renewed = renewed
        self._renewed_at = time.monotonic()
        self.name = host_lease_name(node)
        HEARTBEAT_AGE.labels(name=self.name).set_function(lambda: self.age)

    @property
    def age(self) -> float:
        """Seconds since the last renewal, or since the start."""
        return time.monotonic() - self._renewed_at

    async def run(self) -> None:
        """Renew for ever; the API server's errors are logged and waited out."""
        while True:
            started = time.monotonic()
            try:
                async with asyncio.timeout(self._interval):
                    await self.beat()
            except (ApiError, TimeoutError) as error:
                delay = min(self._interval, error.delay) if isinstance(error, Retryable) else self._interval / 5
                _log.warning("heartbeat failed", lease=self.name, error=str(error), age=round(self.age, 1))
                await asyncio.sleep(delay)
                continue
            await asyncio.sleep(max(0.0, started + self._interval - time.monotonic()))

    async def beat(self) -> None:
        """Renew once, and make the Lease if it is absent.

        Raises:
            ApiError: it was not renewed.
        """
        started = time.monotonic()
        spec = {"holderIdentity": self._node, "leaseDurationSeconds": self._duration, "renewTime": _now()}
        try:
            await self._client.patch_merge(LEASE, self.name, {"spec": spec}, self._namespace)
        except NotFound:
            body = {"metadata": {"name": self.name, "namespace": self._namespace}, "spec": spec}
            await self._client.create(LEASE, body)
        self._renewed_at = started
        if self._renewed is not None:
            self._renewed()


def _holder(lease: dict[str, Any]) -> str:
    return str(lease.get("spec", {}).get("holderIdentity") or "")


def _duration(lease: dict[str, Any] | None, default: int) -> float:
    spec = {} if lease is None else lease.get("spec", {})
    return float(spec.get("leaseDurationSeconds") or default)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
