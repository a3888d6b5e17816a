"""Passwords that guests are to be given: from a Secret of the project, fit for a guest, and never in a message."""

from __future__ import annotations

import base64
from types import SimpleNamespace
from typing import Any

import pytest

from kumulus_api import ServerAction
from kumulus_api.server_action import ActionReason
from kumulus_api.testing import make_object
from kumulus_operator.actions.password import password_of
from kumulus_operator.refusal import Refused
from kumulus_runtime.errors import Forbidden

ACTION = ServerAction.model_validate(
    make_object(ServerAction, "act", type="SetPassword", reboot=None, setPassword={"secret": {"name": "web-root"}})
)


def holding(content: bytes | None, key: str = "password") -> Any:
    """Give a client of an API server with one Secret, or with none."""

    async def get(_kind: object, name: str, namespace: str) -> dict[str, Any] | None:
        assert (name, namespace) == ("web-root", "demo")
        return {"data": {key: base64.b64encode(content).decode()}} if content is not None else None

    return SimpleNamespace(get=get)


@pytest.mark.parametrize("text", ["a", "correct horse battery", "Grüße: 1$%&\\\"'", "x" * 512])
async def test_a_password_is_given_as_it_is(text: str) -> None:
    """Whatever can be typed is a password."""
    assert await password_of(holding(text.encode()), ACTION) == text


@pytest.mark.parametrize(
    "content", [b"", b"word\n", b"word\r", b"root:a\nother:b", b"a\0b", b"\xff\xfe", b"\x1b[2J", b"x" * 513]
)
async def test_what_guests_would_take_for_something_else_is_refused(content: bytes) -> None:
    """Ends of lines, control characters and what is no text are no password; the message says so without it."""
    with pytest.raises(Refused) as caught:
        await password_of(holding(content), ACTION)
    refusal = caught.value.refusal
    assert refusal.reason == ActionReason.PASSWORD_INVALID
    assert "without the end of a line" in refusal.message
    assert "word" not in refusal.message.replace("password", "").replace("Password", "")


async def test_a_secret_that_is_not_there_is_named() -> None:
    """The refusal names Secret, key and namespace, and what helps."""

    async def forbidden(*_: object) -> None:
        raise Forbidden(403, "Forbidden", "no")

    for client in (holding(None), holding(b"word", "other"), SimpleNamespace(get=forbidden)):
        with pytest.raises(Refused) as caught:
            await password_of(client, ACTION)
        refusal = caught.value.refusal
        assert refusal.reason == ActionReason.SECRET_NOT_FOUND
        assert "key password of Secret web-root" in refusal.message
        assert "permanent" in refusal.message
