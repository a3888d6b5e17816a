"""The cache that labs and their tests share: who fills a part of it, does so alone."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kumulus_lab.progress import detail


@contextmanager
def locked(folder: Path) -> Iterator[Path]:
    """Make a folder of the cache and hold its lock: two that build the same at once only wait for each other."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            detail(f"waiting for another build in {folder}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
