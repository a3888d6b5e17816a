"""The proxy between a user who sends an image and the host that takes it, both real."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from structlog.testing import capture_logs

from kumulus_agent.consoles.certificate import HostCertificate, host_certificate
from kumulus_api import Host
from kumulus_api.console import ERROR_HEADER, TOKEN_HEADER
from kumulus_api.testing import make_object
from kumulus_api.upload_messages import Done, Offer, Refused, UploadRefusal, read_answer, wire
from kumulus_cli.image_file import ImageFile, UploadError
from kumulus_cli.sending import Sending
from kumulus_cli.session import SERVICE_PATH, Session
from kumulus_console.broker import Broker
from kumulus_console.server import Proxy
from kumulus_console.sweep import Sweep
from kumulus_lab.testing.uploading import TOKEN, UPLOAD_PATH, TakingHost, UploadApi, upload_proxy, uploaded_image

CONTENT = os.urandom((2 << 20) + 99)
DIGEST = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
HEADERS = {TOKEN_HEADER: TOKEN}


class Quiet:
    """Shows nothing."""

    def at(self, done: int) -> None:
        """Forget it."""

    def say(self, text: str) -> None:
        """Forget it."""


@dataclass
class Site:
    """A user, the proxy, a host, and their API server."""

    api: UploadApi
    host: TakingHost
    broker: Broker
    sweep: Sweep
    user: TestClient[Any, Any]
    file: Path

    async def send(self, sender: str = "s" * 32) -> Done | Refused:
        """Send the file as the plugin does."""
        with closing(ImageFile(self.file)) as file:
            async with asyncio.timeout(30), self.user.ws_connect(UPLOAD_PATH, headers=HEADERS) as socket:
                return await Sending(file, sender, Quiet()).talk(socket)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> HostCertificate:
    """The host's certificate."""
    return asyncio.run(host_certificate(tmp_path_factory.mktemp("console"), "h1"))


@pytest.fixture
async def site(tmp_path: Path, certificate: HostCertificate) -> AsyncIterator[Site]:
    """All of them."""
    file = tmp_path / "golden.raw"
    await asyncio.to_thread(file.write_bytes, CONTENT)
    api = UploadApi(uploaded_image())
    host = TakingHost(api, tmp_path / "agent")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(host.working())
        server = TestServer(host.application, scheme="https")
        await server.start_server(ssl=certificate.context())
        stack.push_async_callback(server.close)
        api.host = make_object(Host, "h1")
        url = f"https://127.0.0.1:{server.port}"
        api.host["status"] = {"console": {"url": url, "certificate": f"sha256:{certificate.fingerprint}"}}
        agents, broker, sweep = upload_proxy(api)
        stack.push_async_callback(agents.close)
        user = TestClient(TestServer(Proxy(broker, "", Path("/nowhere")).application()))
        yield Site(api, host, broker, sweep, await stack.enter_async_context(user), file)


async def test_an_image_goes_through(site: Site) -> None:
    """What a user sends is an image on the host, through a proxy that shows its own token to the host alone."""
    assert await site.send() == Done(digest=DIGEST)
    owned = await site.host.cache.owned("demo/golden")
    assert owned is not None
    assert await asyncio.to_thread(owned.path.read_bytes) == CONTENT


async def test_the_plugins_way_leads_there(site: Site) -> None:
    """Through the API server's service proxy, as the plugin reaches it, an image is sent as well."""
    outer = web.Application()
    outer.add_subapp(SERVICE_PATH, Proxy(site.broker, "", Path("/nowhere")).application())
    runner = web.AppRunner(outer)
    await runner.setup()
    with tempfile.TemporaryDirectory() as folder:
        socket = Path(folder) / "api"
        await web.UnixSite(runner, str(socket)).start()
        session = Session("demo", "example", "golden", TOKEN, "imageuploads")
        with closing(ImageFile(site.file)) as file:
            assert await Sending(file, "s" * 32, Quiet()).once(socket, session) == Done(digest=DIGEST)
        await runner.cleanup()


