"""The header of a qcow2 file (QEMU's docs/interop/qcow2.txt)."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable
from typing import BinaryIO, Final

from kumulus_agent.storage.errors import UnsafeImage
from kumulus_agent.storage.formats.fields import SECTOR, damaged, read_at, size_of, unpack_at

_HEADER: Final = ">4sIQIIQIIQQIIQ"
_CLUSTER_BITS: Final = range(9, 22)
_MOST_SNAPSHOTS: Final = 65536
_ENTRY: Final = 8
_OFFSET: Final = 0x00FFFFFFFFFFFE00
_COMPRESSED, _ZERO = 1 << 62, 1


def virtual_size(file: BinaryIO, limit: int) -> int:
    """Give the bytes of the disk.

    Args:
        file: the image; that it names no other file has been seen to.
        limit: bytes; the tables of a larger disk are not looked at.

    Raises:
        UnsafeImage: it is encrypted.
        CorruptImage: its tables do not fit the file or the disk.
    """
    (_, _, _, _, bits, disk, method, l1_size, l1_offset, refcounts, clusters, snapshots, _) = unpack_at(
        file, 0, _HEADER, "header"
    )
    if method != 0:
        raise UnsafeImage("the image is encrypted, and nobody here has its key; decrypt it with qemu-img convert")
    if bits not in _CLUSTER_BITS:
        raise damaged(f"its clusters have 2^{bits} bytes")
    if disk > limit:
        return int(disk)
    size, cluster = size_of(file), 1 << bits
    covered = l1_size * cluster * (cluster // _ENTRY)
    # Extended entries are twice as long, so that the table leads to half as much.
    if covered < disk:
        raise damaged(f"its first table leads to {covered} bytes of {disk}")
    for what, offset, length in (
        ("first table", l1_offset, l1_size * _ENTRY),
        ("table of reference counts", refcounts, clusters * cluster),
    ):
        if offset % cluster or offset > size or length > size - offset:
            raise damaged(f"its {what} would lie at bytes {offset} to {offset + length}, the file has {size}")
    if snapshots > _MOST_SNAPSHOTS:
        raise damaged(f"it has {snapshots} snapshots")
    _check_clusters(file, l1_offset, bits, int(disk))
    return int(disk)


def _check_clusters(file: BinaryIO, l1_offset: int, bits: int, disk: int) -> None:
    """See that no data lie beyond the file's end, not even the rest of a cluster: QEMU would read zeros there."""
    size, cluster = size_of(file), 1 << bits
    entries = cluster // _ENTRY
    for number, table in enumerate(_numbers(file, l1_offset, -(-disk // (cluster * entries)), "first table")):
        if not table & _OFFSET:
            continue
        numbers = _numbers(file, table & _OFFSET, entries, f"table {number}")
        end = max(map(_ends(bits), numbers), default=0)
        if end > size + -disk % cluster:  # where the disk ends its last cluster need not be whole
            raise damaged(f"data of table {number} would end at byte {end}, the file has {size}")


def _ends(bits: int) -> Callable[[int], int]:
    """Give what gives the byte at which an entry's data end, 0 for none; compressed ones end somewhere in a sector."""
    cluster, shift = 1 << bits, 62 - (bits - 8)
    offsets, sectors = (1 << shift) - 1, (1 << (bits - 8)) - 1

    def end(entry: int) -> int:
        if entry & _COMPRESSED:
            return ((entry & offsets) // SECTOR + (entry >> shift & sectors)) * SECTOR + 1
        return (entry & _OFFSET) + cluster if entry & _OFFSET and not entry & _ZERO else 0

    return end


def _numbers(file: BinaryIO, offset: int, count: int, what: str) -> array[int]:
    numbers = array("Q", read_at(file, offset, count * _ENTRY, what))
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers
