"""What the user sees: one line a step, with the time it took."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

_CONSOLE = Console(highlight=False, soft_wrap=True)
_BEGUN = time.monotonic()


def say(text: str) -> None:
    """Print a line as it is."""
    _CONSOLE.print(text, markup=False)


def complain(text: str) -> None:
    """Print what went wrong to standard error."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(text, style="bold red", markup=False)


@contextmanager
def step(title: str) -> Iterator[None]:
    """Show that a step runs, then that it is done or has failed, with its seconds and those since the start."""
    begun = time.monotonic()
    _line("…", title, begun)
    try:
        yield
    except BaseException:
        _line("✗", title, begun)
        raise
    _line("✓", title, begun)


def _line(mark: str, title: str, begun: float) -> None:
    now = time.monotonic()
    took = "" if mark == "…" else f"{now - begun:7.1f} s"
    style = {"✓": "green", "✗": "red"}.get(mark, "dim")
    _CONSOLE.print(f"[{style}]{now - _BEGUN:7.1f} s {mark}[/] {title} [dim]{took}[/]".rstrip())
