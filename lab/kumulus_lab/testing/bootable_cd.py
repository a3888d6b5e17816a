"""The smallest CD that a BIOS starts: El Torito (Phoenix and IBM, 1995) without a file system behind it."""

from __future__ import annotations

import struct

_SECTOR = 2048
_CATALOG, _IMAGE = 19, 20
"""Sectors; 16 to 18 are the volume descriptors of ISO 9660."""


def bootable_cd(boot_sector: bytes) -> bytes:
    """Give a CD whose program is that boot sector of 512 bytes, loaded where that of a disk would be."""
    return b"".join(
        (
            bytes(16 * _SECTOR),
            _descriptor(1, b"\0" + b" " * 64),
            _descriptor(0, b"EL TORITO SPECIFICATION".ljust(64, b"\0") + struct.pack("<I", _CATALOG)),
            _descriptor(255, b""),
            _catalog().ljust(_SECTOR, b"\0"),
            boot_sector.ljust(_SECTOR, b"\0"),
        )
    )


def _descriptor(kind: int, content: bytes) -> bytes:
    return (bytes((kind,)) + b"CD001\x01" + content).ljust(_SECTOR, b"\0")


def _catalog() -> bytes:
    validation = bytearray(struct.pack("<BBH24sHBB", 1, 0, 0, b"", 0, 0x55, 0xAA))
    # All 16-bit words add up to zero.
    total = sum(struct.unpack("<16H", validation))
    validation[28:30] = struct.pack("<H", -total & 0xFFFF)
    # Bootable, no emulation of another medium, one sector of 512 bytes at the usual address.
    entry = struct.pack("<BBHBBHI20s", 0x88, 0, 0, 0, 0, 1, _IMAGE, b"")
    return bytes(validation) + entry
