"""What tells that somebody wrote to a disk while it was read."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kumulus_agent.backups.marks import mark_of

BEFORE = 1_700_000_000_000_000_000


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A file that was written to long ago."""
    file = tmp_path / "root.qcow2"
    file.write_bytes(bytes(8192))
    os.utime(file, ns=(BEFORE, BEFORE))
    return file


def overwrite(file: Path) -> None:
    """Write within the file, as a guest does."""
    with file.open("r+b") as opened:
        opened.write(b"x")


def replace(file: Path) -> None:
    """Have another file of the same size and age in its place, as a rebuild may."""
    other = file.with_suffix(".part")
    other.write_bytes(bytes(8192))
    os.utime(other, ns=(BEFORE, BEFORE))
    other.replace(file)


def grow(file: Path) -> None:
    """Make it longer, and look as old as before."""
    os.truncate(file, 16384)
    os.utime(file, ns=(BEFORE, BEFORE))


@pytest.mark.parametrize("act", [overwrite, replace, grow])
def test_what_was_written_shows(disk: Path, act: Callable[[Path], None]) -> None:
    """A write, another file in its place and another length each give another mark."""
    before = mark_of(disk)
    act(disk)
    assert mark_of(disk) != before


def test_reading_leaves_it(disk: Path) -> None:
    """Who reads, or changes whose the file is, writes nothing."""
    before = mark_of(disk)
    disk.read_bytes()
    disk.chmod(0o600)
    assert mark_of(disk) == before


def test_an_absent_file_has_none(tmp_path: Path) -> None:
    """It is told as absent."""
    with pytest.raises(FileNotFoundError):
        mark_of(tmp_path / "none")
