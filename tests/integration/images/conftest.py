"""A real S3 server on loopback."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kumulus_lab.testing.s3_server import S3Server


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A running S3 server."""
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server
