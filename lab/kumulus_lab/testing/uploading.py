"""A host that takes uploads, and the proxy before it: both real, with an API server that has one Image.

As a program it is one of the two: `host DIRECTORY` and `proxy URL FINGERPRINT` print in one line of JSON where they
listen, and serve until standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from aiohttp import web

from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.consoles.callers import audience_of
from kumulus_agent.consoles.certificate import host_certificate
from kumulus_agent.consoles.server import Consoles
from kumulus_agent.images.controller import ImageController
from kumulus_agent.images.upload_server import PATH, UploadServer
from kumulus_agent.images.uploads import Uploads
from kumulus_agent.settings import AgentSettings
from kumulus_agent.storage.image_cache import CachedImage
from kumulus_agent.storage.image_store import ImageStore, owner_of
from kumulus_api import Host, Image, ImageUpload, Kind
from kumulus_api.console import token_hash
from kumulus_api.testing import make_object
from kumulus_console.agents import Agents
from kumulus_console.broker import Broker
from kumulus_console.server import Proxy
from kumulus_console.sweep import Sweep
from kumulus_runtime.api_client import TOKENREVIEW, KubeClient
from kumulus_runtime.conditions import get_condition
from kumulus_runtime.errors import Conflict, NotFound
from kumulus_runtime.events import EventRecorder
from kumulus_runtime.store import Store
from kumulus_runtime.workqueue import WorkQueue

Object = dict[str, Any]
Key = tuple[str, str]
KEY: Key = ("demo", "golden")
UID = "00000000-0000-4000-8000-0000000000aa"
NODE = "h1"
TOKEN = "a-token"  # noqa: S105 - of an API server that is none
UPLOAD_PATH = "/v1/namespaces/demo/imageuploads/example/stream"
_SHOWN = "for-h1"
_PROXY = "system:serviceaccount:kumulus-system:kumulus-console"


def uploaded_image(node: str = NODE, **spec: Any) -> Object:
    """Give an Image that waits for its bytes on a host."""
    body = make_object(Image, KEY[1], **{"source": {"upload": {}}, "format": "raw", "checksum": None} | spec)
    body["metadata"] |= {"uid": UID, "generation": 1, "creationTimestamp": "2026-01-01T00:00:00Z"}
    body["status"] = {"importHost": node, "conditions": []}
    return body


class UploadApi:
    """An API server that has one Image, one Host and one ImageUpload, which is fresh whenever it was used."""

    def __init__(self, image: Object, host: Object | None = None) -> None:
        self.image: Object | None = image
        self.host = host
        self.upload: Object | None = self.fresh()
        self.changed = asyncio.Event()
        self.told: list[tuple[str, str]] = []

    def fresh(self) -> Object:
        """Give an ImageUpload that nobody has used."""
        body = make_object(ImageUpload, image={"name": KEY[1]}, tokenHash=token_hash(TOKEN))
        made = datetime.now(UTC).isoformat(timespec="seconds")
        body["metadata"] |= {"creationTimestamp": made, "uid": "u", "resourceVersion": "1"}
        return body

    async def get(self, kind: object, *_: object) -> Object | None:
        """Give the object of a kind."""
        found = {Image: self.image, Host: self.host, ImageUpload: self.upload}.get(cast("type[Kind]", kind))
        return json.loads(json.dumps(found)) if found is not None else None

    async def create(self, kind: object, body: Object) -> Object:
        """Review a token."""
        good = kind is TOKENREVIEW and body["spec"]["token"] == _SHOWN
        return {"status": {"authenticated": good, "audiences": [audience_of(NODE)], "user": {"username": _PROXY}}}

    async def request(self, *_: object) -> Object:
        """Give the proxy its token for the host."""
        return {"status": {"token": _SHOWN}}

    async def update(self, _kind: object, body: Object, *, subresource: str) -> Object:
        """Mark the ImageUpload as used."""
        if self.upload is None or "status" in self.upload:
            raise Conflict(409, "Conflict", "somebody was faster")
        self.upload[subresource] = body[subresource]
        return body

    async def delete(self, *_: object, **__: object) -> bool:
        """Have the ImageUpload gone, and another in its place."""
        self.upload = self.fresh()
        return True

    async def apply_status(self, _kind: object, body: Object, *, manager: str) -> Object:
        """Take what the agent says of the Image."""
        if self.image is None:
            raise NotFound(404, "NotFound", f"there is no image for {manager}")
        self.image["status"] = self.image["status"] | body["status"]
        ready = get_condition(body["status"]["conditions"], "Ready") or {}
        self.told.append((ready["reason"], ready["message"]))
        self.changed.set()
        return json.loads(json.dumps(self.image))  # type: ignore[no-any-return]


class _NoEvents:
    def post(self, *_: object, **__: object) -> None:
        """Forget it."""


class TakingHost:
    """The part of an agent that takes uploads.

    Args:
        api: the API server.
        directory: the agent's.
        idle: seconds after which a silent sender is sent away.
        most: bytes that an image may have.
    """

    def __init__(self, api: UploadApi, directory: Path, *, idle: float = 20.0, most: int = 1 << 40) -> None:
        client = cast("KubeClient", api)
        settings = AgentSettings(node_name=NODE, state_dir=directory, system_namespace="kumulus-system")
        self.api, self.store = api, Store()
        self.cache = ImageStore(directory / "images", 1 << 40)
        self.queue: WorkQueue[Key] = WorkQueue("images")
        self.held: list[Key] = []
        self.kept_before_told: list[bool] = []
        add = self.queue.add
        self.uploads = Uploads(self.cache, NODE, add, add, self.held.append)
        events = cast("EventRecorder", _NoEvents())
        self.images = ImageController(settings, client, self.store, self.cache, events, self.uploads, self._stored)
        server = UploadServer(client, NODE, self.uploads, most, idle)
        self.application = Consoles(settings, client, cast("Hypervisor", None), {PATH: server.take}).application()

    async def _stored(self, _body: Object, image: CachedImage) -> None:
        self.kept_before_told.append(image.digest in (await self.cache.kept()).get(owner_of(KEY), set()))

    def see(self, event: str = "MODIFIED") -> None:
        """Have the watch say what the Image is now."""
        if self.api.image is not None:
            self.store.apply(event, {"kind": "Image"} | self.api.image)
        self.queue.add(KEY)

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Reconcile while the block runs."""
        self.see("ADDED")
        work = asyncio.create_task(self.queue.run(self.images.reconcile, 1))
        try:
            yield
        finally:
            self.queue.stop()
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            await self.cache.close()


