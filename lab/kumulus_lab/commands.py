"""Running tools: argument lists, a limit for each, errors that carry the tool's own words."""

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

from kumulus_lab.errors import CommandFailed, TimedOut

_LAST_LINES = 15


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    timeout: float = 60,
    check: bool = True,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a tool to its end and return its output as text.

    Args:
        argv: the command and its arguments; no shell is involved.
        timeout: seconds until the tool is killed.
        check: raise when the status is not 0.
        stdin: text for its standard input; without it the input is empty.
        env: variables put over those of this process.
        cwd: the folder to run in.

    Raises:
        CommandFailed: status other than 0 (if ``check``), or the tool is not installed.
        TimedOut: it ran longer than ``timeout``.
    """
    words = [os.fspath(word) for word in argv]
    shown = " ".join(words[:6])
    try:
        done = subprocess.run(
            words,
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            check=False,
        )
    except FileNotFoundError as error:
        raise CommandFailed(f"{words[0]!r} is not installed (wanted for: {shown})") from error
    except subprocess.TimeoutExpired as error:
        raise TimedOut(f"{shown!r} took longer than {timeout:.0f} s") from error
    if check and done.returncode != 0:
        said = "\n".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-_LAST_LINES:])
        raise CommandFailed(f"{shown!r} ended with status {done.returncode}: {said}")
    return done


def wait_until(condition: Callable[[], bool], *, what: str, limit: float, interval: float = 0.1) -> None:
    """Return as soon as ``condition()`` holds; ask every ``interval`` seconds.

    Raises:
        TimedOut: it did not hold within ``limit`` seconds; ``what`` completes "waited N s for ...".
    """
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() >= deadline:
            raise TimedOut(f"waited {limit:.0f} s for {what}")
        time.sleep(interval)
