"""A guest of one sector that fills its disk, by its firmware, with what tells which block is which."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

CHUNK: Final = 32 << 10
"""Bytes that it writes at once: the number of the first sector, again and again."""
_SECTORS: Final = CHUNK // 512
_CODE: Final = (
    "31c0 8ed8 8ec0 8ed0 bc007c fb fc"  # ds = es = ss = 0, a stack
    "c606007e10 c606017e00 c706027e4000"  # at 0x7e00 what int 13h is told: 64 sectors
    "c706047e0080 c706067e0000"  # from 0:0x8000
    "66c706087e40000000 66c7060c7e00000000"  # to sector 64 and on
    "66a1087e bf0080 b90020 66f3ab"  # next: fill the buffer with the number of the sector
    "be007e b280 b80043 cd13 72e7"  # int 13h, ah = 43h: write; again if it failed
    "668306087e40 66813e087e{end} 72d6"  # 64 sectors on; jb next
    "bafd03 ec a820 74fb baf803 b057 ee"  # W on COM1
    "f4 ebfd"
)


def writing_guest(disk_bytes: int) -> bytes:
    """Give the sector of a guest that writes all of a disk but its first chunk, says W on COM1 and halts."""
    end = (disk_bytes // 512).to_bytes(4, "little").hex()
    return bytes.fromhex(_CODE.format(end=end)).ljust(510, b"\0") + b"\x55\xaa"


def wrong_chunks(raw: Path) -> list[int]:
    """Give the chunks of its disk, as a raw file, that are not as it writes them."""
    content = raw.read_bytes()
    chunks = range(1, len(content) // CHUNK)
    expected = (struct.pack("<I", at * _SECTORS) * (CHUNK // 4) for at in chunks)
    return [at for at, data in zip(chunks, expected, strict=True) if content[at * CHUNK : (at + 1) * CHUNK] != data]
