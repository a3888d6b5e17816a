"""Where the tests' own labs lie."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder of the test's own on a disk: where /tmp is memory it may be too small for a lab."""
    with tempfile.TemporaryDirectory(prefix="kumulus-test-", dir="/var/tmp") as folder:
        yield Path(folder)
