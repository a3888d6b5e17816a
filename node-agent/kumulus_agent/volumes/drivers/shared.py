"""Volumes in a folder that all hosts mount, for the guests of any.

The administrator writes the file `MARKER` into what is shared, with the name of the class in it. A host that has not
mounted it sees its own empty folder without the file, and one that has mounted another share finds another name:
neither makes or removes anything.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from kumulus_agent.volumes.drivers.files import Files
from kumulus_agent.volumes.drivers.folder import FolderDriver
from kumulus_agent.volumes.drivers.protocol import NotShared, VolumeDriver

MARKER: Final = "kumulus-volume-class"
_VOLUMES: Final = "volumes"
_LONGEST: Final = 1024


def shared_driver(folder: Path, volume_class: str, files: Files | None = None) -> VolumeDriver:
    """Give the driver of a class of shared volumes.

    Args:
        folder: where the share is mounted, the same on all hosts.
        volume_class: name of the class.
        files: what changes files.
    """
    return FolderDriver(folder / _VOLUMES, files, lambda: check_shared(folder, volume_class))


def check_shared(folder: Path, volume_class: str) -> None:
    """Check that a folder is the share of a class.

    Raises:
        NotShared: it is not.
    """
    marker = folder / MARKER
    try:
        with marker.open("rb") as file:
            said = file.read(_LONGEST).decode(errors="replace").strip()
    except OSError as error:
        raise NotShared(
            f"{folder} is not the share of volume class {volume_class}: {marker} cannot be read ({error.strerror}); "
            "mount the share on this host, and write the name of the class into that file once"
        ) from error
    if said != volume_class:
        raise NotShared(
            f"{folder} is not the share of volume class {volume_class}: {marker} says {said!r}; mount the right one"
        )
