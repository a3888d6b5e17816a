"""An image that comes as slowly as a test wants: a server of its own that holds downloads half-way."""

from __future__ import annotations

import asyncio
import os
from types import TracebackType
from typing import Self

from aiohttp import ClientSession, web

_CLUSTER = 1 << 16


class HeldImage:
    """Serves a copy of an image whose digest no host has seen yet.

    Args:
        original: URL of a qcow2 image; the copy has a cluster of random bytes more, which no guest sees.
        address: of the machine, to listen on.
    """

    def __init__(self, original: str, address: str) -> None:
        self._original = original
        self._address = address
        self._content = b""
        self._free = asyncio.Event()
        self._free.set()
        self._runner = web.AppRunner(self._application(), shutdown_timeout=1)
        self.requested = asyncio.Event()
        """Somebody has begun a download since `hold`."""
        self.url = ""

    async def __aenter__(self) -> Self:
        """Fetch the original and begin to serve."""
        async with ClientSession() as session, session.get(self._original) as response:
            response.raise_for_status()
            self._content = await response.read() + os.urandom(_CLUSTER)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._address, 0).start()
        self.url = f"http://{self._address}:{self._runner.addresses[0][1]}/held.qcow2"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let all downloads go on and stop serving."""
        self.release()
        await self._runner.cleanup()

    def hold(self) -> None:
        """Let downloads stop half-way from now on."""
        self.requested.clear()
        self._free.clear()

    def release(self) -> None:
        """Let them go on."""
        self._free.set()

    def _application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/held.qcow2", self._serve, allow_head=False)
        return application

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(self._content))})
        await response.prepare(request)
        half = len(self._content) // 2
        await response.write(self._content[:half])
        self.requested.set()
        await self._free.wait()
        await response.write(self._content[half:])
        return response
