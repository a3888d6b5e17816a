"""The proxy between a user and a host's agent, both real; the API server holds one session, one server, one host."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

import aiohttp
import pytest
from aiohttp import WSMsgType, web
from aiohttp.test_utils import TestClient, TestServer

from kumulus_agent.consoles.certificate import HostCertificate, host_certificate
from kumulus_api import ConsoleSession, Host, Server
from kumulus_api.console import ERROR_HEADER, TOKEN_HEADER, token_hash
from kumulus_api.testing import INSTANCE_ID, make_assigned, make_object
from kumulus_console.agents import Agents
from kumulus_console.broker import Broker
from kumulus_console.server import Proxy
from kumulus_console.sweep import Sweep
from kumulus_runtime.api_client import POD, Conflict, KubeClient

Object = dict[str, Any]
TOKEN = "a-token"
PATH = "/v1/namespaces/demo/consolesessions/example"


class Api:
    """An API server that guards its one session by its resourceVersion."""

    def __init__(self) -> None:
        self.objects: dict[Any, Object] = {}
        self.events: asyncio.Queue[tuple[str, Object]] = asyncio.Queue()

    def session(self, **spec: Any) -> None:
        """Have a fresh session."""
        body = make_object(ConsoleSession, **{"tokenHash": token_hash(TOKEN)} | spec)
        made = datetime.now(UTC).isoformat(timespec="seconds")
        body["metadata"] |= {"creationTimestamp": made, "uid": "u", "resourceVersion": "1"}
        self.objects[ConsoleSession] = body

    async def get(self, kind: object, *_: object) -> Object | None:
        """Give the object of a kind."""
        await asyncio.sleep(0)
        return copy.deepcopy(self.objects.get(kind))

    async def update(self, kind: object, body: Object, *, subresource: str) -> Object:
        """Replace the status, if nobody else did."""
        await asyncio.sleep(0)
        kept = self.objects[kind]
        if kept["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"]:
            raise Conflict(409, "Conflict", "somebody was faster")
        kept[subresource] = body[subresource]
        kept["metadata"]["resourceVersion"] = "2"
        return kept

    async def delete(self, kind: object, *_: object, uid: str) -> bool:
        """Delete the session and tell who watches."""
        if kind not in self.objects:
            return False
        self.events.put_nowait(("DELETED", self.objects.pop(kind)))
        return True

    async def request(self, *_: object) -> Object:
        """Give a token."""
        return {"status": {"token": "for-h1"}}

    async def watch(self, _kind: object) -> AsyncIterator[tuple[str, Object]]:
        """Give what happens."""
        while True:
            yield await self.events.get()


async def agent_console(request: web.Request) -> web.StreamResponse:
    """An agent: it answers in capitals, and closes with a word when it is told so."""
    assert request.headers["Authorization"] == "Bearer for-h1"
    assert request.match_info["instance"] == INSTANCE_ID
    if request.match_info["console"] == "vnc":
        return web.Response(status=409, headers={ERROR_HEADER: "the%20server%20is%20off%3A%20start%20it%20first"})
    if request.match_info["console"] == "log":
        return web.Response(text=f"the log {sorted(request.query.items())}")
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        if message.data == b"end":
            await socket.close(code=1001, message=b"another session has taken the console over")
        else:
            await socket.send_bytes(message.data.upper())
    return socket


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> HostCertificate:
    """The host's certificate."""
    return asyncio.run(host_certificate(tmp_path_factory.mktemp("console"), "h1"))


