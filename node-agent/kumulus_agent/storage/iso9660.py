"""A CD image of a few small files: ISO 9660 with Rock Ridge names (Linux) and Joliet names (Windows).

ECMA-119, IEEE P1282 (RRIP 1.09) and Joliet, as far as a few files in a few directories need them. A library for whole
file systems takes more memory than all the images that an agent ever writes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import Final

SECTOR: Final = 2048
_PATH_TABLES: Final = 19
_ROOT: Final = 23
_JOLIET_ROOT: Final = 24
_DATA: Final = 25
_DIRECTORY: Final = 2
_JOLIET: Final = 17
"""Sector of the supplementary descriptor; in it is the record of the root directory:"""
_ROOT_RECORD: Final = 156
_RECORD_HEAD: Final = 33
"""Bytes of a record before its name."""
_SMALLEST: Final = 34
"""Sectors: busybox looks for labels in the first 68 KiB of a disk, and finds none on one that is smaller."""
_MOMENT: Final = bytes((100, 1, 1, 0, 0, 0, 0))
"""The first second of 2000: equal files give equal images."""
_NO_DATE: Final = b"0" * 16 + b"\0"
_JOLIET_LEVEL_3: Final = b"%/E"
_CODECS: Final = (False, True)
"""Whether a tree is Joliet's."""


def iso_image(label: str, files: Mapping[str, bytes]) -> bytes:
    """Pack the files.

    Args:
        label: the volume's name, ASCII, at most 16 characters.
        files: content by path (`user-data`, `openstack/latest/meta_data.json`); names are ASCII of at most 64
            characters, few enough for one sector of records in each directory, and of directories for one sector.

    Raises:
        ValueError: a name is too long, or there are too many.
    """
    folders = _folders(files)
    # Each directory has a sector in each of the two trees, the roots first.
    places = {folder: _DATA + number for number, folder in enumerate(folders[1:])}
    trees = [{"": root} for root in (_ROOT, _JOLIET_ROOT)]
    for number, tree in enumerate(trees):
        tree |= {folder: place + number * len(places) for folder, place in places.items()}
    extents: dict[str, tuple[int, int]] = {}
    sector = _DATA + 2 * len(places)
    for path, content in sorted(files.items()):
        extents[path] = (sector, len(content))
        sector += _sectors(content)
    sector = max(sector, _SMALLEST)
    tables = [[_path_table(tree, codec, order) for order in "<>"] for tree, codec in zip(trees, _CODECS, strict=True)]
    length = [len(table[0]) for table in tables]
    parts = [
        bytes(16 * SECTOR),
        _descriptor(1, label.encode().ljust(32), b"", (_ROOT, sector, length[0])),
        _descriptor(2, label.encode("utf-16-be").ljust(32, b"\0"), _JOLIET_LEVEL_3, (_JOLIET_ROOT, sector, length[1])),
        _sector(b"\xffCD001\x01"),
        *(_sector(table) for pair in tables for table in pair),
    ]
    roots, rest = [], []
    for tree, rock_ridge in zip(trees, (True, False), strict=True):
        made = [_directory(tree, folder, extents, rock_ridge=rock_ridge) for folder in folders]
        roots.append(made[0])
        rest += made[1:]
    parts += [*roots, *rest]
    parts += [content.ljust(_sectors(content) * SECTOR, b"\0") for _, content in sorted(files.items())]
    return b"".join(parts).ljust(sector * SECTOR, b"\0")


def iso_files(image: bytes) -> dict[str, bytes]:
    """Read back the files of an image's root directory by their Joliet names.

    Raises:
        ValueError: it is no such image.
    """
    descriptor = image[_JOLIET * SECTOR : (_JOLIET + 1) * SECTOR]
    if len(descriptor) < SECTOR or not descriptor.startswith(b"\x02CD001\x01"):
        raise ValueError("this is no CD image with Joliet names")
    _, start, size = _read_record(descriptor, _ROOT_RECORD)
    directory = image[start * SECTOR : start * SECTOR + size]
    files, place = {}, 0
    while place + _RECORD_HEAD < len(directory) and directory[place]:
        name, start, size = _read_record(directory, place)
        if not directory[place + 25] & _DIRECTORY:
            content = image[start * SECTOR : start * SECTOR + size]
            if len(content) < size:
                raise ValueError(f"the CD image ends within {name}")
            files[name] = content
        place += directory[place]
    return files