async def _host(directory: Path) -> None:
    host = TakingHost(UploadApi(uploaded_image()), directory)
    certificate = await host_certificate(directory / "console", NODE)
    async with host.working():
        await _serve(host.application, fingerprint=certificate.fingerprint, context=certificate.context())


async def _proxy(url: str, fingerprint: str) -> None:
    host = make_object(Host, NODE)
    host["status"] = {"console": {"url": url, "certificate": f"sha256:{fingerprint}"}}
    api = UploadApi(uploaded_image(), host)
    agents = Agents(cast("KubeClient", api), "kumulus-system", "kumulus-console")
    proxy = Proxy(Broker(cast("KubeClient", api), agents, "pod-1"), "", Path("/nowhere"))
    try:
        await _serve(proxy.application())
    finally:
        await agents.close()


async def _serve(application: web.Application, fingerprint: str = "", context: Any = None) -> None:
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    sys.stdout.write(json.dumps({"port": runner.addresses[0][1], "fingerprint": fingerprint}) + "\n")
    sys.stdout.flush()
    with suppress(OSError):
        await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


def upload_proxy(api: UploadApi) -> tuple[Agents, Broker, Sweep]:
    """Give a proxy's parts before an API server."""
    client = cast("KubeClient", api)
    agents = Agents(client, "kumulus-system", "kumulus-console")
    broker = Broker(client, agents, "pod-1")
    return agents, broker, Sweep(client, broker, "kumulus-system", ImageUpload)


if __name__ == "__main__":
    asyncio.run(_host(Path(sys.argv[2])) if sys.argv[1] == "host" else _proxy(*sys.argv[2:]))
