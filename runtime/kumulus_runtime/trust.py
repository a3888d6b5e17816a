"""The certificates that the system trusts, in memory only where a connection needs them.

A TLS context that has read them takes most of a MiB, and those that libraries make beforehand are often never used.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _Unread(ssl.SSLContext):
    """A context that reads the system's certificates when the first connection is made with it."""

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        """Make a connection over buffers, as asyncio does."""
        return _read(self).wrap_bio(*args, **options)

    def wrap_socket(self, *args: Any, **options: Any) -> ssl.SSLSocket:
        """Make a connection over a socket."""
        return _read(self).wrap_socket(*args, **options)


def _put_off(context: ssl.SSLContext) -> None:
    context.__class__ = _Unread


def _read(context: ssl.SSLContext) -> ssl.SSLContext:
    """Make it the context that it would have been."""
    context.__class__ = ssl.SSLContext
    context.set_default_verify_paths()
    return context


@contextmanager
def read_when_used() -> Iterator[None]:
    """Contexts that are made meanwhile read the system's certificates when they are first used."""
    # Inherited from the class in C, and asked for by `load_default_certs` too.
    ssl.SSLContext.set_default_verify_paths = _put_off  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del ssl.SSLContext.set_default_verify_paths
