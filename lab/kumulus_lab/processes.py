"""Background processes: started detached, found again by pid *and* start time, stopped and waited for.

A pid alone may have been given to another process since; together with its start time it is unique until reboot.
"""

import contextlib
import json
import os
import select
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kumulus_lab.errors import TimedOut

_START_TIME = 19
"""Field 22 of /proc/<pid>/stat, counted after the command in brackets."""


@dataclass(frozen=True)
class Daemon:
    """A background process as it should be.

    Attributes:
        name: names its files: ``<name>.pid`` and ``<name>.log``.
        argv: command and arguments; ``argv[0]`` is a path or is looked up on PATH.
        directory: where the two files lie.
        grace: seconds given between SIGTERM and SIGKILL.
    """

    name: str
    argv: tuple[str, ...]
    directory: Path
    grace: float = 20

    @property
    def pid_file(self) -> Path:
        """JSON: pid and start time."""
        return self.directory / f"{self.name}.pid"

    @property
    def log(self) -> Path:
        """Its standard output and error, over all of its starts."""
        return self.directory / f"{self.name}.log"


def start_time(pid: int) -> int | None:
    """Clock ticks after boot at which the process began; None if there is none or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in {"Z", "X"} else int(fields[_START_TIME])


def running(daemon: Daemon) -> int | None:
    """Its pid if it runs, whoever started it; None otherwise."""
    try:
        noted = json.loads(daemon.pid_file.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return noted["pid"] if start_time(noted["pid"]) == noted["start_time"] else None


def ensure_started(daemon: Daemon, env: Mapping[str, str] | None = None) -> int:
    """Start it unless it runs; return its pid. It outlives this process and has no terminal."""
    pid = running(daemon)
    if pid is not None:
        return pid
    daemon.directory.mkdir(parents=True, exist_ok=True)
    # Interrupted in between, a process would run that nobody knows of.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        pid = _spawn(daemon.argv, daemon.log, {**os.environ, **(env or {})})
        # A process that ended at once has no start time; 0 then never matches, and the caller's wait reports the log.
        daemon.pid_file.write_text(json.dumps({"pid": pid, "start_time": start_time(pid) or 0}))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


def _spawn(argv: Sequence[str], log: Path, env: Mapping[str, str]) -> int:
    """Start ``argv`` in a session of its own with its output appended to ``log``."""
    files = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return os.posix_spawnp(argv[0], list(argv), env, file_actions=files, setsid=True, setsigmask=())


def stop(daemon: Daemon, sig: signal.Signals = signal.SIGTERM) -> None:
    """Stop it and wait until it is gone; SIGKILL after its grace. Absent is success."""
    pid = running(daemon)
    if pid is not None:
        end(pid, sig, grace=daemon.grace)
    daemon.pid_file.unlink(missing_ok=True)


def stop_all(directory: Path) -> None:
    """Stop every daemon whose pid file lies in the folder itself, whoever planned it."""
    for pid_file in sorted(directory.glob("*.pid")):
        stop(Daemon(name=pid_file.stem, argv=(), directory=directory))


def end(pid: int, sig: signal.Signals, *, grace: float) -> None:
    """Send a signal and wait for the end; SIGKILL after ``grace`` seconds.

    Raises:
        TimedOut: it survived SIGKILL for ten seconds (it hangs in the kernel).
    """
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        for attempt, limit in ((sig, grace), (signal.SIGKILL, 10.0)):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, attempt)
            if _ended(handle, limit):
                _reap(pid)
                return
    finally:
        os.close(handle)
    raise TimedOut(f"process {pid} did not end within 10 s of SIGKILL")


def _ended(handle: int, limit: float) -> bool:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(limit * 1000))


def _reap(pid: int) -> None:
    """Collect the status if it was our child; another parent or init collects the others."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def tail(path: Path, lines: int = 10) -> str:
    """The last lines of a log, or a remark that there is none."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - 16384))
            text = log.read().decode(errors="replace")
    except FileNotFoundError:
        return f"({path} does not exist)"
    return "\n".join(text.splitlines()[-lines:])
