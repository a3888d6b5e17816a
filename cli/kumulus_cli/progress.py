"""How far an upload is: a bar in a terminal, else a line for each tenth."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from kumulus_cli.sending import Show


class Lines:
    """A line for each tenth, and for all that happens.

    Args:
        size: bytes of the file.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._tenths = 0

    def at(self, done: int) -> None:
        """So many bytes of the file are there."""
        tenths = 10 * done // self._size
        if tenths != self._tenths:
            self.say(f"{done} of {self._size} bytes ({10 * tenths} %)")
        self._tenths = tenths

    def say(self, text: str) -> None:
        """Something has happened."""
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


class Bar:
    """A bar, with what happens above it.

    Args:
        progress: of rich, running.
        name: of the image.
        size: bytes of the file.
    """

    def __init__(self, progress: Progress, name: str, size: int) -> None:
        self._progress = progress
        self._task = progress.add_task(name, total=size)

    def at(self, done: int) -> None:
        """So many bytes of the file are there."""
        self._progress.update(self._task, completed=done)

    def say(self, text: str) -> None:
        """Something has happened."""
        self._progress.console.print(text, markup=False, highlight=False)


@contextlib.contextmanager
def shown(name: str, size: int) -> Iterator[Show]:
    """Show how far it is while the block runs."""
    console = Console()
    if not console.is_terminal:
        yield Lines(size)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
    with Progress(*columns, TransferSpeedColumn(), TimeRemainingColumn(), console=console) as progress:
        yield Bar(progress, name, size)
