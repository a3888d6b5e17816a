"""What the plugin says when a console cannot be had."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiohttp import web

from kumulus_api.console import ERROR_HEADER
from kumulus_cli import stream

NOBODY = 'no endpoints available for service "https:kumulus-console:https"'
FORBIDDEN = 'services "kumulus-console" is forbidden: User "eve" cannot get resource "services/proxy"'


@pytest.mark.parametrize(
    ("status", "headers", "message", "said"),
    [
        (503, {}, NOBODY, f"the console proxy does not answer ({NOBODY}): see `kubectl get pods"),
        (503, {ERROR_HEADER: "host h1 does not answer"}, "", "host h1 does not answer"),
        (403, {}, FORBIDDEN, FORBIDDEN),
        (500, {}, "", "the console proxy does not answer (status 500): see `kubectl get pods"),
    ],
)
async def test_who_refused_and_why_is_told(
    tmp_path: Path, status: int, headers: dict[str, str], message: str, said: str
) -> None:
    """The proxy's own words are told as they are; that nobody is behind the API server comes with what to look at."""

    async def refuse(_: web.Request) -> web.Response:
        return web.json_response({"kind": "Status", "message": message}, status=status, headers=headers)

    server = web.Application()
    server.router.add_get("/{path:.*}", refuse)
    runner = web.AppRunner(server)
    await runner.setup()
    socket = tmp_path / "api"
    await web.UnixSite(runner, str(socket)).start()
    try:
        with pytest.raises(stream.ConsoleError) as raised:
            await stream.about(socket)
    finally:
        await runner.cleanup()
    assert str(raised.value).startswith(said)
