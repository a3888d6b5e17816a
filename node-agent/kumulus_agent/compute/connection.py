"""A connection to libvirtd that comes back by itself."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import libvirt

from kumulus_agent.compute.errors import HypervisorUnavailable, translate
from kumulus_agent.compute.event_loop import ensure_event_loop

T = TypeVar("T")
LifecycleCallback = Callable[[str, int, int], None]

_log = logging.getLogger(__name__)
_KEEPALIVE_SECONDS: Final = 5
_KEEPALIVE_COUNT: Final = 3
_RETRY_FIRST: Final = 0.1
_RETRY_LAST: Final = 5.0


_DEVICE_EVENTS = (
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED,
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED,
    libvirt.VIR_DOMAIN_EVENT_ID_MEMORY_DEVICE_SIZE_CHANGE,
    libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE,
    libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2,
)


class Connection:
    """Opens libvirt, watches it, opens it again when it is lost.

    Args:
        uri: libvirt URI.
        on_lifecycle: called in the asyncio loop with (domain uuid, event, detail) of each lifecycle event.
        on_reconnect: called in the asyncio loop after each connection but the first; events were missed.
        workers: how many libvirt calls may run at once.
    """

    def __init__(
        self,
        uri: str,
        *,
        on_lifecycle: LifecycleCallback,
        on_reconnect: Callable[[], None],
        on_device: Callable[[str], None] = lambda _instance_id: None,
        workers: int = 8,
    ) -> None:
        self._uri = uri
        self._on_device = on_device
        self._on_lifecycle = on_lifecycle
        self._on_reconnect = on_reconnect
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="libvirt")
        self._conn: Any = None
        self._lost = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether libvirtd answered last."""
        return self._conn is not None

    async def open(self) -> None:
        """Connect and keep connected.

        Raises:
            HypervisorUnavailable: libvirtd is not there; nothing is kept, call again.
        """
        ensure_event_loop()
        self._loop = asyncio.get_running_loop()
        await self._connect()
        self._keeper = asyncio.create_task(self._keep(), name="libvirt-connection")

    async def close(self) -> None:
        """Close; guests keep running."""
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        conn, self._conn = self._conn, None
        if conn is not None:
            await self._in_thread(lambda: _discard(conn))
        self._executor.shutdown(wait=False)

    async def call(self, asked: str, function: Callable[[Any], T]) -> T:
        """Run ``function(virConnect)`` in the executor.

        Args:
            asked: what is tried, for error messages.
            function: blocking libvirt calls.

        Raises:
            HypervisorError: translated; see :mod:`kumulus_agent.compute.errors`.
        """
        conn = self._conn
        if conn is None:
            raise HypervisorUnavailable(f"{asked}: no connection to {self._uri}; it is being re-established")
        try:
            return await self._in_thread(lambda: function(conn))
        except libvirt.libvirtError as error:
            translated = translate(error, asked)
            if isinstance(translated, HypervisorUnavailable):
                await self._check(conn)
            raise translated from error

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function)

    async def _check(self, conn: Any) -> None:
        # An RPC error may come before the close callback, or from a connection that never had one.
        def alive() -> bool:
            try:
                return bool(conn.isAlive())
            except libvirt.libvirtError:
                return False

        if conn is self._conn and not await self._in_thread(alive):
            self._lost.set()

    async def _connect(self) -> None:
        try:
            self._conn = await self._in_thread(self._open)
        except libvirt.libvirtError as error:
            raise HypervisorUnavailable(f"open {self._uri}: libvirt says: {error}") from error

    def _open(self) -> Any:
        conn = libvirt.open(self._uri)
        try:
            # The in-process test driver has neither keepalive nor a socket to lose.
            if conn.setKeepAlive(_KEEPALIVE_SECONDS, _KEEPALIVE_COUNT) == 0:
                conn.registerCloseCallback(self._closed, None)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
                conn.close()
                raise
        conn.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle, None)
        for event in _DEVICE_EVENTS:
            conn.domainEventRegisterAny(None, event, self._device, None)
        return conn

    # The next three run in libvirt's event thread.

    def _closed(self, conn: Any, reason: int, _opaque: object) -> None:
        self._post(self._mark_lost, conn, reason)

    def _lifecycle(self, _conn: Any, domain: Any, event: int, detail: int, _opaque: object) -> None:
        self._post(self._on_lifecycle, domain.UUIDString(), event, detail)

    def _device(self, _conn: Any, domain: Any, *_of: object) -> None:
        self._post(self._on_device, domain.UUIDString())

    def _post(self, function: Callable[..., None], *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the asyncio loop has ended before the connection was closed
            self._loop.call_soon_threadsafe(function, *args)

    def _mark_lost(self, conn: Any, reason: int) -> None:
        _log.warning("the connection to libvirtd is closed (reason %d)", reason)
        if conn is self._conn:
            self._lost.set()

    async def _keep(self) -> None:
        while True:
            await self._lost.wait()
            old, self._conn = self._conn, None
            if old is not None:
                await self._in_thread(functools.partial(_discard, old))
            self._lost.clear()
            await self._reconnect()

    async def _reconnect(self) -> None:
        delay = _RETRY_FIRST
        while True:
            try:
                await self._connect()
            except HypervisorUnavailable:
                await asyncio.sleep(delay)
                delay = min(delay * 2, _RETRY_LAST)
            else:
                _log.info("connected to libvirtd again")
                self._on_reconnect()
                return


def _discard(conn: Any) -> None:
    """Close a connection that may be broken."""
    with contextlib.suppress(libvirt.libvirtError):
        conn.unregisterCloseCallback()
    with contextlib.suppress(libvirt.libvirtError):
        conn.close()
