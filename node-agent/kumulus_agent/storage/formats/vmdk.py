"""VMware's VMDK files of one part: sparse, or compressed for transport (VMware's Virtual Disk Format 5.0)."""

from __future__ import annotations

import re
import struct
import sys
from array import array
from dataclasses import dataclass
from typing import BinaryIO, Final

from kumulus_agent.storage.errors import FormatMismatch, UnsafeImage
from kumulus_agent.storage.formats.fields import SECTOR, Extents, damaged, read_at, size_of, unpack_at

MAGIC: Final = b"KDMV"
_HEADER: Final = "<4sIIQQQQIQQQB4sH"
_AT_END: Final = 0xFFFFFFFFFFFFFFFF
_FOOTER_FROM_END: Final = 2 * SECTOR
_COMPRESSED, _MARKED = 1 << 16, 1 << 17
_NEWLINES: Final = b"\n \r\n"
_KINDS: Final = frozenset({"monolithicsparse", "streamoptimized"})
_EXTENT: Final = re.compile(r"(rw|rdonly) [0-9]+ sparse \"[^\"/\\]+\"")
_FIELD: Final = re.compile(r"([a-z0-9_.]+)\s*=\s*(.*)", re.IGNORECASE)
_MOST_DESCRIPTOR: Final = 1 << 20
_EMPTY: Final = frozenset({0, 1})
"""Entries of a table that stand for no data, and for zeros."""
ONE_FILE: Final = "make one file of it: qemu-img convert -O vmdk, or VMware's vmkfstools -i"


@dataclass(frozen=True, slots=True)
class _Sparse:
    """A header: the disk's sectors, those of a grain, entries of a table, and where things lie, in sectors."""

    flags: int
    capacity: int
    grain: int
    descriptor: int
    descriptor_size: int
    entries: int
    directory: int
    compression: int


def virtual_size(file: BinaryIO, limit: int) -> int:
    """Give the bytes of the disk.

    Args:
        file: the image.
        limit: bytes; the tables of a larger disk are not read.

    Raises:
        UnsafeImage: it names other files.
        FormatMismatch: a kind of VMDK that is not known.
        CorruptImage: its parts lie beyond the file's end, or one upon another.
    """
    if read_at(file, 0, len(MAGIC), "beginning") != MAGIC:
        raise UnsafeImage(f"the image is a description that names other files; {ONE_FILE}")
    header = _header(file, 0)
    text = read_at(file, header.descriptor * SECTOR, header.descriptor_size * SECTOR, "description")
    check_description(text.partition(b"\0")[0])
    if header.directory == _AT_END:
        footer = _header(file, size_of(file) - _FOOTER_FROM_END)
        if footer.directory == _AT_END or (footer.capacity, footer.grain) != (header.capacity, header.grain):
            raise damaged("its header and its footer contradict each other")
        header = footer
    disk = header.capacity * SECTOR
    if disk <= limit:
        _check_grains(file, header)
    return disk


def check_description(text: bytes) -> None:
    """Judge the text that says of what files a disk consists: of the one that it lies in.

    Raises:
        UnsafeImage: of another, or it is not understood.
    """
    kinds, extents = [], []
    if b"parentfilenamehint" in text.lower():
        # QEMU looks for the word alone, also in a comment.
        raise UnsafeImage(f"the image's description names a parent; {ONE_FILE}")
    for line in text.decode("utf-8", "replace").splitlines():
        words = " ".join(line.split())
        field = _FIELD.fullmatch(words)
        if not words or words.startswith("#"):
            continue
        if field is None:
            extents.append(words)
            continue
        name, value = field[1].lower(), field[2].strip('"').lower()
        if name == "createtype":
            kinds.append(value)
        if name == "parentcid" and value != "ffffffff":
            raise UnsafeImage(f"the image's description names a parent ({words[:200]}); {ONE_FILE}")
    if len(kinds) != 1 or text.lower().count(b"createtype") != 1 or kinds[0] not in _KINDS:
        found = ", ".join(kind[:64] for kind in kinds[:4]) or "nothing"
        raise UnsafeImage(
            f"the image's description has createType {found}, monolithicSparse and streamOptimized are known;"
            f" {ONE_FILE}"
        )
    if len(extents) != 1 or not _EXTENT.fullmatch(extents[0].lower()):
        found = "; ".join(extent[:200] for extent in extents[:4]) or "none"
        raise UnsafeImage(f"the image's description names other parts than the file itself ({found}); {ONE_FILE}")


def _header(file: BinaryIO, offset: int) -> _Sparse:
    fields = unpack_at(file, offset, _HEADER, "header")
    (magic, version, flags, capacity, grain, descriptor, length, entries, _, directory, _, _, lines, packed) = fields
    if magic != MAGIC:
        raise damaged(f"no header lies at byte {offset}")
    if version not in (1, 2, 3):
        raise FormatMismatch(f"the image is a VMDK of version {version}; convert it with qemu-img to qcow2")
    if lines != _NEWLINES:
        raise damaged("it was changed on its way as if it were text")
    # A description elsewhere, or a disk without sectors, has QEMU look for other files.
    if descriptor != 1 or not 0 < length * SECTOR < _MOST_DESCRIPTOR or capacity == 0:
        raise UnsafeImage(
            f"the image has its description at sector {descriptor}, of {length}, and a disk of {capacity}; {ONE_FILE}"
        )
    if not 8 <= grain <= 4096 or grain & (grain - 1) or entries != 512:
        raise damaged(f"it has grains of {grain} sectors, {entries} in a table")
    if bool(flags & _COMPRESSED) != (packed == 1) or packed > 1:
        raise damaged(f"its compression is said to be {packed}, with flags {flags:#x}")
    return _Sparse(flags, capacity, grain, descriptor, length, entries, directory, packed)


def _check_grains(file: BinaryIO, header: _Sparse) -> None:
    size = size_of(file)
    extents = Extents(size)
    grains = -(-header.capacity // header.grain)
    tables = -(-grains // header.entries)
    for number, table in enumerate(_numbers(file, header.directory, tables, "directory")):
        if table in _EMPTY:
            continue
        extents.take(table * SECTOR, header.entries * 4, f"table {number}")
        first = number * header.entries
        for index, sector in enumerate(_numbers(file, table, header.entries, "table"), first):
            if sector not in _EMPTY and index < grains:
                extents.take(sector * SECTOR, _length(file, header, sector, index), f"grain {index}")


def _length(file: BinaryIO, header: _Sparse, sector: int, index: int) -> int:
    """Give the bytes that a grain takes in the file."""
    whole = header.grain * SECTOR
    if not header.flags & _COMPRESSED:
        return min(whole, (header.capacity - index * header.grain) * SECTOR)
    if not header.flags & _MARKED:
        (packed,) = unpack_at(file, sector * SECTOR, "<I", f"grain {index}")
        return 4 + int(packed)
    (place, packed) = unpack_at(file, sector * SECTOR, "<QI", f"grain {index}")
    if place != index * header.grain or not 0 < packed <= 2 * whole:
        raise damaged(f"grain {index} says that it is of sector {place}, with {packed} bytes")
    return 12 + int(packed)


def _numbers(file: BinaryIO, sector: int, count: int, what: str) -> array[int]:
    numbers = array("I", read_at(file, sector * SECTOR, count * struct.calcsize("<I"), what))
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
