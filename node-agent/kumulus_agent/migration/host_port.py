"""What this host's agent offers to those of other hosts, all behind one TCP port and one certificate."""

from __future__ import annotations

import asyncio
import math
import ssl
import time
from collections.abc import Iterable
from typing import Final

from kumulus_agent.migration.channels import Channel, Denied, Hello
from kumulus_agent.migration.credentials import Contexts, Credentials
from kumulus_agent.migration.listener import Admit, Listener, Serve
from kumulus_runtime.api_client import ApiError

_FRESH_SECONDS: Final = 5.0
"""How long the context of one connection serves the next ones: strangers cannot make us ask the API server often."""


class HostPort:
    """Listens while somebody has said that he needs it.

    Args:
        address: where.
        port: TCP.
        credentials: by which hosts know each other.
    """

    def __init__(self, address: str, port: int, credentials: Credentials) -> None:
        self.port = port
        self._credentials = credentials
        self._admits: dict[Channel, Admit] = {}
        self._needs: set[str] = set()
        self._changing = asyncio.Lock()
        self._read_at = -math.inf
        self._known: ssl.SSLContext | None = None
        self._listener = Listener(address, port, self._admit)

    async def contexts(self) -> Contexts:
        """Give the TLS contexts of this host.

        Raises:
            NoCredentials: the operator does not make a certificate out.
            ApiError: the API server does not answer.
        """
        return await self._credentials.contexts()

    def serve(self, channels: Iterable[Channel], admit: Admit) -> None:
        """Have connections of these channels judged."""
        self._admits |= dict.fromkeys(channels, admit)

    async def need(self, who: str) -> None:
        """Have the port open until `release`.

        Raises:
            NoCredentials, ApiError: as of `contexts`.
            OSError: the port cannot be had.
        """
        async with self._changing:
            # Whoever comes because of this may have a certificate that is newer than what we knew.
            self._read_at = -math.inf
            await self._context()
            await self._listener.open(self._context)
            self._needs.add(who)

    async def release(self, who: str) -> None:
        """Need the port no more; it is closed when nobody does."""
        async with self._changing:
            if who in self._needs:
                self._needs.discard(who)
                if not self._needs:
                    await self._listener.close()

    async def end(self, uid: str) -> None:
        """End the connections of one migration."""
        await self._listener.end(uid)

    async def close(self) -> None:
        """Listen no more."""
        self._needs.clear()
        await self._listener.close()

    async def _context(self) -> ssl.SSLContext:
        if self._known is None or time.monotonic() - self._read_at > _FRESH_SECONDS:
            try:
                self._known = (await self.contexts()).server
                self._read_at = time.monotonic()
            except ApiError:
                if self._known is None:  # else what goes on between hosts does not wait for the API server
                    raise
        return self._known

    async def _admit(self, peer: str, hello: Hello) -> Serve:
        admit = self._admits.get(hello.channel)
        if admit is None or not peer:
            raise Denied(f"{hello.channel} is not served here")
        return await admit(peer, hello)
