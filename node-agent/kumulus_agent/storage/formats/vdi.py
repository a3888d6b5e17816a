"""VirtualBox's VDI files: one header, one table of blocks (QEMU's block/vdi.c)."""

from __future__ import annotations

import struct
from array import array
from typing import BinaryIO, Final

from kumulus_agent.storage.errors import FormatMismatch, UnsafeImage
from kumulus_agent.storage.formats.fields import SECTOR, Extents, damaged, read_at, size_of, unpack_at

_DYNAMIC, _STATIC, _DIFFERENCING = 1, 2, 4
_FREE: Final = 0xFFFFFFFE
"""This number and the next stand for a block without data."""
_BLOCK: Final = 1 << 20


def virtual_size(file: BinaryIO, limit: int) -> int:
    """Give the bytes of the disk.

    Args:
        file: the image.
        limit: bytes; the table of a larger disk is not read.

    Raises:
        UnsafeImage: it is the difference to another file.
        FormatMismatch: a kind of VDI that is not known.
        CorruptImage: its blocks lie beyond the file's end, or one upon another.
    """
    (version, kind) = unpack_at(file, 0x44, "<I4xI", "header")
    (table, data, sector, disk, block, extra, blocks, allocated) = unpack_at(file, 0x154, "<II12xI4xQIIII", "header")
    parents = read_at(file, 0x1A8, 32, "header")
    if kind not in (_DYNAMIC, _STATIC) or any(parents):
        if kind == _DIFFERENCING or any(parents):
            raise UnsafeImage(
                "the image is the difference to another file, which is not here; merge it (VBoxManage clonemedium)"
            )
        raise FormatMismatch(f"the image is a VDI of kind {kind}; convert it with qemu-img to qcow2")
    if version >> 16 != 1 or sector != SECTOR or block != _BLOCK or extra:
        raise FormatMismatch(
            f"the image is a VDI of version {version:#x}, with sectors of {sector} and blocks of {block} bytes;"
            " convert it with qemu-img to qcow2"
        )
    if disk % SECTOR or disk > blocks * block or allocated > blocks:
        raise damaged(f"{blocks} blocks, of which {allocated} have data, do not make {disk} bytes")
    if disk <= limit:
        _check_blocks(file, table, data, blocks)
    return int(disk)


def _check_blocks(file: BinaryIO, table: int, data: int, blocks: int) -> None:
    numbers = array("I", read_at(file, table, blocks * struct.calcsize("<I"), "table of blocks"))
    size = size_of(file)
    extents = Extents(max(size - data, 0))
    for index, number in enumerate(numbers):
        if number < _FREE:
            extents.take(number * _BLOCK, _BLOCK, f"block {index}")
