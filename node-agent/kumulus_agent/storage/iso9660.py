"""A CD image of a few small files: ISO 9660 with Rock Ridge names (Linux) and Joliet names (Windows).

ECMA-119, IEEE P1282 (RRIP 1.09) and Joliet, as far as a flat directory needs them. A library for whole file systems
takes more memory than all the images that an agent ever writes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

SECTOR: Final = 2048
_PATH_TABLES: Final = 19
_ROOT: Final = 23
_JOLIET_ROOT: Final = 24
_DATA: Final = 25
_DIRECTORY: Final = 2
_SMALLEST: Final = 34
"""Sectors: busybox looks for labels in the first 68 KiB of a disk, and finds none on one that is smaller."""
_MOMENT: Final = bytes((100, 1, 1, 0, 0, 0, 0))
"""The first second of 2000: equal files give equal images."""
_NO_DATE: Final = b"0" * 16 + b"\0"
_JOLIET_LEVEL_3: Final = b"%/E"


def iso_image(label: str, files: Mapping[str, bytes]) -> bytes:
    """Pack the files.

    Args:
        label: the volume's name, ASCII, at most 16 characters.
        files: content by name; names are ASCII of at most 64 characters, and few enough for one sector of records.

    Raises:
        ValueError: a name is too long, or there are too many.
    """
    extents: dict[str, tuple[int, int]] = {}
    sector = _DATA
    for name, content in sorted(files.items()):
        if not name.isascii() or not 1 <= len(name) <= 64:
            raise ValueError(f"file name {name!r} is not ASCII of 1 to 64 characters")
        extents[name] = (sector, len(content))
        sector += _sectors(content)
    sector = max(sector, _SMALLEST)
    parts = [
        bytes(16 * SECTOR),
        _descriptor(1, label.encode().ljust(32), b"", _ROOT, sector),
        _descriptor(2, label.encode("utf-16-be").ljust(32, b"\0"), _JOLIET_LEVEL_3, _JOLIET_ROOT, sector),
        _sector(b"\xffCD001\x01"),
    ]
    for root in (_ROOT, _JOLIET_ROOT):
        parts += [_sector(struct.pack(order + "BBIH2s", 1, 0, root, 1, b"\0\0")) for order in "<>"]
    parts.append(_directory(_ROOT, _rock_ridge(extents)))
    parts.append(_directory(_JOLIET_ROOT, {name.encode("utf-16-be"): (where, b"") for name, where in extents.items()}))
    parts += [content.ljust(_sectors(content) * SECTOR, b"\0") for _, content in sorted(files.items())]
    return b"".join(parts).ljust(sector * SECTOR, b"\0")


def _sectors(content: bytes) -> int:
    return -(-len(content) // SECTOR)


def _sector(content: bytes) -> bytes:
    if len(content) > SECTOR:
        raise ValueError(f"{len(content)} bytes of directory do not fit in one sector: give fewer or shorter names")
    return content.ljust(SECTOR, b"\0")


def _both(value: int, size: str = "I") -> bytes:
    """Give a number as the standard has it: little-endian, then big-endian."""
    return struct.pack(f"<{size}", value) + struct.pack(f">{size}", value)


def _record(identifier: bytes, extent: int, size: int, *, flags: int = 0, system_use: bytes = b"") -> bytes:
    """Give a directory record (ECMA-119, 9.1)."""
    body = b"\0" + _both(extent) + _both(size) + _MOMENT + bytes((flags, 0, 0)) + _both(1, "H")
    body += bytes((len(identifier),)) + identifier
    body += bytes((len(body) + 1) % 2) + system_use
    body += bytes((len(body) + 1) % 2)
    return bytes((len(body) + 1,)) + body


def _directory(sector: int, entries: Mapping[bytes, tuple[tuple[int, int], bytes]]) -> bytes:
    """Give the only directory; `entries` has extent and system use by identifier. Its own are those of Rock Ridge."""
    rock_ridge = sector == _ROOT
    own = _attributes(0o040555, links=2)
    dot = _SHARING_PROTOCOL + own + _EXTENSIONS if rock_ridge else b""
    records = [
        _record(b"\0", sector, SECTOR, flags=_DIRECTORY, system_use=dot),
        _record(b"\1", sector, SECTOR, flags=_DIRECTORY, system_use=own if rock_ridge else b""),
    ]
    records += [_record(name, *where, system_use=more) for name, (where, more) in sorted(entries.items())]
    return _sector(b"".join(records))


# Rock Ridge: system use entries are a signature of two letters, their length, version 1, and what they say.

_SHARING_PROTOCOL: Final = b"SP\x07\x01\xbe\xef\x00"
_EXTENSIONS: Final = b"ER\x12\x01\x0a\x00\x00\x01RRIP_1991A"
_HAS_MODE_AND_NAME: Final = b"RR\x05\x01\x09"


def _attributes(mode: int, *, links: int = 1) -> bytes:
    return b"PX\x24\x01" + _both(mode) + _both(links) + _both(0) + _both(0)


def _rock_ridge(extents: Mapping[str, tuple[int, int]]) -> dict[bytes, tuple[tuple[int, int], bytes]]:
    entries = {}
    for number, (name, where) in enumerate(sorted(extents.items())):
        alternate = b"NM" + bytes((5 + len(name), 1, 0)) + name.encode()
        entries[b"FILE%d.;1" % number] = (where, _HAS_MODE_AND_NAME + _attributes(0o100444) + alternate)
    return entries


def _descriptor(kind: int, label: bytes, escapes: bytes, root: int, sectors: int) -> bytes:
    """Give a primary (1) or supplementary (2) volume descriptor (ECMA-119, 8.4 and 8.5)."""
    blank = b" " if kind == 1 else b"\0"
    table = _PATH_TABLES + 2 * (kind - 1)
    fields = (
        bytes((kind,)),
        b"CD001\x01\0",
        blank * 32,
        label,
        bytes(8),
        _both(sectors),
        escapes.ljust(32, b"\0"),
        _both(1, "H"),
        _both(1, "H"),
        _both(SECTOR, "H"),
        _both(10),
        struct.pack("<II", table, 0),
        struct.pack(">II", table + 1, 0),
        _record(b"\0", root, SECTOR, flags=_DIRECTORY),
        blank * (4 * 128 + 3 * 37),
        _NO_DATE * 4,
        b"\x01",
    )
    return _sector(b"".join(fields))
