"""Kubernetes Events: what ``kubectl describe`` shows. Helpful, never needed."""

import asyncio
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import structlog

from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.errors import ApiError
from kumulus_runtime.logs import reference
from kumulus_runtime.resources import EVENT

_SILENCE_SECONDS = 600.0
_REMEMBERED = 4096
_TIMEOUT = 5.0
_UNDER_WAY = 64
_BURST = 200
_PER_SECOND = 10.0
# Limits of the events.k8s.io API.
_LONGEST_NOTE = 1024
_LONGEST_NAME = 200

_log = structlog.stdlib.get_logger(__name__)


class EventRecorder:
    """Writes Events, each at most once in ten minutes per object, reason and message.

    Args:
        client: to reach the API server.
        component: who reports, e.g. ``kumulus.dev/operator``.
        instance: which of its processes; default the host name.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        client: KubeClient,
        component: str,
        *,
        instance: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._component = component
        self._instance = (instance or socket.gethostname())[:128]
        self._clock = clock
        self._written: dict[tuple[str, ...], float] = {}
        self._posted: set[asyncio.Task[bool]] = set()
        self._allowance = float(_BURST)
        self._allowed_at = clock()

    def post(
        self, obj: Mapping[str, Any], reason: str, message: str, *, warning: bool = False, again: bool = False
    ) -> None:
        """Write one Event without waiting for it; while the API server lags, those beyond 64 are dropped.

        Of a flood of such that are no warnings (thousands of servers that are placed) 10 a second are written after the
        first 200: they would cost the API server as much as placing does.

        Args:
            obj: see `event`.
            reason: see `event`.
            message: see `event`.
            warning: see `event`.
            again: write it even if the same was written within ten minutes: it has happened once more.
        """
        if len(self._posted) >= _UNDER_WAY or not (warning or self._allows()):
            return
        if again:
            self._written.pop(_key(obj, reason, message), None)
        task = asyncio.get_running_loop().create_task(self.event(obj, reason, message, warning=warning))
        self._posted.add(task)
        task.add_done_callback(self._posted.discard)

    def _allows(self) -> bool:
        """Take one from the allowance, which fills up again with time; give whether there was one."""
        now = self._clock()
        filled = min(float(_BURST), self._allowance + (now - self._allowed_at) * _PER_SECOND)
        self._allowed_at = now
        self._allowance = filled - 1 if filled >= 1 else filled
        return filled >= 1

    async def event(
        self, obj: Mapping[str, Any], reason: str, message: str, *, warning: bool = False, action: str = ""
    ) -> bool:
        """Write one Event; the API server's errors are logged, not raised.

        Args:
            obj: the object it is about, with apiVersion, kind and metadata.
            reason: one CamelCase word.
            message: a sentence for people, shortened to 1024 characters.
            warning: type Warning instead of Normal.
            action: what was being done, one CamelCase word; default the reason.

        Returns:
            Whether one was written.
        """
        key = _key(obj, reason, message)
        now = self._clock()
        if now - self._written.get(key, float("-inf")) < _SILENCE_SECONDS:
            return False
        self._forget(now)
        self._written[key] = now
        body = self._body(obj, reason, message) | {
            "type": "Warning" if warning else "Normal",
            "action": action or reason,
        }
        try:
            async with asyncio.timeout(_TIMEOUT):
                await self._client.create(EVENT, body)
        except (ApiError, TimeoutError) as error:
            _log.debug("event not written", object=reference(obj), reason=reason, error=str(error))
            # Not written, so it may be tried again when it is reported again.
            self._written.pop(key, None)
            return False
        return True

    def _body(self, obj: Mapping[str, Any], reason: str, message: str) -> dict[str, Any]:
        metadata = obj["metadata"]
        regarding = {part: metadata[part] for part in ("name", "namespace", "uid") if metadata.get(part)}
        return {
            "metadata": {
                "name": f"{metadata['name'][:_LONGEST_NAME].rstrip('-.')}.{uuid.uuid4().hex[:16]}",
                # Events about cluster-scoped objects live in the namespace "default", where kubectl looks for them.
                "namespace": metadata.get("namespace") or "default",
            },
            "eventTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": self._component,
            "reportingInstance": self._instance,
            "reason": reason,
            "note": message[:_LONGEST_NOTE],
            "regarding": {"apiVersion": obj["apiVersion"], "kind": obj["kind"]} | regarding,
        }

    def _forget(self, now: float) -> None:
        """Drop what is too old to matter; of a flood, also the oldest."""
        if len(self._written) < _REMEMBERED:
            return
        fresh = {key: at for key, at in self._written.items() if now - at < _SILENCE_SECONDS}
        self._written = dict(list(fresh.items())[-_REMEMBERED // 2 :])


def _key(obj: Mapping[str, Any], reason: str, message: str) -> tuple[str, ...]:
    return (str(obj["metadata"].get("uid") or reference(obj)), reason, message)
