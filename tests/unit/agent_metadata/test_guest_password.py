"""Where a guest's own password goes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kumulus_agent.servers.desired import read_desired
from kumulus_agent.servers.guest_password import GuestPasswords, Kept
from kumulus_api import Server
from kumulus_api.testing import make_assigned
from kumulus_runtime.api_client import ApiError
from kumulus_runtime.store import Store

TEXT = "QUJDRA=="


class Api:
    """An API server that takes a status as server-side apply does, of one manager."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.body, self.writes, self.down = body, 0, False

    async def apply_status(self, kind: type[Server], body: dict[str, Any], *, manager: str) -> dict[str, Any]:
        """Write; what the manager no longer names is gone."""
        await asyncio.sleep(0)
        if self.down:
            raise ApiError(503, "Unavailable", "down")
        assert (kind, manager) == (Server, "kumulus-agent-password")
        self.writes += 1
        status = {name: value for name, value in self.body["status"].items() if name != "guestPassword"}
        metadata = self.body["metadata"] | {"resourceVersion": str(self.writes + 1)}
        self.body = {**self.body, "metadata": metadata, "status": status | body["status"]}
        return self.body


@pytest.fixture
def api() -> Api:
    """The API, with a server that runs."""
    body = make_assigned(Server, "web", "h1")
    body["metadata"] |= {"generation": 1, "uid": "u", "resourceVersion": "1"}
    return Api({"kind": "Server", **body, "status": {"powerState": "Running"}})


def of(api: Api) -> tuple[GuestPasswords, tuple[str, str], str]:
    """What keeps passwords, the server's key and its instance id."""
    store = Store()
    store.apply("MODIFIED", api.body)
    key = (api.body["metadata"]["namespace"], api.body["metadata"]["name"])
    return GuestPasswords(api, store), key, api.body["spec"]["assignment"]["instanceID"]


async def test_it_is_told_once(api: Api) -> None:
    """The first one is written, also of two at once; the next is refused until a rebuild; nothing else changes."""
    passwords, key, instance = of(api)
    both = await asyncio.gather(*(passwords.keep(key, instance, text) for text in (TEXT, "RUZH")))
    assert sorted(kept.name for kept in both) == ["TOLD_BEFORE", "WRITTEN"]
    assert await passwords.keep(key, instance, "RUZH") is Kept.TOLD_BEFORE
    assert api.body["status"] == {"powerState": "Running", "guestPassword": TEXT}
    desired = read_desired(api.body)
    assert desired is not None
    await passwords.forget(desired)
    assert api.body["status"] == {"powerState": "Running"}
    writes = api.writes
    await passwords.forget(desired)
    assert api.writes == writes
    assert await passwords.keep(key, instance, "RUZH") is Kept.WRITTEN


@pytest.mark.parametrize("text", ["", "A", "a b==", "\x1b[2J" + TEXT, "A" * 1024, "QUJD===", "QUJD\nQUJD", "😀😀😀😀"])
async def test_only_base64_is_taken(api: Api, text: str) -> None:
    """What is no encrypted password, or could play with a terminal, is not written."""
    passwords, key, instance = of(api)
    assert await passwords.keep(key, instance, text) is Kept.UNFIT
    assert api.writes == 0


async def test_another_or_unreachable_server_is_not_written(api: Api) -> None:
    """A guest of a former server of the name changes nothing; while the API is down the guest may try again later."""
    passwords, key, instance = of(api)
    assert await passwords.keep(key, "00000000-0000-4000-8000-00000000beef", TEXT) is Kept.NOT_NOW
    assert await passwords.keep((key[0], "other"), instance, TEXT) is Kept.NOT_NOW
    api.down = True
    assert await passwords.keep(key, instance, TEXT) is Kept.NOT_NOW
    api.down = False
    assert await passwords.keep(key, instance, TEXT) is Kept.WRITTEN
    assert api.writes == 1
