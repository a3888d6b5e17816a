"""Whether a directory's file system takes O_DIRECT."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Literal


def cache_mode(directory: Path) -> Literal["none", "writeback"]:
    """Return QEMU's cache mode for disks in ``directory``.

    ``none`` needs O_DIRECT, which some file systems (tmpfs, some overlays) refuse; those get ``writeback``.
    """
    descriptor, name = tempfile.mkstemp(dir=directory, prefix=".direct-io-")
    os.close(descriptor)
    try:
        os.close(os.open(name, os.O_RDWR | os.O_DIRECT))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return "writeback"
    finally:
        Path(name).unlink()
    return "none"
