"""VHDX files: two headers, a log, regions with metadata and a table of blocks (Microsoft's MS-VHDX)."""

from __future__ import annotations

import sys
import uuid
from array import array
from typing import BinaryIO, Final

from kumulus_agent.storage.errors import FormatMismatch, UnsafeImage
from kumulus_agent.storage.formats.fields import SECTOR, Extents, damaged, read_at, size_of, unpack_at

_MIB: Final = 1 << 20
_HEADERS: Final = (64 << 10, 128 << 10)
_REGIONS: Final = (192 << 10, 256 << 10)
_MOST_ENTRIES: Final = 2047
_BAT: Final = uuid.UUID("2dc27766-f623-4200-9d64-115e9bfd4a08")
_METADATA: Final = uuid.UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e")
_PARAMETERS: Final = uuid.UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b")
_DISK_SIZE: Final = uuid.UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8")
_SECTOR_SIZE: Final = uuid.UUID("8141bf1d-a96f-4709-ba47-f233a8faab5f")
_PARENT: Final = uuid.UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c")
_HAS_PARENT: Final = 2
_BLOCKS: Final = range(_MIB, (256 << 20) + 1)
_CHUNK: Final = 1 << 23
"""So many sectors have their bitmap in one block, which has an entry in the table."""
_FULL, _PARTIAL = 6, 7
_EMPTY: Final = frozenset({0, 1, 2, 3})
_DIFFERENCE: Final = "the image is the difference to another file, which is not here; merge it (Hyper-V: Convert-VHD)"


def virtual_size(file: BinaryIO, limit: int) -> int:
    """Give the bytes of the disk.

    Args:
        file: the image.
        limit: bytes; the table of a larger disk is not read.

    Raises:
        UnsafeImage: it is the difference to another file.
        FormatMismatch: its sectors are not of 512 bytes.
        CorruptImage: it was not closed, or its parts lie beyond the file's end, or one upon another.
    """
    if any(read_at(file, _current_header(file) + 48, 16, "header")):
        raise damaged("it was not closed, and its log would have to be replayed (qemu-img check -r all does)")
    regions = _regions(file)
    items = _items(file, regions[_METADATA][0])
    if _PARENT in items:
        raise UnsafeImage(_DIFFERENCE)
    try:
        (block, flags) = unpack_at(file, items[_PARAMETERS], "<II", "file parameters")
        (disk,) = unpack_at(file, items[_DISK_SIZE], "<Q", "disk size")
        (sector,) = unpack_at(file, items[_SECTOR_SIZE], "<I", "sector size")
    except KeyError as error:
        raise damaged(f"its metadata lack item {error}") from error
    if flags & _HAS_PARENT:
        raise UnsafeImage(_DIFFERENCE)
    if sector != SECTOR:
        raise FormatMismatch(
            f"the image's disk has sectors of {sector} bytes, servers' disks have {SECTOR}: a guest would not find its"
            " partitions; make it anew"
        )
    if block not in _BLOCKS or block & (block - 1) or disk % SECTOR or disk == 0:
        raise damaged(f"its disk has {disk} bytes in blocks of {block}")
    if disk <= limit:
        _check_blocks(file, regions[_BAT], disk, block)
    return int(disk)


def _current_header(file: BinaryIO) -> int:
    """Give where the newer of the two headers lies."""
    found = []
    for offset in _HEADERS:
        (signature, number) = unpack_at(file, offset, "<4s4xQ", "header")
        if signature == b"head":
            found.append((number, offset))
    if not found:
        raise damaged("it has no header")
    return int(max(found)[1])


def _regions(file: BinaryIO) -> dict[uuid.UUID, tuple[int, int]]:
    """Give offset and length of each region; both tables say the same."""
    tables = []
    for offset in _REGIONS:
        (signature, count) = unpack_at(file, offset, "<4s4xI", "table of regions")
        if signature != b"regi" or count > _MOST_ENTRIES:
            raise damaged(f"its table of regions at byte {offset} is none")
        entries = [unpack_at(file, offset + 16 + 32 * index, "<16sQI", "region") for index in range(count)]
        tables.append({uuid.UUID(bytes_le=name): (place, length) for name, place, length in entries})
    if tables[0] != tables[1] or set(tables[0]) != {_BAT, _METADATA}:
        raise damaged("its two tables of regions differ, or name others than blocks and metadata")
    return tables[0]


def _items(file: BinaryIO, start: int) -> dict[uuid.UUID, int]:
    """Give where each item of the metadata lies."""
    (signature, count) = unpack_at(file, start, "<8s2xH", "metadata")
    if signature != b"metadata" or count > _MOST_ENTRIES:
        raise damaged("its metadata are none")
    items: dict[uuid.UUID, int] = {}
    for index in range(count):
        (name, offset) = unpack_at(file, start + 32 + 32 * index, "<16sI", "metadata")
        item = uuid.UUID(bytes_le=name)
        if item in items:
            raise damaged(f"its metadata have item {item} twice")
        items[item] = start + offset
    return items


def _check_blocks(file: BinaryIO, table: tuple[int, int], disk: int, block: int) -> None:
    blocks, ratio = -(-disk // block), _CHUNK * SECTOR // block
    count = blocks + (blocks - 1) // ratio
    start, length = table
    if count * 8 > length:
        raise damaged(f"its table of blocks has {length} bytes, {count} entries are needed")
    entries = array("Q", read_at(file, start, count * 8, "table of blocks"))
    if sys.byteorder == "big":
        entries.byteswap()
    extents = Extents(size_of(file))
    for index, entry in enumerate(entries):
        state, place = entry & 7, entry >> 20
        if index % (ratio + 1) == ratio or state in _EMPTY:
            continue  # bitmaps belong to differences alone
        if state == _PARTIAL:
            raise UnsafeImage(_DIFFERENCE)
        if state != _FULL or place == 0:
            raise damaged(f"block {index} has state {state} at MiB {place}")
        extents.take(place * _MIB, block, f"block {index}")
