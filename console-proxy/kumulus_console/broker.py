"""From a token to a console: reads what is live, uses the token up, and opens the agent's end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus

import structlog

from kumulus_api import ConsoleSession, Host, Image, ImageUpload, Server
from kumulus_api.upload_messages import SESSION_DELETED
from kumulus_console.agents import Agents
from kumulus_console.sessions import Endpoint, Refusal, Session, Target, endpoint_of, judge, now, opened_by, target_of
from kumulus_console.uploads import upload_of
from kumulus_runtime.api_client import ApiError, Conflict, KubeClient, NotFound

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Opening:
    """A console that a token opens: the session, the guest, and where its agent is."""

    session: ConsoleSession
    target: Target
    endpoint: Endpoint

    @property
    def about(self) -> dict[str, str]:
        """What the log says of it."""
        spec = self.session.spec
        return {"server": spec.server.name, "type": spec.type.value, "user": spec.user, "host": self.target.host}


@dataclass(frozen=True, slots=True)
class UploadOpening:
    """An upload that a token opens: the session, the host that takes it and the path there, and where its agent is."""

    session: ImageUpload
    host: str
    path: str
    endpoint: Endpoint

    @property
    def about(self) -> dict[str, str]:
        """What the log says of it."""
        spec = self.session.spec
        return {"image": spec.image.name, "user": spec.user, "host": self.host}


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

    async def look_upload(self, namespace: str, name: str, token: str) -> UploadOpening:
        """Say which upload a token would open, and leave it unused; raises what `look` raises."""
        body = await self.client.get(ImageUpload, name, namespace)
        session = opened_by(ImageUpload, "upload", body, token, now())
        host, path = upload_of(session, await self.client.get(Image, session.spec.image.name, namespace))
        return UploadOpening(session, host, path, endpoint_of(host, await self.client.get(Host, host)))

    @asynccontextmanager
    async def used(self, opening: Opening | UploadOpening) -> AsyncIterator[None]:
        """Use up the token of what was looked at; the session goes with the end of the block.

        Raises:
            Refusal: somebody was faster.
            ApiError: the API server cannot be asked.
        """
        session = opening.session
        what = "console" if isinstance(opening, Opening) else "upload"
        about = {"namespace": session.metadata.namespace, "session": session.metadata.name} | opening.about
        # Before it is marked: what is marked and not held is swept.
        self.held.add(session.metadata.uid)
        try:
            await self._mark(session)
            _log.info(f"{what} opened", **about)
            try:
                yield
            finally:
                _log.info(f"{what} closed", **about)
                await asyncio.shield(self._gone(session))
        finally:
            self.held.discard(session.metadata.uid)

    def close(self, uid: str) -> None:
        """Close the console of a session that was deleted, be it open already or about to be."""
        self.held.discard(uid)
        if uid in self.open:
            self.open[uid].cancel(SESSION_DELETED)

    async def _mark(self, session: Session) -> None:
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
            await self.client.update(type(session), body, subresource="status")
        except (Conflict, NotFound):
            raise Refusal(
                HTTPStatus.FORBIDDEN, "the token was used already, and is good for one time: ask for a new one"
            ) from None

    async def _gone(self, session: Session) -> None:
        metadata = session.metadata
        try:
            await self.client.delete(type(session), metadata.name, metadata.namespace, uid=metadata.uid)
        except ApiError as error:
            _log.warning("session not removed; it goes with the next start", session=metadata.name, error=str(error))
