"""Good images of each format, a file of the host that nobody may open, and what the machine needs for both."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from kumulus_lab.testing.canary import Canary
from kumulus_lab.testing.disk_images import make_images


@pytest.fixture(scope="session", autouse=True)
def _able() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: namespaces")
    if shutil.which("qemu-img") is None:
        pytest.skip("needs qemu-img")


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same disk in each format, by name, and `raw`."""
    return make_images(tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="session")
def content(good: dict[str, Path]) -> dict[str, bytes]:
    """The bytes of these."""
    return {name: path.read_bytes() for name, path in good.items()}


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the host that hostile images name."""
    path = tmp_path_factory.mktemp("host") / "secret"
    path.write_bytes(b"root:x" * 4096)
    return path


@pytest.fixture
def canary(secret: Path) -> Iterator[Canary]:
    """Tells whether that file was opened."""
    with Canary(secret) as canary:
        yield canary
