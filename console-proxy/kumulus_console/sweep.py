"""Sessions that come to their end: expired ones go, and a console goes with its session."""

from __future__ import annotations

from typing import Any

import structlog

from kumulus_api import ConsoleSession, ImageUpload
from kumulus_console.broker import Broker
from kumulus_console.sessions import Session, expires, now
from kumulus_runtime.api_client import POD, KubeClient
from kumulus_runtime.workqueue import WorkQueue

_log = structlog.stdlib.get_logger(__name__)
_GRACE = 5.0
"""Seconds after the end of its lifetime in which the use of a token that came just in time is written down."""
Key = tuple[str, str]


class Sweep:
    """Removes sessions that nobody can use any more, and closes the consoles of those that are removed.

    Args:
        client: to reach the API server.
        broker: the consoles that are open here.
        namespace: the system namespace, where proxies run.
        kind: of the sessions.
    """

    def __init__(
        self,
        client: KubeClient,
        broker: Broker,
        namespace: str,
        kind: type[ConsoleSession] | type[ImageUpload] = ConsoleSession,
    ) -> None:
        self._kind = kind
        self._client = client
        self._broker = broker
        self._namespace = namespace
        self.queue: WorkQueue[Key] = WorkQueue(kind.definition.plural)

    async def watch(self) -> None:
        """Watch sessions until cancelled."""
        async for event, body in self._client.watch(self._kind):
            if event == "SYNCED":
                continue
            metadata = body["metadata"]
            if event == "DELETED":
                self._broker.close(metadata["uid"])
            else:
                self.queue.add((metadata["namespace"], metadata["name"]))

    async def reconcile(self, key: Key) -> float | None:
        """Remove a session that is over; give the seconds until it may be."""
        body = await self._client.get(self._kind, key[1], key[0])
        if body is None:
            return None
        session = self._kind.model_validate(body)
        if session.status is None or session.status.opened_at is None:
            left = (expires(session) - now()).total_seconds() + _GRACE
            if left > 0:
                return left
        elif await self._is_open(session):
            return None
        if await self._client.delete(self._kind, key[1], key[0], uid=session.metadata.uid):
            _log.info("session removed", namespace=key[0], session=key[1])
        return None

    async def _is_open(self, session: Session) -> bool:
        """Whether the proxy that opened it may still hold it open."""
        proxy = session.status.proxy if session.status is not None else ""
        if proxy == self._broker.pod:
            return session.metadata.uid in self._broker.held
        pod: dict[str, Any] | None = await self._client.get(POD, proxy, self._namespace) if proxy else None
        return pod is not None
