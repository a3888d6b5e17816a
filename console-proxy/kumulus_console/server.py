"""What the proxy serves.

* `GET /v1/namespaces/{namespace}/consolesessions/{name}`: what a token would open, without using it;
* `GET …/{name}/stream`: the console: a WebSocket for VNC and Serial, a text for Log (`?tail=LINES&follow=1`),
  also as `…/stream/{token}` where no header can be set;
* `GET /v1/namespaces/{namespace}/imageuploads/{name}/stream`: a WebSocket that takes an image's bytes;
* `GET /v1/about`: where browsers reach the proxy;
* `/console.html#NAMESPACE/SESSION/TOKEN` and `/novnc/`: a screen in the browser.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import structlog
from aiohttp import web

from kumulus_api.console import ERROR_HEADER, TOKEN_HEADER, ConsoleType
from kumulus_api.upload_messages import LONGEST_MESSAGE, SESSION_DELETED
from kumulus_console.broker import Broker, Opening, UploadOpening
from kumulus_console.relay import relay
from kumulus_console.sessions import Refusal, expires
from kumulus_runtime.api_client import ApiError

_log = structlog.stdlib.get_logger(__name__)
_HEARTBEAT = 30.0
_PAGES = Path(__file__).with_name("pages")
_PROTECTION = {
    "Content-Security-Policy": "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:;"
    " style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Proxy:
    """Answers users.

    Args:
        broker: opens consoles.
        url: where browsers reach us; empty if only the API server's service proxy leads here.
        novnc: the directory of noVNC's files.
    """

    def __init__(self, broker: Broker, url: str, novnc: Path) -> None:
        self._broker = broker
        self._url = url.rstrip("/")
        self._novnc = novnc

    def application(self) -> web.Application:
        """Give the web application."""
        app = web.Application(middlewares=[_told])
        session = "/v1/namespaces/{namespace}/consolesessions/{name}"
        app.router.add_get(session, self._look)
        app.router.add_get(f"{session}/stream", self._stream)
        # A browser's WebSocket has no headers to set, and the API server's service proxy drops its query.
        app.router.add_get(f"{session}/stream/{{token}}", self._stream)
        app.router.add_get("/v1/namespaces/{namespace}/imageuploads/{name}/stream", self._upload)
        app.router.add_get("/v1/about", self._about)
        app.router.add_get("/console.html", _page("console.html", "text/html"))
        app.router.add_get("/console.js", _page("console.js", "text/javascript"))
        if self._novnc.is_dir():
            app.router.add_static("/novnc/", self._novnc)
        return app

    async def _about(self, _request: web.Request) -> web.Response:
        return web.json_response({"url": self._url})

    async def _look(self, request: web.Request) -> web.Response:
        opening = await self._broker.look(*_asked(request))
        spec = opening.session.spec
        return web.json_response(
            {"server": spec.server.name, "type": spec.type.value, "expires": expires(opening.session).isoformat()}
        )

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        opening = await self._broker.look(*_asked(request))
        text = opening.session.spec.type is ConsoleType.LOG
        if not text and request.headers.get("Upgrade", "").lower() != "websocket":
            raise Refusal(HTTPStatus.UPGRADE_REQUIRED, "this console is a WebSocket")
        async with self._broker.used(opening):
            return await (self._log if text else self._socket)(request, opening)

    async def _socket(self, request: web.Request, opening: Opening) -> web.StreamResponse:
        console = opening.session.spec.type.value.lower()
        agent = await self._broker.agents.socket(opening.endpoint, opening.target, console)
        user = web.WebSocketResponse(heartbeat=_HEARTBEAT, protocols=("binary",), compress=False)
        try:
            await user.prepare(request)
            await self._held(opening, relay(user, agent))
        finally:
            await agent.close()
        return user

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        namespace, name, _ = _asked(request)
        opening = await self._broker.look_upload(namespace, name, request.headers.get(TOKEN_HEADER, ""))
        if request.headers.get("Upgrade", "").lower() != "websocket":
            raise Refusal(HTTPStatus.UPGRADE_REQUIRED, "an upload is a WebSocket: kubectl kumulus image upload")
        async with self._broker.used(opening):
            agent = await self._broker.agents.open(opening.endpoint, opening.host, opening.path)
            user = web.WebSocketResponse(
                heartbeat=_HEARTBEAT, protocols=("binary",), max_msg_size=LONGEST_MESSAGE, compress=False
            )
            try:
                await user.prepare(request)
                await self._held(opening, relay(user, agent))
            finally:
                await agent.close()
            return user

    async def _log(self, request: web.Request, opening: Opening) -> web.StreamResponse:
        query = {name: request.query[name] for name in ("tail", "follow") if name in request.query}
        answer = await self._broker.agents.log(opening.endpoint, opening.target, query)
        try:
            response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8", **_PROTECTION})
            await response.prepare(request)
            await self._held(opening, _copy(answer, response))
        finally:
            answer.close()
        return response

    async def _held(self, opening: Opening | UploadOpening, talk: Coroutine[Any, Any, None]) -> None:
        """Have a console known as open while it is."""
        uid = opening.session.metadata.uid
        if uid not in self._broker.held:
            talk.close()
            raise Refusal(HTTPStatus.FORBIDDEN, SESSION_DELETED)
        task = self._broker.open[uid] = asyncio.create_task(talk)
        try:
            await asyncio.wait({task})
        finally:
            del self._broker.open[uid]
            task.cancel("the console proxy is stopping")
        if not task.cancelled():
            task.result()


async def _copy(answer: aiohttp.ClientResponse, response: web.StreamResponse) -> None:
    async for chunk in answer.content.iter_any():
        await response.write(chunk)
    await response.write_eof()


@web.middleware
async def _told(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer what is refused with its reason, and everything else with the headers that protect a page."""
    try:
        response = await handler(request)
    except Refusal as refusal:
        return _error(refusal.status, str(refusal))
    except ApiError as error:
        _log.warning("console not served", error=str(error))
        return _error(HTTPStatus.SERVICE_UNAVAILABLE, "the API server cannot be asked now: try again")
    if not response.prepared:
        response.headers.update(_PROTECTION)
    return response


def _error(status: HTTPStatus, message: str) -> web.Response:
    headers = {ERROR_HEADER: quote(message, safe=" :;,()'/"), **_PROTECTION}
    return web.json_response({"error": message}, status=int(status), headers=headers)


def _asked(request: web.Request) -> tuple[str, str, str]:
    asked = request.match_info
    token = request.headers.get(TOKEN_HEADER) or asked.get("token") or request.query.get("token", "")
    return asked["namespace"], asked["name"], token


def _page(name: str, content_type: str) -> Handler:
    async def give(_request: web.Request) -> web.StreamResponse:
        text = await asyncio.to_thread((_PAGES / name).read_text)
        return web.Response(text=text, content_type=content_type)

    return give