@pytest.fixture
async def api(certificate: HostCertificate) -> AsyncIterator[Api]:
    """An API server that knows a host whose agent serves consoles, and a server there."""
    app = web.Application()
    app.router.add_get("/v1/instances/{instance}/{console}", agent_console)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=certificate.context())
    await site.start()
    address = f"https://127.0.0.1:{runner.addresses[0][1]}"
    api = Api()
    host = make_object(Host, "h1")
    host["status"] = {"console": {"url": address, "certificate": f"sha256:{certificate.fingerprint}"}}
    server = make_assigned(Server, "web", "h1")
    server["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    api.objects = {Host: host, Server: server}
    api.session()
    yield api
    await runner.cleanup()


@pytest.fixture
async def broker(api: Api) -> AsyncIterator[Broker]:
    """The proxy's broker."""
    client = cast("KubeClient", api)
    agents = Agents(client, "kumulus-system", "kumulus-console")
    yield Broker(client, agents, "pod-1")
    await agents.close()


@pytest.fixture
async def user(broker: Broker, tmp_path: Path) -> AsyncIterator[TestClient[Any, Any]]:
    """A user of the proxy."""
    (tmp_path / "vnc.html").write_text("noVNC")
    async with TestClient(TestServer(Proxy(broker, "https://consoles.test/", tmp_path).application())) as client:
        yield client


HEADERS = {TOKEN_HEADER: TOKEN}


async def said(answer: aiohttp.ClientResponse) -> str:
    error: str = (await answer.json())["error"]
    assert unquote(answer.headers[ERROR_HEADER]) == error
    return error


async def test_a_token_opens_its_console_once(user: TestClient[Any, Any], api: Api) -> None:
    """What is typed is answered; while the console is open and afterwards the token opens nothing more."""
    async with user.ws_connect(f"{PATH}/stream", headers=HEADERS) as console:
        await console.send_bytes(b"hello")
        assert (await console.receive()).data == b"HELLO"
        assert api.objects[ConsoleSession]["status"]["proxy"] == "pod-1"
        answer = await user.get(f"{PATH}/stream", headers=HEADERS)
        assert answer.status == 403
        assert "used already" in await said(answer)
    async with asyncio.timeout(5):
        await api.events.get()  # the session goes with its console
    answer = await user.get(f"{PATH}/stream", headers=HEADERS)
    assert answer.status == 403


async def test_of_two_at_once_one_gets_in(user: TestClient[Any, Any]) -> None:
    """A token that is used twice at the same moment opens one console."""
    opened = await asyncio.gather(
        *(user.ws_connect(f"{PATH}/stream", headers=HEADERS) for _ in range(5)), return_exceptions=True
    )
    consoles = [item for item in opened if isinstance(item, aiohttp.ClientWebSocketResponse)]
    refused = [item.status for item in opened if isinstance(item, aiohttp.WSServerHandshakeError)]
    assert (len(consoles), refused) == (1, [403] * 4)
    await consoles[0].close()


async def test_a_token_may_be_in_the_path(user: TestClient[Any, Any]) -> None:
    """A browser, which can set no header, names the token at the end of the path; a wrong one there opens nothing."""
    with pytest.raises(aiohttp.WSServerHandshakeError):
        await user.ws_connect(f"{PATH}/stream/another")
    async with user.ws_connect(f"{PATH}/stream/{TOKEN}") as console:
        await console.send_bytes(b"hello")
        assert (await console.receive()).data == b"HELLO"


async def test_looking_uses_nothing_up(user: TestClient[Any, Any], api: Api) -> None:
    """What a token would open can be asked, by whoever holds it, without using it."""
    for _ in range(2):
        answer = await user.get(PATH, params={"token": TOKEN})
        assert ((await answer.json())["server"], (await answer.json())["type"]) == ("web", "Serial")
    assert "status" not in api.objects[ConsoleSession]
    assert (await user.get(PATH)).status == 401
    assert (await user.get(PATH, headers={TOKEN_HEADER: "another"})).status == 403


async def test_a_plain_request_leaves_a_console_unused(user: TestClient[Any, Any], api: Api) -> None:
    """A serial console asked for as a page is refused, and its token stays good."""
    assert (await user.get(f"{PATH}/stream", headers=HEADERS)).status == 426
    assert "status" not in api.objects[ConsoleSession]


async def test_the_log_passes_what_it_is_asked(user: TestClient[Any, Any], api: Api) -> None:
    """How many lines, and whether it goes on, reach the agent; nothing else of the address does."""
    api.session(type="Log")
    answer = await user.get(f"{PATH}/stream", headers=HEADERS, params={"tail": "3", "token": "x"})
    assert await answer.text() == "the log [('tail', '3')]"


async def test_the_agents_words_reach_the_user(user: TestClient[Any, Any], api: Api) -> None:
    """Why a console was refused or closed at the host is told to its user."""
    api.session(type="VNC")
    with pytest.raises(aiohttp.WSServerHandshakeError) as error:
        await user.ws_connect(f"{PATH}/stream", headers=HEADERS)
    assert error.value.status == 409
    assert error.value.headers is not None
    assert unquote(error.value.headers[ERROR_HEADER]) == "the server is off: start it first"
    api.session(type="Serial")
    async with user.ws_connect(f"{PATH}/stream", headers=HEADERS) as console:
        await console.send_bytes(b"end")
        ended = await console.receive()
        assert (ended.type, ended.extra) == (WSMsgType.CLOSE, "another session has taken the console over")


async def test_another_certificate_is_not_the_agent(user: TestClient[Any, Any], api: Api) -> None:
    """Who answers at the agent's address without the agent's certificate gets no token and no user."""
    api.objects[Host]["status"]["console"]["certificate"] = "sha256:" + "0" * 64
    with pytest.raises(aiohttp.WSServerHandshakeError) as error:
        await user.ws_connect(f"{PATH}/stream", headers=HEADERS)
    assert error.value.status == 502
    assert error.value.headers is not None
    assert "another certificate" in unquote(error.value.headers[ERROR_HEADER])


async def test_a_deleted_session_closes_its_console(user: TestClient[Any, Any], api: Api, broker: Broker) -> None:
    """Deleting a session takes the console from its user."""
    watch = asyncio.create_task(Sweep(cast("KubeClient", api), broker, "kumulus-system").watch())
    async with asyncio.timeout(10), user.ws_connect(f"{PATH}/stream", headers=HEADERS) as console:
        await console.send_bytes(b"x")
        await console.receive()
        await api.delete(ConsoleSession, uid="u")
        ended = await console.receive()
        assert (ended.type, ended.extra) == (WSMsgType.CLOSE, "the session was deleted")
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)


async def test_only_sessions_that_are_over_are_swept(api: Api, broker: Broker) -> None:
    """A session goes when it has expired, or when the proxy that it was open through is gone; not before."""
    sweep, key = Sweep(cast("KubeClient", api), broker, "kumulus-system"), ("demo", "example")
    left = await sweep.reconcile(key)
    assert left is not None
    assert 0 < left <= 605
    api.objects[ConsoleSession]["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    assert await sweep.reconcile(key) is None
    assert ConsoleSession not in api.objects

    api.session()
    api.objects[ConsoleSession]["status"] = {"openedAt": "2026-01-01T00:00:00Z", "proxy": "pod-2"}
    api.objects[POD] = {}
    assert await sweep.reconcile(key) is None
    assert ConsoleSession in api.objects
    del api.objects[POD]
    await sweep.reconcile(key)
    assert ConsoleSession not in api.objects


async def test_pages_are_served_with_protection(user: TestClient[Any, Any]) -> None:
    """NoVNC and our page come from the proxy, and no other site may frame them or be loaded by them."""
    assert await (await user.get("/novnc/vnc.html")).text() == "noVNC"
    for page in ("/novnc/vnc.html", "/console.html", "/console.js"):
        answer = await user.get(page)
        assert answer.status == 200
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert (await (await user.get("/v1/about")).json())["url"] == "https://consoles.test"