def _read_record(data: bytes, place: int) -> tuple[str, int, int]:
    """Give name, first sector and bytes of what a directory record stands for."""
    name = data[place + _RECORD_HEAD : place + _RECORD_HEAD + data[place + 32]]
    start, size = struct.unpack_from("<I4xI", data, place + 2)
    return name.decode("utf-16-be", errors="replace"), start, size


def _folders(files: Mapping[str, bytes]) -> list[str]:
    """Give the directories of some paths as path tables have them: by depth, then by name; the root, "", is the first.

    Raises:
        ValueError: a name is empty, too long or not ASCII.
    """
    found = {""}
    for path in files:
        for name in path.split("/"):
            if not name.isascii() or not 1 <= len(name) <= 64:
                raise ValueError(f"file name {name!r} is not ASCII of 1 to 64 characters")
        parents = path.split("/")[:-1]
        found |= {"/".join(parents[: depth + 1]) for depth in range(len(parents))}
    return sorted(found, key=lambda folder: (folder.count("/") + bool(folder), folder))


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


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


def _path_table(tree: Mapping[str, int], joliet: bool, order: str) -> bytes:
    """Give a path table (ECMA-119, 9.4): each directory with its sector and the number of its parent."""
    numbers = {folder: number for number, folder in enumerate(tree, 1)}
    table = b""
    for folder, sector in tree.items():
        name = _identifier(folder, joliet=joliet) if folder else b"\0"
        table += struct.pack(order + "BBIH", len(name), 0, sector, numbers[_parent(folder)])
        table += name + bytes(len(name) % 2)
    return table


def _identifier(path: str, *, joliet: bool, file: bool = False) -> bytes:
    """Give what a file or directory is called in a tree: in the first its whole path makes a short plain name."""
    if joliet:
        return path.rpartition("/")[2].encode("utf-16-be")
    plain = b"%08X" % zlib.crc32(path.encode())
    return plain + b".;1" if file else plain


def _directory(
    tree: Mapping[str, int], folder: str, extents: Mapping[str, tuple[int, int]], *, rock_ridge: bool
) -> bytes:
    """Give one directory of a tree; the root's own entries are those that announce Rock Ridge."""
    own = _attributes(0o040555, links=2) if rock_ridge else b""
    dot = _SHARING_PROTOCOL + own + _EXTENSIONS if rock_ridge and not folder else own
    records = [
        _record(b"\0", tree[folder], SECTOR, flags=_DIRECTORY, system_use=dot),
        _record(b"\1", tree[_parent(folder)], SECTOR, flags=_DIRECTORY, system_use=own),
    ]
    inside: dict[bytes, bytes] = {}
    for path, sector in tree.items():
        if path and _parent(path) == folder:
            name = _identifier(path, joliet=not rock_ridge)
            more = _named(path, 0o040555) if rock_ridge else b""
            inside[name] = _record(name, sector, SECTOR, flags=_DIRECTORY, system_use=more)
    for path, where in extents.items():
        if _parent(path) == folder:
            name = _identifier(path, joliet=not rock_ridge, file=True)
            inside[name] = _record(name, *where, system_use=_named(path, 0o100444) if rock_ridge else b"")
    return _sector(b"".join(records + [inside[name] for name in sorted(inside)]))


# Rock Ridge: system use entries are a signature of two letters, their length, version 1, and what they say.

_SHARING_PROTOCOL: Final = b"SP\x07\x01\xbe\xef\x00"
_EXTENSIONS: Final = b"ER\x12\x01\x0a\x00\x00\x01RRIP_1991A"
_HAS_MODE_AND_NAME: Final = b"RR\x05\x01\x09"


def _attributes(mode: int, *, links: int = 1) -> bytes:
    return b"PX\x24\x01" + _both(mode) + _both(links) + _both(0) + _both(0)


def _named(path: str, mode: int) -> bytes:
    name = path.rpartition("/")[2].encode()
    alternate = b"NM" + bytes((5 + len(name), 1, 0)) + name
    return _HAS_MODE_AND_NAME + _attributes(mode) + alternate


def _descriptor(kind: int, label: bytes, escapes: bytes, sizes: tuple[int, int, int]) -> bytes:
    """Give a primary (1) or supplementary (2) volume descriptor (ECMA-119, 8.4 and 8.5).

    `sizes` is the sector of the root directory, the number of sectors, and the bytes of the path table.
    """
    root, sectors, path_table = sizes
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
        _both(path_table),
        struct.pack("<II", table, 0),
        struct.pack(">II", table + 1, 0),
        _record(b"\0", root, SECTOR, flags=_DIRECTORY),
        blank * (4 * 128 + 3 * 37),
        _NO_DATE * 4,
        b"\x01",
    )
    return _sector(b"".join(fields))
