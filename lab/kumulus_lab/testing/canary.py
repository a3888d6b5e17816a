"""Files of the host that nobody has a reason to open, and a word of the kernel when somebody does."""

from __future__ import annotations

import ctypes
import os
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Final

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_ACCESS, _OPEN = 0x1, 0x20


class Canary(AbstractContextManager["Canary"]):
    """Watches files by their inodes: it sees whoever opens them, in whatever namespace and by whatever name.

    Args:
        paths: the files.
    """

    def __init__(self, *paths: Path) -> None:
        self._descriptor = _LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        for path in paths:
            if _LIBC.inotify_add_watch(self._descriptor, str(path).encode(), _ACCESS | _OPEN) < 0:
                raise OSError(ctypes.get_errno(), f"inotify_add_watch {path}")

    def sung(self) -> bool:
        """Give whether one was opened since the last time that this was asked."""
        try:
            return bool(os.read(self._descriptor, 65536))
        except BlockingIOError:
            return False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Watch no more."""
        os.close(self._descriptor)
