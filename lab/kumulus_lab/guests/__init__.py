"""Guest images made here, and the server that hosts fetch them from."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import sys
from pathlib import Path

from kumulus_lab import commands, processes
from kumulus_lab.guests import debian, tiny, tiny_uefi
from kumulus_lab.processes import Daemon
from kumulus_lab.settings import LabSettings

PORT = 8098
_LIMIT = 20


def ensure(lab: LabSettings) -> str:
    """Have the tiny image served, building it where the cache lacks it.

    Returns:
        Its address, `http://<gateway>:8098/tiny.qcow2`.

    Raises:
        CommandFailed: a tool failed.
        TimedOut: the server does not answer.
    """
    return _serve(lab, tiny.build(lab.cache))


def ensure_debian(lab: LabSettings) -> str:
    """Have the Debian image served; building it takes minutes, so it is done when somebody wants it.

    Returns:
        Its address, `http://<gateway>:8098/debian.qcow2`.

    Raises:
        CommandFailed: a tool failed.
        TimedOut: the server does not answer.
    """
    return _serve(lab, debian.build(lab.cache))


def ensure_uefi(lab: LabSettings) -> str:
    """Have the tiny image that starts by UEFI served, building it where the cache lacks it.

    Returns:
        Its address, `http://<gateway>:8098/tiny-uefi.qcow2`.

    Raises:
        CommandFailed: a tool failed.
        TimedOut: the server does not answer.
    """
    return _serve(lab, tiny_uefi.build(lab.cache))


def _serve(lab: LabSettings, image: Path) -> str:
    served = lab.state / "www" / image.name
    served.parent.mkdir(parents=True, exist_ok=True)
    if not served.exists() or served.stat().st_mtime < image.stat().st_mtime:
        draft = served.with_suffix(".new")
        shutil.copy2(image, draft)
        draft.replace(served)
    processes.ensure_started(daemon(lab))
    url = f"http://{lab.gateway}:{PORT}/{served.name}"
    commands.wait_until(lambda: _answers(lab.gateway, served.name), what=url, limit=_LIMIT)
    return url


def _answers(address: str, name: str) -> bool:
    connection = http.client.HTTPConnection(address, PORT, timeout=5)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("HEAD", f"/{name}")
        return connection.getresponse().status == http.HTTPStatus.OK
    return False


def daemon(lab: LabSettings) -> Daemon:
    """The image server's process."""
    argv = (
        sys.executable, "-m", "kumulus_lab.guests.server",
        "--bind", lab.gateway, "--port", str(PORT), "--directory", str(lab.state / "www"),
    )  # fmt: skip
    return Daemon(name="image-server", argv=argv, directory=lab.state)
