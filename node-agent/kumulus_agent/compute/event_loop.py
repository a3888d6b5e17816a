"""libvirt's event loop, in one thread of the process.

libvirtaio would run it inside asyncio, but libvirt's client adds and changes its handles from whichever thread makes a
call, and asyncio's selectors may not be touched from another thread than their own: with calls in an executor that is a
data race. A thread of its own also answers keepalive while asyncio is busy.
"""

from __future__ import annotations

import logging
import threading

import libvirt

_log = logging.getLogger(__name__)
_start = threading.Lock()
_thread: threading.Thread | None = None


def ensure_event_loop() -> None:
    """Start the loop once per process; must be called before a connection is opened."""
    global _thread  # noqa: PLW0603 - libvirt's event implementation is itself a process-wide registration
    with _start:
        if _thread is not None:
            return
        libvirt.virEventRegisterDefaultImpl()
        # libvirt prints every error to stderr beside raising it.
        libvirt.registerErrorHandler(_silent, None)
        _thread = threading.Thread(target=_run, name="libvirt-events", daemon=True)
        _thread.start()


def _silent(_context: object, _error: object) -> None:
    return


def _run() -> None:
    while True:
        try:
            libvirt.virEventRunDefaultImpl()
        except libvirt.libvirtError as error:
            _log.warning("libvirt's event loop failed once: %s", error)
