"""From a token to a console: reads what is live, uses the token up, and opens the agent's end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus

import structlog

from kumulus_api import ConsoleSession, Host, Server
from kumulus_console.agents import Agents
from kumulus_console.sessions import Endpoint, Refusal, Target, endpoint_of, judge, now, target_of
from kumulus_runtime.api_client import ApiError, Conflict, KubeClient, NotFound

_log = structlog.stdlib.get_logger(__name__)
DELETED = "the session was deleted"


@dataclass(frozen=True, slots=True)
class Opening:
    """A console that a token opens: the session, the guest, and where its agent is."""

    session: ConsoleSession
    target: Target
    endpoint: Endpoint


@dataclass
class Broker:
    """Opens consoles.

    Attributes:
        client: to reach the API server.
        agents: to reach the hosts.
        pod: what sessions are marked with.
        held: uids of the sessions that are open here or about to be.
        open: the consoles of these, by uid; one that is cancelled is closed with the message.
    """

    client: KubeClient
    agents: Agents
    pod: str
    held: set[str] = field(default_factory=set)
    open: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    async def look(self, namespace: str, name: str, token: str) -> Opening:
        """Say what a token would open, and leave it unused.

        Raises:
            Refusal: it would open nothing.
            ApiError: the API server cannot be asked.
        """
        session = judge(await self.client.get(ConsoleSession, name, namespace), token, now())
        server = await self.client.get(Server, session.spec.server.name, namespace)
        target = target_of(session, server)
        return Opening(session, target, endpoint_of(target.host, await self.client.get(Host, target.host)))

    @asynccontextmanager
    async def used(self, opening: Opening) -> AsyncIterator[None]:
        """Use up the token of what was looked at; the session goes with the end of the block.

        Raises:
            Refusal: somebody was faster.
            ApiError: the API server cannot be asked.
        """
        session = opening.session
        about = {
            "namespace": session.metadata.namespace,
            "session": session.metadata.name,
            "server": session.spec.server.name,
            "type": session.spec.type.value,
            "user": session.spec.user,
            "host": opening.target.host,
        }
        # Before it is marked: what is marked and not held is swept.
        self.held.add(session.metadata.uid)
        try:
            await self._mark(session)
            _log.info("console opened", **about)
            try:
                yield
            finally:
                _log.info("console closed", **about)
                await asyncio.shield(self._gone(session))
        finally:
            self.held.discard(session.metadata.uid)

    def close(self, uid: str) -> None:
        """Close the console of a session that was deleted, be it open already or about to be."""
        self.held.discard(uid)
        if uid in self.open:
            self.open[uid].cancel(DELETED)

    async def _mark(self, session: ConsoleSession) -> None:
        status = {"openedAt": now().isoformat(timespec="seconds").replace("+00:00", "Z"), "proxy": self.pod}
        metadata = session.metadata
        body = {
            "metadata": {
                "name": metadata.name,
                "namespace": metadata.namespace,
                "uid": metadata.uid,
                "resourceVersion": metadata.resource_version,
            },
            "spec": session.spec.dump(),
            "status": status,
        }
        try:
            await self.client.update(ConsoleSession, body, subresource="status")
        except (Conflict, NotFound):
            raise Refusal(
                HTTPStatus.FORBIDDEN, "the token was used already, and opens a console once: ask for a new one"
            ) from None

    async def _gone(self, session: ConsoleSession) -> None:
        metadata = session.metadata
        try:
            await self.client.delete(ConsoleSession, metadata.name, metadata.namespace, uid=metadata.uid)
        except ApiError as error:
            _log.warning("session not removed; it goes with the next start", session=metadata.name, error=str(error))
