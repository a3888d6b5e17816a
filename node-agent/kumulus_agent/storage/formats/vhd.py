"""VHD files, as of Virtual PC and Azure: a footer, and for dynamic ones a table of blocks (Microsoft's VHD 1.0)."""

from __future__ import annotations

import struct
import sys
from array import array
from typing import BinaryIO, Final

from kumulus_agent.storage.errors import FormatMismatch, UnsafeImage
from kumulus_agent.storage.formats.fields import SECTOR, Extents, damaged, read_at, size_of, unpack_at

COOKIE: Final = b"conectix"
_FIXED, _DYNAMIC, _DIFFERENCING = 2, 3, 4
_FREE: Final = 0xFFFFFFFF
_FOOTER: Final = ">8s8xQ24xQ4xII"
_HEADER: Final = ">8s8xQIII"
_BLOCKS: Final = range(1 << 19, (1 << 28) + 1)
_MERGE: Final = "merge it (Hyper-V: Convert-VHD)"


def is_fixed(file: BinaryIO) -> bool:
    """Give whether a file ends as a VHD and does not begin as one: that is a raw disk with a footer."""
    size = size_of(file)
    if size < 2 * SECTOR or read_at(file, 0, len(COOKIE), "beginning") == COOKIE:
        return False
    return read_at(file, size - SECTOR, len(COOKIE), "footer") == COOKIE


def virtual_size(file: BinaryIO, limit: int) -> int:
    """Give the bytes of the disk.

    Args:
        file: the image.
        limit: bytes; the table of a larger disk is not read.

    Raises:
        UnsafeImage: it is the difference to another file.
        FormatMismatch: a kind of VHD that is not known.
        CorruptImage: it is cut off, or its blocks lie beyond the file's end, or one upon another.
    """
    size = size_of(file)
    footer = read_at(file, max(size - SECTOR, 0), SECTOR, "footer")
    if footer[: len(COOKIE)] != COOKIE:
        raise damaged("a VHD ends with a footer, this file does not")
    (_, header, disk, kind, _) = struct.unpack_from(_FOOTER, footer)
    if kind == _DIFFERENCING:
        raise UnsafeImage(f"the image is the difference to another file, which is not here; {_MERGE}")
    if kind not in (_FIXED, _DYNAMIC):
        raise FormatMismatch(f"the image is a VHD of kind {kind}; convert it with qemu-img to qcow2")
    _check_sum(footer)
    if disk % SECTOR or disk == 0:
        raise damaged(f"its disk has {disk} bytes, which are no sectors")
    if kind == _FIXED:
        if disk != size - SECTOR or not is_fixed(file):
            raise damaged(f"its disk has {disk} bytes, the file {size} with the footer")
        return int(disk)
    # QEMU reads the copy at the beginning, others the one at the end.
    copy = read_at(file, 0, SECTOR, "copy of the footer")
    if struct.unpack_from(_FOOTER, copy)[:4] != (COOKIE, header, disk, kind):
        raise damaged("its footer and the copy at the beginning differ")
    _check_sum(copy)
    if disk <= limit:
        _check_blocks(file, header, disk)
    return int(disk)


def _check_blocks(file: BinaryIO, header: int, disk: int) -> None:
    (cookie, table, _, entries, block) = unpack_at(file, header, _HEADER, "header")
    if cookie != b"cxsparse" or unpack_at(file, header + 36, ">I", "header")[0] != _checksum(
        read_at(file, header, 2 * SECTOR, "header"), 36
    ):
        raise damaged("its header is none, or has a wrong checksum")
    if any(read_at(file, header + 40, 16, "header")):
        raise UnsafeImage(f"the image names a parent, which is not here; {_MERGE}")
    if block not in _BLOCKS or block & (block - 1) or entries * block < disk:
        raise damaged(f"{entries} blocks of {block} bytes do not make {disk}")
    sectors = array("I", read_at(file, table, -(-disk // block) * 4, "table of blocks"))
    if sys.byteorder == "little":
        sectors.byteswap()
    bitmap = -(-block // SECTOR // 8 // SECTOR) * SECTOR
    extents = Extents(size_of(file) - SECTOR)
    for index, sector in enumerate(sectors):
        if sector != _FREE:
            extents.take(sector * SECTOR, bitmap + block, f"block {index}")


def _check_sum(footer: bytes) -> None:
    if struct.unpack_from(_FOOTER, footer)[4] != _checksum(footer, 64):
        raise damaged("the checksum of its footer is wrong")


def _checksum(data: bytes, field: int) -> int:
    """Give the one's complement of the sum of all bytes but the checksum's own."""
    return ~(sum(data) - sum(data[field : field + 4])) & 0xFFFFFFFF
