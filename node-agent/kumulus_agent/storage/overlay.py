"""New qcow2 files without data, written here: qemu-img takes a process, three threads and five flushes for each.

The format is docs/interop/qcow2.txt of QEMU, version 3 with the features that every QEMU of that version knows. Four
things lie in clusters of 64 KiB: the header with the name of the file below, a table of one block of reference counts,
that block, and the table of the guest's clusters (L1), which is empty: all is read from the file below.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Final

_CLUSTER_BITS: Final = 16
_CLUSTER: Final = 1 << _CLUSTER_BITS
_MAPPED: Final = _CLUSTER * (_CLUSTER // 8)
"""Bytes of the guest's disk behind one entry of L1, whose table of clusters fills a cluster."""
_REFCOUNT_TABLE: Final = 1 * _CLUSTER
_REFCOUNT_BLOCK: Final = 2 * _CLUSTER
_L1: Final = 3 * _CLUSTER
_HEADER: Final = struct.Struct(">4sIQIIQIIQQIIQQQQII")
_BACKING_FORMAT: Final = 0xE2792ACA
_LONGEST_NAME: Final = 1023
_LARGEST: Final = 64 << 40


def write_overlay(path: Path, size: int, below: tuple[Path, str] | None) -> None:
    """Write a qcow2 file that has nothing yet, in the place of what is there; it is not flushed. Blocks.

    Args:
        path: the file.
        size: bytes of the guest's disk, rounded up to whole sectors.
        below: the file that it lies on and its format; None for a blank disk.

    Raises:
        ValueError: a size or a name that the format does not allow.
        OSError: it could not be written.
    """
    size = -(-size // 512) * 512
    entries = -(-size // _MAPPED)
    clusters = -(-entries * 8 // _CLUSTER)
    first = _first_cluster(size, entries, below)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    with os.fdopen(descriptor, "wb") as file:
        file.write(first)
        file.seek(_REFCOUNT_TABLE)
        file.write(struct.pack(">Q", _REFCOUNT_BLOCK))
        file.seek(_REFCOUNT_BLOCK)
        file.write(struct.pack(">H", 1) * (3 + clusters))
        file.truncate(_L1 + clusters * _CLUSTER)


def _first_cluster(size: int, entries: int, below: tuple[Path, str] | None) -> bytes:
    """Give the header, its extensions and the name of the file below."""
    if not 0 <= size <= _LARGEST:
        raise ValueError(f"a disk of {size} bytes was asked for: it may have {_LARGEST}")
    extensions, name = b"", b""
    if below is not None:
        name, kind = os.fsencode(below[0]), below[1].encode()
        if len(name) > _LONGEST_NAME:
            raise ValueError(f"the path of the file below has {len(name)} bytes: it may have {_LONGEST_NAME}")
        extensions = struct.pack(">II", _BACKING_FORMAT, len(kind)) + kind.ljust(-(-len(kind) // 8) * 8, b"\0")
    extensions += bytes(8)
    start = _HEADER.size + len(extensions)
    header = _HEADER.pack(
        b"QFI\xfb", 3, start if name else 0, len(name), _CLUSTER_BITS, size, 0,  # 0: not encrypted
        entries, _L1, _REFCOUNT_TABLE, 1, 0, 0,  # no snapshots
        0, 0, 0, 4, _HEADER.size,  # no features; counts of 1 << 4 bits
    )  # fmt: skip
    return header + extensions + name
