"""What the agent makes of the operator's answers about user-data."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from kumulus_agent.servers.boot_data import BootDataRefused, BootDataSource, fetch_password, fetch_user_data
from kumulus_agent.servers.desired import Desired
from kumulus_agent.servers.errors import StepFailed
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.certificates.program import issue

DESIRED = cast("Desired", SimpleNamespace(key=("demo", "web")))
DATA = bytes(range(256)) * 256
PIECE = 10_000


class Authority:
    """An API server that has only the ConfigMap with the operator's authority."""

    def __init__(self) -> None:
        self._certificate = issue(["localhost"]).authority.decode()

    async def get(self, *_: object) -> dict[str, Any]:
        """Give the ConfigMap."""
        return {"data": {"ca.crt": self._certificate}}


async def in_pieces(request: web.Request) -> web.StreamResponse:
    """Answer as a network does that delivers bit by bit."""
    body = json.dumps({"userData": base64.b64encode(DATA).decode()}).encode()
    response = web.StreamResponse()
    await response.prepare(request)
    for start in range(0, len(body), PIECE):
        await response.write(body[start : start + PIECE])
        await asyncio.sleep(0.01)  # the next piece is another packet
    return response


async def endless(request: web.Request) -> web.StreamResponse:
    """Never come to an end."""
    response = web.StreamResponse()
    await response.prepare(request)
    while request.transport is not None and not request.transport.is_closing():
        await response.write(bytes(1 << 20))
    return response


ANSWERS = {
    "set": (200, '{"password": "secret word"}'),
    "absent": (404, '{"error": "key password of Secret web was not found"}'),
    "down": (503, '{"error": "the API server cannot be asked now"}'),
    "odd": (200, '"secret word"'),
    "cut": (200, '{"password": "secret word'),
    "none": (200, '{"password": null}'),
}


async def password(request: web.Request) -> web.Response:
    """Answer as the action is called."""
    assert request.headers["Authorization"] == "Bearer token"
    status, text = ANSWERS[request.match_info["name"]]
    return web.Response(status=status, text=text, content_type="application/json")


@pytest.fixture
async def source(tmp_path: Path) -> AsyncIterator[BootDataSource]:
    """Where a running service is, without TLS."""
    app = web.Application()
    app.router.add_get("/pieces/v1/boot-data/demo/web", in_pieces)
    app.router.add_get("/endless/v1/boot-data/demo/web", endless)
    app.router.add_get("/v1/passwords/demo/{name}", password)
    (tmp_path / "token").write_text("token")
    async with TestServer(app) as server:
        yield BootDataSource(str(server.make_url("")), "kumulus-system", "ca", tmp_path / "token")


async def test_user_data_is_read_to_its_end(source: BootDataSource) -> None:
    """64 KiB of user-data, which no network delivers at once, arrive whole."""
    client = cast("KubeClient", Authority())
    here = replace(source, base_url=f"{source.base_url}/pieces")
    assert await fetch_user_data(client, here, DESIRED) == DATA


async def test_an_endless_answer_is_refused(source: BootDataSource) -> None:
    """What is larger than any user-data is not taken into memory."""
    client = cast("KubeClient", Authority())
    with pytest.raises(StepFailed, match="larger than"):
        await fetch_user_data(client, replace(source, base_url=f"{source.base_url}/endless"), DESIRED)


async def test_a_password_comes_as_it_is(source: BootDataSource) -> None:
    """The password of an action is what the operator gives for it."""
    assert await fetch_password(cast("KubeClient", Authority()), source, ("demo", "set")) == "secret word"


@pytest.mark.parametrize("name", ["absent", "down", "odd", "cut", "none"])
async def test_a_password_that_does_not_come_says_why(source: BootDataSource, name: str) -> None:
    """What the operator refuses is told apart from what may pass, and no error quotes a password."""
    with pytest.raises(StepFailed) as caught:
        await fetch_password(cast("KubeClient", Authority()), source, ("demo", name))
    assert isinstance(caught.value, BootDataRefused) is (name == "absent")
    assert "secret word" not in f"{caught.value}{caught.value.__cause__}"
