"""New qcow2 files that are written here are what qemu-img would have made, and QEMU finds nothing wrong with them."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kumulus_agent.storage.overlay import write_overlay

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")

_OF_THE_HOST = ("filename", "actual-size", "full-backing-filename", "children", "dirty-flag")


def qemu_img(*arguments: str) -> str:
    """Run qemu-img."""
    return subprocess.run(["qemu-img", *arguments], check=True, capture_output=True, text=True, timeout=30).stdout


def info(path: Path) -> dict[str, Any]:
    """Give what QEMU knows of a file, but what differs from file to file."""
    found = json.loads(qemu_img("info", "--output=json", str(path)))
    return {name: value for name, value in found.items() if name not in _OF_THE_HOST}


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (512 << 20) + 1, 10 << 30, 64 << 40])
@pytest.mark.parametrize("base", ["raw", "qcow2", ""])
def test_a_new_file_is_as_qemu_img_makes_it(tmp_path: Path, size: int, base: str) -> None:
    """Size, features and the file below are the same, and a check finds nothing: no leak, no wrong count."""
    below, options = None, []
    if base:
        qemu_img("create", "-q", "-f", base, str(tmp_path / "below"), "1M")
        below, options = (tmp_path / "below", base), ["-F", base, "-b", str(tmp_path / "below")]
    qemu_img("create", "-q", "-f", "qcow2", "-o", "compat=1.1", *options, str(tmp_path / "theirs"), str(size))
    write_overlay(tmp_path / "ours", size, below)
    assert info(tmp_path / "ours") == info(tmp_path / "theirs")
    checked = json.loads(qemu_img("check", "--output=json", str(tmp_path / "ours")))
    assert {name: checked.get(name, 0) for name in ("check-errors", "leaks", "corruptions")} == {
        "check-errors": 0,
        "leaks": 0,
        "corruptions": 0,
    }


@pytest.mark.skipif(shutil.which("qemu-io") is None, reason="needs qemu-io")
def test_what_is_written_to_a_new_file_is_read_back(tmp_path: Path) -> None:
    """At its begin, across entries of L1 and at its end; elsewhere it reads as the file below, and stays sound."""
    size, below, path = 3 << 30, tmp_path / "below", tmp_path / "ours"
    below.write_bytes(b"\x11" * (1 << 20))
    write_overlay(path, size, (below, "raw"))
    places = (0, (512 << 20) - 4096, size - 8192)
    commands = [part for place in places for part in ("-c", f"write -P 0x22 {place} 8k")]
    reads = [part for place in places for part in ("-c", f"read -P 0x22 {place} 8k")]
    untouched = ["-c", "read -P 0x11 8k 1016k", "-c", "read -P 0 1M 1M"]
    done = subprocess.run(
        ["qemu-io", "-f", "qcow2", *commands, *reads, *untouched, str(path)],
        check=True, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert "verification failed" not in done.stdout
    assert json.loads(qemu_img("check", "--output=json", str(path))).get("corruptions", 0) == 0


def test_what_the_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    """Larger than 64 TiB, or a path below it of more than 1023 bytes: nothing is written."""
    with pytest.raises(ValueError, match="may have 70368744177664"):
        write_overlay(tmp_path / "ours", (64 << 40) + 1, None)
    with pytest.raises(ValueError, match="may have 1023"):
        write_overlay(tmp_path / "ours", 1 << 20, (Path("/" + "x" * 1023), "raw"))
    assert list(tmp_path.iterdir()) == []
