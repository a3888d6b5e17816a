"""What a token opens, judged by session, server and host alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumulus_api import ConsoleSession, Host, Server
from kumulus_api.console import token_hash
from kumulus_api.testing import INSTANCE_ID, make_assigned, make_object
from kumulus_console.sessions import Endpoint, Refusal, Target, endpoint_of, judge, target_of

MADE = datetime(2026, 1, 1, tzinfo=UTC)
TOKEN = "a-token"


def text(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def make_session(token: str = TOKEN, opened: bool = False, made: datetime = MADE, **spec: Any) -> dict[str, Any]:
    """Make a session as the API server gives it."""
    body = make_object(ConsoleSession, **{"tokenHash": token_hash(token), "lifetimeSeconds": 60} | spec)
    body["metadata"] |= {"creationTimestamp": text(made), "uid": "u", "resourceVersion": "1"}
    return body | ({"status": {"openedAt": text(made)}} if opened else {})


def make_server(power: str = "Running", made: datetime = MADE) -> dict[str, Any]:
    """Make a server that is on host h1."""
    body = make_assigned(Server, "web", "h1")
    body["metadata"]["creationTimestamp"] = text(made)
    return body | {"status": {"powerState": power}}


def refused(body: dict[str, Any] | None, token: str, now: datetime = MADE) -> tuple[HTTPStatus, str]:
    with pytest.raises(Refusal) as refusal:
        judge(body, token, now)
    return refusal.value.status, str(refusal.value)


@given(lifetime=st.integers(1, 3600), after=st.integers(-10, 7200))
def test_a_token_is_good_for_its_lifetime_and_no_longer(lifetime: int, after: int) -> None:
    """The right token opens the console until its lifetime is over, and never afterwards."""
    session, now = make_session(lifetimeSeconds=lifetime), MADE + timedelta(seconds=after)
    if after < lifetime:
        assert judge(session, TOKEN, now).spec.user == "alice"
    else:
        status, message = refused(session, TOKEN, now)
        assert status == HTTPStatus.FORBIDDEN
        assert "has expired" in message


def test_a_used_token_opens_nothing() -> None:
    """A session that was opened once is refused, and who holds its token is told why."""
    assert refused(make_session(opened=True), TOKEN)[0] == HTTPStatus.FORBIDDEN
    assert "used already" in refused(make_session(opened=True), TOKEN)[1]


@given(token=st.text(min_size=1).filter(lambda token: token != TOKEN))
def test_a_wrong_token_learns_nothing(token: str) -> None:
    """Whether a session exists, was used or has expired is told to nobody without its token."""
    late = MADE + timedelta(days=1)
    answers = {
        refused(None, token),
        refused(make_session(), token),
        refused(make_session(opened=True), token),
        refused(make_session(), token, late),
    }
    assert len(answers) == 1
    assert answers.pop()[0] == HTTPStatus.FORBIDDEN


def test_the_hash_is_no_token() -> None:
    """Who can read the session, with the hash in it, cannot open the console by that."""
    session = make_session()
    assert refused(session, session["spec"]["tokenHash"])[0] == HTTPStatus.FORBIDDEN
    assert refused(session, "")[0] == HTTPStatus.UNAUTHORIZED


def test_a_session_leads_to_its_server_alone() -> None:
    """The guest is the one of the server that the session names, and not of a later one of that name."""
    session = ConsoleSession.model_validate(make_session())
    assert target_of(session, make_server()) == Target("h1", INSTANCE_ID)
    with pytest.raises(Refusal, match="there is no server web"):
        target_of(session, None)
    with pytest.raises(Refusal, match="another than the one"):
        target_of(session, make_server(made=MADE + timedelta(seconds=1)))


@pytest.mark.parametrize("power", ["Stopped", "Suspended", "Shelved", "Crashed"])
def test_a_server_that_is_off_has_a_log_and_no_screen(power: str) -> None:
    """Of a server that is off the log can be read; screen and serial line are refused with its state."""
    for kind in ("VNC", "Serial"):
        with pytest.raises(Refusal, match=f"server web is {power}") as refusal:
            target_of(ConsoleSession.model_validate(make_session(type=kind)), make_server(power))
        assert refusal.value.status == HTTPStatus.CONFLICT
    log = ConsoleSession.model_validate(make_session(type="Log"))
    assert target_of(log, make_server(power)) == Target("h1", INSTANCE_ID)


def test_a_server_without_a_host_is_refused_with_what_it_waits_for() -> None:
    """A server that is not placed has no console, and the refusal says what keeps it from being placed."""
    server = make_object(Server, "web")
    server["metadata"]["creationTimestamp"] = text(MADE)
    condition = {"type": "Scheduled", "status": "False", "reason": "ImageNotFound", "message": "no image"}
    server["status"] = {"conditions": [condition]}
    with pytest.raises(Refusal, match="not placed yet: ImageNotFound: no image"):
        target_of(ConsoleSession.model_validate(make_session()), server)


def test_an_agent_is_known_by_its_certificate() -> None:
    """A host's consoles are where its Host says, with the certificate that it says; without that word nowhere."""
    host = make_object(Host, "h1")
    with pytest.raises(Refusal, match="host h1 serves no consoles"):
        endpoint_of("h1", host)
    host["status"] = {"console": {"url": "https://192.0.2.1:9810", "certificate": "sha256:" + "ab" * 32}}
    assert endpoint_of("h1", host) == Endpoint("https://192.0.2.1:9810", bytes.fromhex("ab" * 32))
