"""The agent's side of consoles: who gets in, and what two who want the same line see."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import WSMsgType
from aiohttp.test_utils import TestClient, TestServer

from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.compute.state import PowerState
from kumulus_agent.consoles.callers import audience_of
from kumulus_agent.consoles.certificate import host_certificate
from kumulus_agent.consoles.server import Consoles
from kumulus_agent.settings import AgentSettings
from kumulus_api.console import ERROR_HEADER
from kumulus_runtime.api_client import KubeClient

INSTANCE = "00000000-0000-4000-8000-000000000001"
PROXY = "system:serviceaccount:kumulus-system:kumulus-console"
TOKENS = {
    "proxy": (PROXY, audience_of("h1")),
    "proxy-of-h2": (PROXY, audience_of("h2")),
    "agent": ("system:serviceaccount:kumulus-system:kumulus-agent", audience_of("h1")),
}
POWER = {"now": PowerState.RUNNING}


class Reviews:
    """An API server that reviews tokens and has nothing else."""

    async def create(self, _kind: object, body: dict[str, Any]) -> dict[str, Any]:
        """Review a token for the audiences that are asked about."""
        user, audience = TOKENS.get(body["spec"]["token"], ("", ""))
        good = audience in body["spec"]["audiences"]
        return {"status": {"authenticated": good, "audiences": [audience], "user": {"username": user}}}


class Guests:
    """A hypervisor with one guest."""

    async def get_instance(self, _instance: str) -> SimpleNamespace:
        """Give its state."""
        return SimpleNamespace(state=POWER["now"])


@pytest.fixture
def state() -> Iterator[Path]:
    """The agent's directory; the path of a unix socket has at most 107 bytes, so it is a short one."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture
def directory(state: Path) -> Path:
    """The guest's directory."""
    directory = state / "instances" / INSTANCE
    directory.mkdir(parents=True)
    return directory


@pytest.fixture
async def agent(state: Path, directory: Path) -> AsyncIterator[TestClient[Any, Any]]:
    """The agent's console server, and a caller."""
    POWER["now"] = PowerState.RUNNING
    settings = AgentSettings(node_name="h1", state_dir=state, system_namespace="kumulus-system")
    consoles = Consoles(settings, cast("KubeClient", Reviews()), cast("Hypervisor", Guests()))
    async with TestClient(TestServer(consoles.application())) as client:
        yield client


@pytest.fixture
async def line(directory: Path) -> AsyncIterator[None]:
    """A serial line as QEMU has it: it talks to one at a time and answers what it is told in capitals."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with alone:
            while data := await reader.read(100):
                writer.write(data.upper())
            writer.close()

    alone = asyncio.Lock()
    server = await asyncio.start_unix_server(talk, directory / "serial.sock")
    yield
    server.close()


def path(console: str, instance: str = INSTANCE) -> str:
    return f"/v1/instances/{instance}/{console}"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize("token", ["", "nobody", "agent", "proxy-of-h2"])
@pytest.mark.parametrize("console", ["vnc", "serial", "log"])
async def test_only_the_proxy_gets_in(agent: TestClient[Any, Any], token: str, console: str) -> None:
    """Without a token of the proxy for this very host no console is opened."""
    answer = await agent.get(path(console), headers=bearer(token) if token else {})
    assert answer.status == 401
    assert answer.headers[ERROR_HEADER]


async def test_the_log_is_given_whole_or_in_part(agent: TestClient[Any, Any], directory: Path) -> None:
    """The log comes as it is, or its last lines; before the first word of the guest it is empty."""

    async def log(**query: str) -> tuple[int, bytes]:
        answer = await agent.get(path("log"), headers=bearer("proxy"), params=query)
        return answer.status, await answer.read()

    assert await log() == (200, b"")
    (directory / "console.log").write_bytes(b"one\ntwo\n\xff\n")
    assert await log() == (200, b"one\ntwo\n\xff\n")
    assert await log(tail="2") == (200, b"two\n\xff\n")
    assert await log(tail="0") == (200, b"")
    assert (await log(tail="-1"))[0] == 400


async def test_a_log_is_followed_over_its_rotation(agent: TestClient[Any, Any], directory: Path) -> None:
    """Who follows a log sees what is there, what is added, and what is written after it was rotated."""
    log = directory / "console.log"
    log.write_bytes(b"one\n")
    answer = await agent.get(path("log"), headers=bearer("proxy"), params={"follow": "1"})
    async with asyncio.timeout(20):
        assert await answer.content.readline() == b"one\n"
        with log.open("ab") as file:
            file.write(b"two\n")
        assert await answer.content.readline() == b"two\n"
        log.rename(log.with_name("console.log.0"))
        log.write_bytes(b"three\n")
        assert await answer.content.readline() == b"three\n"
    answer.close()


@pytest.mark.usefixtures("line")
async def test_the_serial_line_is_taken_over(agent: TestClient[Any, Any]) -> None:
    """A second session gets the line at once, and the first is told why it has lost it."""
    async with (
        asyncio.timeout(20),
        agent.ws_connect(path("serial"), headers=bearer("proxy")) as first,
        agent.ws_connect(path("serial"), headers=bearer("proxy")) as second,
    ):
        ended = await first.receive()
        assert (ended.type, ended.extra) == (WSMsgType.CLOSE, "another session has taken the console over")
        await second.send_bytes(b"hello")
        assert (await second.receive()).data == b"HELLO"


@pytest.mark.parametrize(
    ("power", "instance", "status"),
    [
        (PowerState.OFF, INSTANCE, 409),
        (PowerState.RUNNING, INSTANCE, 409),
        (PowerState.RUNNING, INSTANCE.replace("1", "2"), 404),
        (PowerState.RUNNING, "etc", 404),
    ],
    ids=["off", "started by an older agent", "elsewhere", "no id"],
)
async def test_what_has_no_line_is_refused(
    agent: TestClient[Any, Any], power: PowerState, instance: str, status: int
) -> None:
    """A guest that is off, that has no serial socket or that is not here is refused with the reason."""
    POWER["now"] = power
    with pytest.raises(aiohttp.WSServerHandshakeError) as error:
        await agent.ws_connect(path("serial", instance), headers=bearer("proxy"))
    assert error.value.status == status
    assert error.value.headers is not None
    assert error.value.headers[ERROR_HEADER]


async def test_the_certificate_stays(tmp_path: Path) -> None:
    """An agent that starts again shows the certificate that its Host tells of; one that is damaged is replaced."""
    first = await host_certificate(tmp_path / "console", "h1")
    assert first.chain.stat().st_mode & 0o777 == 0o600
    assert await host_certificate(tmp_path / "console", "h1") == first
    first.chain.write_text("nothing")
    second = await host_certificate(tmp_path / "console", "h1")
    assert second.fingerprint != first.fingerprint
    second.context()
