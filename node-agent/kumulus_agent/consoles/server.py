"""The TLS server of this host's consoles: screen and serial line as WebSockets, the log as a text.

GET /v1/instances/{id}/vnc       WebSocket: the guest's screen (RFB, RFC 6143)
GET /v1/instances/{id}/serial    WebSocket: the guest's serial line; a later one takes it over
GET /v1/instances/{id}/log       ?tail=LINES&follow=1

What else the console proxy alone may ask of this host is served beside them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote
from weakref import WeakValueDictionary

import structlog
from aiohttp import web

from kumulus_agent.compute.errors import HypervisorError
from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.compute.state import PowerState
from kumulus_agent.consoles.callers import Callers, Refused
from kumulus_agent.consoles.certificate import HostCertificate, host_certificate
from kumulus_agent.consoles.log import console_log, followed
from kumulus_agent.consoles.relay import TAKEN, relay
from kumulus_agent.servers.instance_files import InstanceFiles, instance_files
from kumulus_agent.settings import AgentSettings
from kumulus_api.console import ERROR_HEADER
from kumulus_api.host import ConsoleEndpoint
from kumulus_runtime.api_client import ApiError, KubeClient

_log = structlog.stdlib.get_logger(__name__)
_HEARTBEAT = 30.0
_RETRY_SECONDS = 5.0
_CONNECT_SECONDS = 5.0
_ON = frozenset({PowerState.RUNNING, PowerState.PAUSED, PowerState.STOPPING})
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Plain = Callable[[web.Request], Awaitable[web.StreamResponse]]
_Handler = Callable[["Consoles", web.Request, InstanceFiles], Awaitable[web.StreamResponse]]


class Unavailable(Exception):
    """A console that cannot be had now; the text says why."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class Consoles:
    """Serves the consoles of the instances here.

    Args:
        settings: of the process.
        client: to ask the API server who calls.
        hypervisor: where the guests are.
        beside: what else the console proxy may ask for, by path.
    """

    def __init__(
        self, settings: AgentSettings, client: KubeClient, hypervisor: Hypervisor, beside: Mapping[str, Plain] = {}
    ) -> None:
        self._beside = beside
        self._settings = settings
        self._hypervisor = hypervisor
        self._callers = Callers(client, settings.node_name, settings.console_proxy)
        self._serial: dict[str, asyncio.Task[web.WebSocketResponse]] = {}
        self._opening: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._certificate: HostCertificate | None = None

    async def prepare(self) -> ConsoleEndpoint | None:
        """Have a certificate, and give where consoles will be served; None where no certificate can be made."""
        try:
            self._certificate = await host_certificate(self._settings.state_dir / "console", self._settings.node_name)
        except (OSError, RuntimeError, TimeoutError) as error:
            _log.error("consoles cannot be served: no certificate", error=str(error))
            return None
        address = self._settings.node_ip or self._settings.node_name
        host = f"[{address}]" if ":" in address else address
        return ConsoleEndpoint(
            url=f"https://{host}:{self._settings.console_port}", certificate=f"sha256:{self._certificate.fingerprint}"
        )

    async def run(self) -> None:
        """Serve until cancelled."""
        if self._certificate is None:
            await asyncio.Event().wait()
            return
        runner = web.AppRunner(self.application(), access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            context = self._certificate.context()
            while True:
                site = web.TCPSite(
                    runner, self._settings.node_ip or None, self._settings.console_port, ssl_context=context
                )
                try:
                    await site.start()
                    await asyncio.Event().wait()
                except OSError as error:
                    _log.error("consoles cannot be served", error=str(error), retry_in=_RETRY_SECONDS)
                    await asyncio.sleep(_RETRY_SECONDS)
        finally:
            await runner.cleanup()

    def application(self) -> web.Application:
        """Give the web application."""
        app = web.Application()
        for name, handler in (("vnc", Consoles._vnc), ("serial", Consoles._line), ("log", Consoles._text)):
            app.router.add_get(f"/v1/instances/{{instance}}/{name}", self._guarded(self._of_instance(handler)))
        for path, plain in self._beside.items():
            app.router.add_get(path, self._guarded(plain))
        return app

    def _of_instance(self, handler: _Handler) -> Plain:
        async def handle(request: web.Request) -> web.StreamResponse:
            return await handler(self, request, self._files(request.match_info["instance"]))

        return handle

    def _guarded(self, handler: Plain) -> Plain:
        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                await self._callers.check(request.headers.get("Authorization", ""))
                return await handler(request)
            except Refused as refused:
                _log.warning("console refused", peer=request.remote, why=str(refused))
                return _error(HTTPStatus.UNAUTHORIZED, str(refused))
            except Unavailable as unavailable:
                return _error(unavailable.status, str(unavailable))
            except ApiError as error:
                return _error(HTTPStatus.SERVICE_UNAVAILABLE, f"the API server cannot be asked who calls: {error}")
            except HypervisorError as error:
                return _error(HTTPStatus.SERVICE_UNAVAILABLE, str(error))

        return handle

    def _files(self, instance: str) -> InstanceFiles:
        try:
            files = instance_files(self._settings.instances_dir, instance)
        except ValueError:
            raise Unavailable(HTTPStatus.NOT_FOUND, "that is no instance id") from None
        if not files.exist():
            raise Unavailable(HTTPStatus.NOT_FOUND, f"instance {instance} is not on host {self._settings.node_name}")
        return files

    async def _vnc(self, request: web.Request, files: InstanceFiles) -> web.StreamResponse:
        instance = files.directory.name
        await self._must_run(instance)
        screen = await self._hypervisor.open_screen(instance)
        screen.setblocking(False)
        return await self._end(await self._talk(request, await asyncio.open_unix_connection(sock=screen)))

    async def _line(self, request: web.Request, files: InstanceFiles) -> web.StreamResponse:
        instance = files.directory.name
        await self._must_run(instance)
        lock = self._opening.setdefault(instance, asyncio.Lock())
        async with lock:
            former = self._serial.pop(instance, None)
            if former is not None:
                # QEMU talks to one at a time; the next would wait in its queue without a word.
                former.cancel(TAKEN)
                await asyncio.wait({former})
            talk = self._serial[instance] = await self._talk(request, await _connect(files.serial_socket))
        return await self._end(talk, instance)

    async def _must_run(self, instance: str) -> None:
        state = await self._hypervisor.get_instance(instance)
        if state is None or state.state not in _ON:
            now = "has no guest" if state is None else f"is {state.state.value}"
            raise Unavailable(HTTPStatus.CONFLICT, f"the server {now}: start it first")

    async def _talk(self, request: web.Request, streams: Streams) -> asyncio.Task[web.WebSocketResponse]:
        socket = web.WebSocketResponse(heartbeat=_HEARTBEAT, protocols=("binary",), compress=False)
        try:
            await socket.prepare(request)
        except BaseException:
            streams[1].close()
            raise
        return asyncio.create_task(relay(socket, *streams))

    async def _end(self, talk: asyncio.Task[web.WebSocketResponse], instance: str = "") -> web.StreamResponse:
        try:
            await asyncio.wait({talk})
        finally:
            talk.cancel("the agent is stopping")
            if self._serial.get(instance) is talk:
                del self._serial[instance]
        return talk.result()

    async def _text(self, request: web.Request, files: InstanceFiles) -> web.StreamResponse:
        tail = request.query.get("tail")
        if tail is not None and not (tail.isascii() and tail.isdigit() and len(tail) < 10):
            raise Unavailable(HTTPStatus.BAD_REQUEST, f"tail is {tail!r}: a number of lines is wanted")
        lines = None if tail is None else int(tail)
        response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
        if request.query.get("follow") != "1":
            text = await asyncio.to_thread(_kept, files.console_log, lines)
            return web.Response(body=text, headers=response.headers)
        await response.prepare(request)
        async for chunk in followed(files.console_log, lines):
            await response.write(chunk)
        return response


async def _connect(path: Path) -> Streams:
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            return await asyncio.open_unix_connection(path)
    except FileNotFoundError:
        raise Unavailable(
            HTTPStatus.CONFLICT, "the server was started before hosts had serial consoles: stop it and start it again"
        ) from None
    except (OSError, TimeoutError) as error:
        raise Unavailable(HTTPStatus.CONFLICT, f"the serial console does not answer: {error}") from error


def _kept(log: Path, lines: int | None) -> bytes:
    return b"" if lines == 0 else console_log(log, lines or 0)


def _error(status: HTTPStatus, message: str) -> web.Response:
    return web.json_response({"error": message}, status=int(status), headers={ERROR_HEADER: quote(message)})
