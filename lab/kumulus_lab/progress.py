"""What the user sees: a line for each step with the time it took and, on a terminal, a bar while it runs."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

_CONSOLE = Console(highlight=False, soft_wrap=True)
_BEGUN = time.monotonic()


class _Bar:
    """The line that a terminal shows below the finished steps: which step runs, since when, how many are done."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._task = TaskID(0)

    @property
    def shown(self) -> bool:
        """Whether there is such a line now."""
        return self._progress is not None

    @contextmanager
    def over(self, steps: int) -> Iterator[None]:
        """Show it for the length of a ``with`` block, if standard output is a terminal."""
        if not _CONSOLE.is_terminal or self.shown:
            yield
            return
        columns = (SpinnerColumn(), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn())
        texts = (TextColumn("{task.description}"), TextColumn("[dim]{task.fields[detail]}"))
        with Progress(*columns, *texts, console=_CONSOLE, transient=True) as progress:
            self._progress, self._task = progress, progress.add_task("", total=steps, detail="")
            try:
                yield
            finally:
                self._progress = None

    def begin(self, title: str) -> None:
        """Show the step that runs."""
        if self._progress is not None:
            self._progress.update(self._task, description=title, detail="")

    def tell(self, detail: str) -> None:
        """Show what the step is at."""
        if self._progress is not None:
            self._progress.update(self._task, detail=detail)

    def advance(self) -> None:
        """One step more is done."""
        if self._progress is not None:
            self._progress.advance(self._task)


_BAR = _Bar()
bar = _BAR.over


def say(text: str) -> None:
    """Print a line as it is."""
    _CONSOLE.print(text, markup=False)


def detail(text: str) -> None:
    """Tell what the step is at: beside the bar on a terminal, as a line of its own elsewhere."""
    if _BAR.shown:
        _BAR.tell(text)
    else:
        _line("·", text)


def complain(text: str) -> None:
    """Print what went wrong to standard error."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(text, style="bold red", markup=False)


@contextmanager
def step(title: str) -> Iterator[None]:
    """Show that a step runs, then that it is done or has failed, with its seconds and those since the start."""
    begun = time.monotonic()
    if _BAR.shown:
        _BAR.begin(title)
    else:
        _line("…", title)
    try:
        yield
    except BaseException:
        _line("✗", title, begun)
        raise
    _line("✓", title, begun)
    _BAR.advance()


def _line(mark: str, title: str, begun: float | None = None) -> None:
    now = time.monotonic()
    took = "" if begun is None else f"  {now - begun:.1f} s"
    style = {"✓": "green", "✗": "red"}.get(mark, "dim")
    _CONSOLE.print(f"[{style}]{now - _BEGUN:7.1f} s {mark}[/] {title}[dim]{took}[/]")
