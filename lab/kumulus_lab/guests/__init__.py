"""Guest images made here, and the server that hosts fetch them from."""

from __future__ import annotations

import shutil
import sys

from kumulus_lab import commands, processes
from kumulus_lab.guests import tiny
from kumulus_lab.processes import Daemon
from kumulus_lab.settings import LabSettings

PORT = 8098
_LIMIT = 20


def ensure(lab: LabSettings) -> None:
    """Have the tiny image served at `http://<gateway>:8098/tiny.qcow2`, building it where the cache lacks it.

    Raises:
        CommandFailed: a tool failed.
        TimedOut: the server does not answer.
    """
    directory = lab.state / "www"
    directory.mkdir(parents=True, exist_ok=True)
    image, served = tiny.build(lab.cache), directory / "tiny.qcow2"
    if not served.exists() or served.stat().st_mtime < image.stat().st_mtime:
        draft = served.with_suffix(".new")
        shutil.copy2(image, draft)
        draft.replace(served)
    processes.ensure_started(daemon(lab))
    url = f"http://{lab.gateway}:{PORT}/{served.name}"
    probe = ["curl", "--silent", "--fail", "--head", "--output", "/dev/null", "--noproxy", "*", url]
    commands.wait_until(lambda: commands.run(probe, check=False).returncode == 0, what=url, limit=_LIMIT)


def daemon(lab: LabSettings) -> Daemon:
    """The image server's process."""
    argv = (
        sys.executable, "-m", "kumulus_lab.guests.server",
        "--bind", lab.gateway, "--port", str(PORT), "--directory", str(lab.state / "www"),
    )  # fmt: skip
    return Daemon(name="image-server", argv=argv, directory=lab.state)
