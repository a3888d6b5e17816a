"""Mediated devices: made and removed through sysfs (blocking)."""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path

from kumulus_agent.passthrough.facts import SYSFS, Mediated


def ensure(device: Mediated, sysfs: Path = SYSFS) -> None:
    """Have a mediated device; there already is success.

    Raises:
        OSError: its driver makes none, or no more of them.
    """
    if (sysfs / "bus/mdev/devices" / device.uuid).exists():
        return
    kind = sysfs / "class/mdev_bus" / device.parent / "mdev_supported_types" / device.type
    (kind / "create").write_text(device.uuid)


def absent(uuid: str, sysfs: Path = SYSFS) -> None:
    """Remove a mediated device that no guest has any more; absent is success.

    Raises:
        OSError: it is in use.
    """
    try:
        with contextlib.suppress(FileNotFoundError):
            (sysfs / "bus/mdev/devices" / uuid / "remove").write_text("1")
    except OSError as error:
        if error.errno != errno.ENODEV:  # it went meanwhile
            raise
