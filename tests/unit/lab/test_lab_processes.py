import json
import os
import signal
import time

import pytest

from kumulus_lab import commands, processes
from kumulus_lab.errors import CommandFailed, TimedOut
from kumulus_lab.processes import Daemon


@pytest.fixture
def sleeper(tmp_path):
    """A daemon that would run for a minute; it is gone after the test."""
    daemon = Daemon(name="sleeper", argv=("sleep", "60"), directory=tmp_path, grace=5)
    yield daemon
    processes.stop(daemon, signal.SIGKILL)


def test_second_start_adopts_the_first(sleeper):
    """Starting what runs changes nothing."""
    assert processes.ensure_started(sleeper) == processes.ensure_started(sleeper)


def test_stop_waits_for_the_end(sleeper):
    """When stop returns, the process is gone, and stopping again is success."""
    pid = processes.ensure_started(sleeper)
    processes.stop(sleeper)
    assert processes.start_time(pid) is None
    processes.stop(sleeper)


def test_every_daemon_of_a_folder_can_be_stopped(sleeper):
    """A folder's daemons are stopped by their pid files alone."""
    pid = processes.ensure_started(sleeper)
    processes.stop_all(sleeper.directory)
    assert processes.start_time(pid) is None


def test_stubborn_process_is_killed_after_its_grace(tmp_path):
    """A process that ignores SIGTERM is killed when its grace is over."""
    ready = tmp_path / "ready"
    script = (
        "import signal, time, pathlib; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        f"pathlib.Path({str(ready)!r}).touch(); time.sleep(60)"
    )
    daemon = Daemon(name="stubborn", argv=("python3", "-c", script), directory=tmp_path, grace=0.2)
    pid = processes.ensure_started(daemon)
    commands.wait_until(ready.exists, what="the script", limit=10)
    processes.stop(daemon)
    assert processes.start_time(pid) is None


def test_another_process_with_the_same_pid_is_not_ours(sleeper):
    """A pid whose start time differs is neither adopted nor stopped."""
    sleeper.pid_file.write_text(json.dumps({"pid": os.getpid(), "start_time": 1}))
    assert processes.running(sleeper) is None
    processes.stop(sleeper)


def test_output_goes_to_the_log(tmp_path):
    """Both streams of a daemon end up in its log, and tail shows the last lines."""
    daemon = Daemon(
        name="talker", argv=("python3", "-c", "import sys; print('a', flush=True); sys.exit('b')"), directory=tmp_path
    )
    processes.ensure_started(daemon)
    commands.wait_until(lambda: "b" in processes.tail(daemon.log), what="its output", limit=10)
    assert processes.tail(daemon.log, lines=1) == "b"
    processes.stop(daemon)


def test_failed_command_carries_the_tools_words():
    """An error of a tool holds its status and what it said."""
    with pytest.raises(CommandFailed, match=r"status 3: no such luck"):
        commands.run(["python3", "-c", "import sys; sys.stderr.write('no such luck'); sys.exit(3)"])


def test_absent_tool_is_named():
    """A tool that is not installed is named in the error."""
    with pytest.raises(CommandFailed, match="'no-such-tool' is not installed"):
        commands.run(["no-such-tool"])


def test_waiting_has_a_limit():
    """A wait ends at its limit and says what it waited for."""
    begun = time.monotonic()
    with pytest.raises(TimedOut, match="for the impossible"):
        commands.wait_until(lambda: False, what="the impossible", limit=0.2, interval=0.01)
    assert time.monotonic() - begun < 2
