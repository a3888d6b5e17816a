"""A server of disk images that misbehave, for the hosts to fetch from."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from aiohttp import web

from kumulus_lab import commands

_HUGE = 1 << 50


@dataclass(frozen=True)
class Origin:
    """A running server.

    Attributes:
        url: where it serves `/files/NAME`; `/cut/NAME` breaks the connection half-way and `/huge` claims a pebibyte.
        directory: its files.
    """

    url: str
    directory: Path

    async def make(self, name: str, *options: str) -> str:
        """Make an image with `qemu-img create OPTIONS`, `NAME` standing for its path, and give its URL."""
        path = str(self.directory / name)
        argv = ["qemu-img", "create", "-q", *(path if word == "NAME" else word for word in options)]
        await asyncio.to_thread(commands.run, argv)
        return self.file(name)

    def file(self, name: str) -> str:
        """Give the URL of a file."""
        return f"{self.url}/files/{name}"


@contextlib.asynccontextmanager
async def serve(address: str, directory: Path) -> AsyncIterator[Origin]:
    """Serve a folder on a free port of an address."""
    app = web.Application()
    app.router.add_static("/files", directory)
    app.router.add_get("/cut/{name}", partial(_cut, directory))
    app.router.add_get("/huge", _huge)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, address, 0).start()
        yield Origin(f"http://{address}:{runner.addresses[0][1]}", directory)
    finally:
        await runner.cleanup()


async def _cut(directory: Path, request: web.Request) -> web.StreamResponse:
    content = await asyncio.to_thread((directory / request.match_info["name"]).read_bytes)
    response = web.StreamResponse(headers={"ETag": '"cut"'})
    response.content_length = len(content)
    await response.prepare(request)
    await response.write(content[: len(content) // 2])
    return _break(request, response)


async def _huge(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    response.content_length = _HUGE
    await response.prepare(request)
    return _break(request, response)


def _break(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """Close the connection as a server does that stops: what was written arrives, the rest never comes."""
    if request.transport is not None:
        request.transport.close()
    return response
