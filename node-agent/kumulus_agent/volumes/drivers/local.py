"""Volumes in a folder of the host, for its own guests."""

from __future__ import annotations

from pathlib import Path

from kumulus_agent.volumes.drivers.files import Files
from kumulus_agent.volumes.drivers.folder import FolderDriver


def local_driver(root: Path, files: Files | None = None) -> FolderDriver:
    """Give the driver of the host's own volumes.

    Args:
        root: their folder, which is made if it is absent.
        files: what changes files.
    """
    return FolderDriver(root, files)
