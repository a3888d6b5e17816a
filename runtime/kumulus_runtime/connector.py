"""The pool of connections to the API server, whose end leaves no socket open."""

import asyncio
import socket
from typing import Any
from weakref import WeakSet

import aiohttp
from kubernetes.aio.client.rest import RESTClientObject

# Each looks at all sockets once; two are enough for one that was shut.
_PASSES = 100


class Connector(aiohttp.TCPConnector):
    """Closes also the connections of requests that were given up.

    To those aiohttp says goodbye, and waits for no answer (TLS's close_notify): who ends the loop at once leaves their
    sockets to the garbage collector. Takes what ``aiohttp.TCPConnector`` does.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(socket_factory=self._open, **options)
        self._sockets: WeakSet[socket.socket] = WeakSet()

    def _open(self, address: Any) -> socket.socket:
        family, kind, protocol, *_ = address
        made = socket.socket(family, kind, protocol)
        self._sockets.add(made)
        return made

    async def close(self, *, abort_ssl: bool = False) -> None:
        """Close all connections, and return when their sockets are closed."""
        await super().close(abort_ssl=abort_ssl)
        for left in self._left():
            try:
                left.shutdown(socket.SHUT_RDWR)
            except OSError:  # it was not connected, or is not any more
                continue
        for _ in range(_PASSES):
            if not self._left():
                return
            await asyncio.sleep(0)

    def _left(self) -> list[socket.socket]:
        return [each for each in self._sockets if each.fileno() != -1]


class RestClient(RESTClientObject):
    """The library's client over such a pool."""

    def _create_connector(self) -> aiohttp.TCPConnector:
        return Connector(limit=self.maxsize, ssl=self.ssl_context)
