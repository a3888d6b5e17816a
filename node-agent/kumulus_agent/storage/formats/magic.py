"""What a file is by its first bytes, where a user may have taken it for a disk."""

from __future__ import annotations

from typing import BinaryIO, Final

from kumulus_agent.storage.formats.fields import size_of
from kumulus_agent.storage.formats.vhd import is_fixed

_HEAD_BYTES: Final = 512
_UNPACK: Final = "unpack it and serve what is in it"
_CONVERT: Final = "convert it with qemu-img to qcow2"
_BEGINNINGS: Final = (
    (0, b"\x1f\x8b\x08", "compressed by gzip", _UNPACK),
    (0, b"\xfd7zXZ\0", "compressed by xz", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "compressed by zstd", _UNPACK),
    (0, b"BZh91AY&SY", "compressed by bzip2", _UNPACK),
    (0, b"\x04\x22\x4d\x18", "compressed by lz4", _UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (0, b"PK\x03\x04", "a zip archive", _UNPACK),
    (257, b"ustar", "a tar archive, as an OVA is", _UNPACK),
    (0, b"COWD", "a VMDK of ESX's older kind", _CONVERT),
    (0, b"WithoutFreeSpace", "a disk of Parallels", _CONVERT),
    (0, b"WithouFreSpacExt", "a disk of Parallels", _CONVERT),
    (0, b"Bochs Virtual HD Image", "a disk of Bochs", _CONVERT),
)
_TEXT: Final = b"# disk descriptorfile"
_TRAILER: Final = b"koly"


def is_description(file: BinaryIO) -> bool:
    """Give whether a file is the text that says of which files a VMDK consists."""
    file.seek(0)
    return file.read(_HEAD_BYTES).lstrip().lower().startswith(_TEXT)


def other_content(file: BinaryIO) -> tuple[str, str]:
    """Give what a file is and what to do about it, if it is something that is no disk; else nothing twice."""
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    for offset, beginning, what, remedy in _BEGINNINGS:
        if head[offset : offset + len(beginning)] == beginning:
            return what, remedy
    if is_fixed(file):
        return "a fixed VHD", "make a new image with spec.format vhd"
    size = size_of(file)
    if size >= _HEAD_BYTES:
        file.seek(size - _HEAD_BYTES)
        if file.read(len(_TRAILER)) == _TRAILER:
            return "a disk image of macOS (dmg)", _CONVERT
    return "", ""