async def test_a_token_is_good_once(site: Site) -> None:
    """While an upload is open, its token opens no second one; nor does another's, or none; no token is in the log."""
    with capture_logs() as logs:
        async with site.user.ws_connect(UPLOAD_PATH, headers=HEADERS) as socket:
            await socket.send_bytes(wire(Offer(size=10, sender="s" * 32)))
            await socket.receive()
            for headers, status, word in (
                (HEADERS, 403, "used already"),
                ({TOKEN_HEADER: "another"}, 403, "opens no upload"),
                ({}, 401, "token is needed"),
            ):
                # In an address, where others may log it, no token counts.
                answer = await site.user.get(UPLOAD_PATH, headers=headers, params={"token": TOKEN})
                assert (answer.status, word in (await answer.json())["error"]) == (status, True)
    assert {"upload opened"} <= {entry["event"] for entry in logs}
    assert all(TOKEN not in str(entry) and "for-h1" not in str(entry) for entry in logs)


async def test_a_plain_request_leaves_the_token_unused(site: Site) -> None:
    """Asked for as a page, an upload is refused, and its token stays good."""
    assert (await site.user.get(UPLOAD_PATH, headers=HEADERS)).status == 426
    assert await site.send() == Done(digest=DIGEST)


async def test_the_hosts_words_reach_the_user(site: Site) -> None:
    """Why a host takes nothing, or takes nothing more, is told to who sends."""
    assert site.api.image is not None
    site.api.image["spec"]["source"]["upload"] = {"size": "5"}
    answer = await site.send()
    assert isinstance(answer, Refused)
    assert (answer.refused, "says 5" in answer.message) == (UploadRefusal.WRONG_SIZE, True)
    site.api.image["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
    with pytest.raises(aiohttp.WSServerHandshakeError) as error:
        await site.send()
    assert error.value.headers is not None
    assert (error.value.status, "whole" in error.value.headers[ERROR_HEADER]) == (409, True)


@pytest.mark.parametrize(
    ("change", "status", "word"),
    [
        (None, 404, "there is no image"),
        ({"metadata": {"uid": "n", "creationTimestamp": "2999-01-01T00:00:00Z"}}, 403, "another than the one"),
        ({"spec": {"source": {"url": "http://images.test/i"}}}, 409, "elsewhere"),
        ({"status": {}}, 409, "no host yet"),
    ],
)
async def test_only_an_image_that_waits_is_reached(
    site: Site, change: dict[str, Any] | None, status: int, word: str
) -> None:
    """A session opens the very image that it was made for, while that waits for its bytes, and keeps its token else."""
    site.api.image = None if change is None else uploaded_image() | change
    answer = await site.user.get(UPLOAD_PATH, headers=HEADERS)
    assert (answer.status, word in (await answer.json())["error"]) == (status, True)
    assert site.api.upload is not None
    assert "status" not in site.api.upload


async def test_a_deleted_session_ends_its_upload(site: Site) -> None:
    """Deleting an ImageUpload ends the sending, and the plugin does not begin again by itself."""
    with closing(ImageFile(site.file)) as file:
        async with asyncio.timeout(30), site.user.ws_connect(UPLOAD_PATH, headers=HEADERS) as socket:
            receive = socket.receive

            async def first(*rest: Any) -> Any:
                message = await receive(*rest)
                site.broker.close("u")
                return message

            socket.receive = first  # type: ignore[method-assign]
            with pytest.raises(UploadError, match="deleting its ImageUpload"):
                await Sending(file, "s" * 32, Quiet()).talk(socket)


async def test_only_uploads_that_are_over_are_swept(site: Site) -> None:
    """An ImageUpload goes when it has expired unused; one that is open here stays."""
    left = await site.sweep.reconcile(("demo", "example"))
    assert left is not None
    assert 0 < left <= 605
    async with site.user.ws_connect(UPLOAD_PATH, headers=HEADERS) as socket:
        await socket.send_bytes(wire(Offer(size=10, sender="s" * 32)))
        assert read_answer((await socket.receive()).data)
        assert await site.sweep.reconcile(("demo", "example")) is None
        assert site.api.upload is not None
        assert "status" in site.api.upload
