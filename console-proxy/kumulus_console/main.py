"""The console proxy's process."""

from __future__ import annotations

import asyncio
import ssl

from aiohttp import web

from kumulus_api import ImageUpload
from kumulus_console.agents import Agents
from kumulus_console.broker import Broker
from kumulus_console.server import Proxy
from kumulus_console.settings import ConsoleSettings
from kumulus_console.sweep import Sweep
from kumulus_runtime import logs, metrics_server, process
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.certificates.issuing import context_of, issue_apart, server_context


def main() -> None:
    """Run until a signal; the exit code tells whether it ended well."""
    settings = ConsoleSettings.read("kumulus-console")
    logs.configure(settings.log_format, settings.log_level)

    async def run(stop: asyncio.Event) -> None:
        await serve(settings, stop)

    raise SystemExit(process.run(run, grace=settings.shutdown_seconds))


async def serve(settings: ConsoleSettings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set."""
    async with await KubeClient.connect("kumulus-console") as client:
        agents = Agents(client, settings.system_namespace, settings.service_account)
        broker = Broker(client, agents, settings.pod)
        sweep = Sweep(client, broker, settings.system_namespace)
        uploads = Sweep(client, broker, settings.system_namespace, ImageUpload)
        proxy = Proxy(broker, settings.url, settings.novnc_dir)
        listening = asyncio.Event()

        def ready() -> str | None:
            return None if listening.is_set() else "it does not listen yet"

        tasks = [
            asyncio.create_task(_listen(settings, proxy, listening)),
            asyncio.create_task(metrics_server.serve(settings.metrics_port, ready_checks={"console": ready})),
            asyncio.create_task(sweep.watch()),
            asyncio.create_task(sweep.queue.run(sweep.reconcile, 2)),
            asyncio.create_task(uploads.watch()),
            asyncio.create_task(uploads.queue.run(uploads.reconcile, 2)),
        ]
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            sweep.queue.stop()
            uploads.queue.stop()
            for ending in (*tasks, stopping):
                ending.cancel()
            await asyncio.gather(*tasks, stopping, return_exceptions=True)
            await agents.close()


async def _listen(settings: ConsoleSettings, proxy: Proxy, listening: asyncio.Event) -> None:
    runner = web.AppRunner(proxy.application(), access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, None, settings.port, ssl_context=await _context(settings)).start()
        if settings.http_port:
            await web.TCPSite(runner, None, settings.http_port).start()
        listening.set()
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


async def _context(settings: ConsoleSettings) -> ssl.SSLContext:
    if settings.certificate_dir is not None:
        return context_of(settings.certificate_dir / "tls.crt", settings.certificate_dir / "tls.key")
    service, namespace = settings.service, settings.system_namespace
    return server_context(await issue_apart([f"{service}.{namespace}.svc", f"{service}.{namespace}.svc.cluster.local"]))


if __name__ == "__main__":
    main()
