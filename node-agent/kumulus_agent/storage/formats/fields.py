"""Reading an untrusted file at given places, never beyond its end."""

from __future__ import annotations

import struct
from typing import Any, BinaryIO, Final

from kumulus_agent.storage.errors import CorruptImage

SECTOR: Final = 512
_MOST_BYTES: Final = 64 << 20
"""At once: no table of a disk of a TiB is larger."""


def read_at(file: BinaryIO, offset: int, length: int, what: str) -> bytes:
    """Give the bytes at a place.

    Args:
        file: the image.
        offset: bytes from its beginning.
        length: bytes.
        what: lies there, for the message.

    Raises:
        CorruptImage: the file ends before.
    """
    size = size_of(file)
    if not 0 <= offset <= size or not 0 <= length <= min(size - offset, _MOST_BYTES):
        raise CorruptImage(
            f"the image is cut off or damaged: its {what} would lie at bytes {offset} to {offset + length}, the file"
            f" has {size}; mend the source"
        )
    file.seek(offset)
    data = file.read(length)
    if len(data) != length:
        raise CorruptImage(f"the image cannot be read at its {what}; mend the source")
    return data


def unpack_at(file: BinaryIO, offset: int, layout: str, what: str) -> tuple[Any, ...]:
    """Give the numbers at a place, as `struct` does; arguments and errors as of `read_at`."""
    return struct.unpack(layout, read_at(file, offset, struct.calcsize(layout), what))


def size_of(file: BinaryIO) -> int:
    """Give the bytes of a file."""
    return file.seek(0, 2)


def damaged(why: str) -> CorruptImage:
    """Make the error of a file whose parts contradict each other."""
    return CorruptImage(f"the image is cut off or damaged: {why}; mend the source")


class Extents:
    """The parts of a file that hold data: each within it, and together no more than it.

    What is named twice would be written twice: a small file would make a large one.

    Args:
        size: bytes of the file that may hold data.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._left = size

    def take(self, offset: int, length: int, what: str) -> None:
        """Note a part.

        Raises:
            CorruptImage: it lies outside of the file, or on others.
        """
        if offset < 0 or length <= 0 or offset + length > self._size:
            raise damaged(f"{what} would lie at bytes {offset} to {offset + length}, the file has {self._size}")
        self._left -= length
        if self._left < 0:
            raise damaged("its parts have more bytes than the file, so that some lie on others")
