"""`up` on machines that cannot carry a lab."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# The interpreter may lie where only root can look; this right alone makes nobody root.
READS_ALL = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
Up = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def up(tmp_path: Path) -> Up:
    """Run `up` for a lab of the test's own, with words put before the command; what it prints is returned."""

    def run(*before: str, state: Path = tmp_path / "state") -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(tmp_path),
            "KUMULUS_LAB_NAME": "tprereq",
            "KUMULUS_LAB_STATE": str(state),
            "KUMULUS_CACHE": str(tmp_path / "cache"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return subprocess.run(
            [*before, sys.executable, "-m", "kumulus_lab", "up"],
            capture_output=True, text=True, timeout=60, check=False, env=environment, cwd="/",
        )  # fmt: skip

    return run


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def findings(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines of the refusal; there must be no traceback, and no step after the first."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "control plane" not in done.stdout
    return done.stderr.splitlines()


def test_a_plain_user_is_told_in_one_line(up: Up, tmp_path: Path) -> None:
    """Who is not root learns so in one line, and nothing is made."""
    (line,) = findings(up("setpriv", "--reuid=65534", "--clear-groups", *READS_ALL))
    assert line.startswith("not root")
    assert not (tmp_path / "state").exists()


def test_a_small_disk_is_named_with_its_size(up: Up, small_disk: Path) -> None:
    """Too little room is one line that says how much there is, where, and how much is needed."""
    (line,) = findings(up(state=small_disk / "state"))
    assert f"GiB free at {small_disk / 'state'}" in line
    assert "15 GiB needed" in line
    assert not (small_disk / "state").exists()


def test_missing_namespaces_are_named(up: Up, tmp_path: Path) -> None:
    """Where the kernel grants no network namespace, one line says so and what would help."""
    without = 'echo 0 >/proc/sys/user/max_net_namespaces && exec "$@"'
    lines = findings(up("unshare", "--user", "--map-root-user", "sh", "-c", without, "sh"))
    assert len(lines) == 1
    assert "namespaces or bridges cannot be made" in lines[0]
    assert not (tmp_path / "state").exists()
