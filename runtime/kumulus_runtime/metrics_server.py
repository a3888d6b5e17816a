"""The HTTP endpoint for Prometheus and for the kubelet's probes."""

import asyncio
from collections.abc import Callable, Mapping
from types import MappingProxyType

import structlog
from aiohttp import web
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.exposition import choose_encoder

_log = structlog.stdlib.get_logger(__name__)

# None if all is well, else what is wrong.
Check = Callable[[], str | None]


async def serve(
    port: int,
    health_checks: Mapping[str, Check] | None = None,
    ready_checks: Mapping[str, Check] | None = None,
    *,
    host: str | None = None,
    registry: CollectorRegistry = REGISTRY,
    notes: Mapping[str, Callable[[], str]] | None = None,
) -> None:
    """Serve until cancelled.

    ``/metrics`` is collected in a thread, because collectors may ask the hypervisor. ``/healthz`` answers 503 and
    what is wrong if a health check fails: the kubelet restarts the process. ``/readyz`` asks both kinds of checks.

    Args:
        port: TCP port; 0 takes a free one and logs it.
        health_checks: by name.
        ready_checks: by name.
        host: address to bind; None means all.
        registry: what is exported.
        notes: what else ``/readyz`` tells to people, by name.
    """
    app = build_app(health_checks or {}, ready_checks or {}, registry, notes or {})
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        _log.info("metrics served", addresses=[str(address) for address in runner.addresses])
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def build_app(
    health_checks: Mapping[str, Check],
    ready_checks: Mapping[str, Check],
    registry: CollectorRegistry = REGISTRY,
    notes: Mapping[str, Callable[[], str]] = MappingProxyType({}),
) -> web.Application:
    """The application that `serve` serves."""

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        body = await asyncio.to_thread(encode, registry)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def healthz(_request: web.Request) -> web.Response:
        return _answer(health_checks)

    async def readyz(_request: web.Request) -> web.Response:
        return _answer({**health_checks, **ready_checks}, notes)

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics), web.get("/healthz", healthz), web.get("/readyz", readyz)])
    return app


def _answer(checks: Mapping[str, Check], notes: Mapping[str, Callable[[], str]] = MappingProxyType({})) -> web.Response:
    troubles = {name: trouble for name, check in checks.items() if (trouble := check()) is not None}
    if not troubles:
        return web.Response(text="ok\n" + "".join(f"{name}: {note()}\n" for name, note in sorted(notes.items())))
    return web.Response(status=503, text="".join(f"{name}: {trouble}\n" for name, trouble in sorted(troubles.items())))
