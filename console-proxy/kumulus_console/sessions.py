"""What a token opens: pure judgements of a session, its server and its host."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any, TypeVar

from kumulus_api import ConsoleSession, ImageUpload
from kumulus_api.console import ConsoleType, token_hash
from kumulus_runtime.conditions import get_condition

Object = Mapping[str, Any]
Session = ConsoleSession | ImageUpload
SessionT = TypeVar("SessionT", ConsoleSession, ImageUpload)
_OFF = frozenset({"Stopped", "Suspended", "Shelved", "Crashed"})


class Refusal(Exception):
    """A request is answered with an error."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Target:
    """A guest: the host that it is on, and its instance id."""

    host: str
    instance: str


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a host's agent serves consoles, and the SHA-256 of the certificate that it shows there."""

    url: str
    fingerprint: bytes


def expires(session: Session) -> datetime:
    """Give when a session's token opens nothing more."""
    made = datetime.fromisoformat(session.metadata.creation_timestamp or "1970-01-01T00:00:00Z")
    return made + timedelta(seconds=session.spec.lifetime_seconds)


def judge(body: Object | None, token: str, now: datetime) -> ConsoleSession:
    """Give the console session that a token opens; raises what `opened_by` raises."""
    return opened_by(ConsoleSession, "console", body, token, now)


def opened_by(kind: type[SessionT], what: str, body: Object | None, token: str, now: datetime) -> SessionT:
    """Give the session that a token opens.

    Args:
        kind: of the session.
        what: it opens, for the refusals.
        body: the session as it is now; None if there is none.
        token: what the caller shows.
        now: the time.

    Raises:
        Refusal: 401 without a token; 403 for one that opens nothing. Only who holds the right one is told more.
    """
    if not token:
        raise Refusal(HTTPStatus.UNAUTHORIZED, f"a {what}'s token is needed: kubectl kumulus makes it")
    session = kind.model_validate(body) if body is not None else None
    kept = session.spec.token_hash if session is not None else "0" * 64
    right = hmac.compare_digest(kept, token_hash(token))
    if session is None or not right:
        raise Refusal(
            HTTPStatus.FORBIDDEN,
            f"this token opens no {what}: it is another's, or its session has expired or is closed; ask for a new one",
        )
    if session.status is not None and session.status.opened_at is not None:
        raise Refusal(HTTPStatus.FORBIDDEN, f"the token was used already, and opens a {what} once: ask for a new one")
    if now >= expires(session) or session.deleting:
        raise Refusal(HTTPStatus.FORBIDDEN, "the token has expired: ask for a new one")
    return session


def target_of(session: ConsoleSession, server: Object | None) -> Target:
    """Give the guest whose console a session opens.

    Args:
        session: the session.
        server: the Server that it names, as it is now; None if there is none.

    Raises:
        Refusal: 404 if there is no such server any more, 409 if it has no console now.
    """
    name = session.spec.server.name
    if server is None:
        raise Refusal(HTTPStatus.NOT_FOUND, f"there is no server {name} in {session.metadata.namespace}")
    if made_after(server, session):
        raise Refusal(HTTPStatus.FORBIDDEN, f"server {name} is another than the one that the session was made for")
    assignment = server["spec"].get("assignment")
    status = server.get("status") or {}
    conditions = list(status.get("conditions") or [])
    if assignment is None:
        why = _told(get_condition(conditions, "Scheduled")) or "the operator has not looked at it yet"
        raise Refusal(HTTPStatus.CONFLICT, f"server {name} has no console: it is not placed yet: {why}")
    power = status.get("powerState")
    if session.spec.type is not ConsoleType.LOG and power in _OFF:
        raise Refusal(
            HTTPStatus.CONFLICT, f"server {name} is {power}: start it first (console-log shows its last words)"
        )
    return Target(assignment["host"], assignment["instanceID"])


def endpoint_of(name: str, host: Object | None) -> Endpoint:
    """Give where a host's agent serves consoles.

    Raises:
        Refusal: 503 if it does not say.
    """
    console = ((host or {}).get("status") or {}).get("console")
    if console is None:
        raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, f"host {name} serves no consoles: is its agent up to date?")
    return Endpoint(console["url"], bytes.fromhex(console["certificate"].removeprefix("sha256:")))


def made_after(body: Object, session: Session) -> bool:
    """Give whether what a session names is another than the one that it was made for."""
    return _made(body) > _made({"metadata": {"creationTimestamp": session.metadata.creation_timestamp}})


def now() -> datetime:
    """Give the time."""
    return datetime.now(UTC)


def _made(body: Object) -> datetime:
    return datetime.fromisoformat(body["metadata"].get("creationTimestamp") or "1970-01-01T00:00:00Z")


def _told(condition: Mapping[str, Any] | None) -> str:
    return f"{condition['reason']}: {condition['message']}" if condition else ""
