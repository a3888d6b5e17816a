"""A file system of its own in a file, small enough to be filled, and to be left as a loss of power leaves it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

_FILLER: Final = ".filler"


@dataclass(frozen=True)
class SmallDisk:
    """A mounted file system.

    Attributes:
        file: that it is in.
        device: loop device.
        path: where it is mounted.
    """

    file: Path
    device: str
    path: Path

    def fill(self, leave: int) -> None:
        """Take all room but so many bytes."""
        found = os.statvfs(self.path)
        with (self.path / _FILLER).open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, found.f_bavail * found.f_frsize - leave))

    def empty(self) -> None:
        """Give it back."""
        (self.path / _FILLER).unlink()


def make_file_system(file: Path, size: int) -> None:
    """Make a file with an empty ext4 in it, all of which may be used."""
    for tool in ("mkfs.ext4", "losetup"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
    with file.open("wb") as made:
        made.truncate(size)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=0", str(file)], check=True)


@contextmanager
def mounted(file: Path, path: Path, options: str = "defaults") -> Iterator[SmallDisk]:
    """Mount a file system that is in a file, for as long as the block runs."""
    if os.geteuid() != 0:
        pytest.skip("needs root: loop devices")
    path.mkdir(parents=True, exist_ok=True)
    found = subprocess.run(["losetup", "--find", "--show", str(file)], capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip(f"needs a loop device: {found.stderr.strip()}")
    device = found.stdout.strip()
    try:
        subprocess.run(["mount", "-t", "ext4", "-o", options, device, str(path)], check=True)
        try:
            yield SmallDisk(file, device, path)
        finally:
            # First, as the file system stays where somebody has copied our mounts into a namespace of his own.
            subprocess.run(["sync", "--file-system", str(path)], check=True)
            subprocess.run(["umount", str(path)], check=True)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[SmallDisk]:
    """Have a new one, mounted below a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    make_file_system(folder / "disk.img", size)
    with mounted(folder / "disk.img", folder / "disk") as made:
        yield made
