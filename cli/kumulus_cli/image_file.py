"""A disk on the user's machine: what it looks like, what Image is made of it, and its bytes with their hash."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from kumulus_api.base import API_VERSION
from kumulus_api.image import ImageFormat
from kumulus_api.upload_messages import BLOCK

_MAGIC = (
    (0, b"QFI\xfb", "qcow2"),
    (0, b"KDMV", "vmdk"),
    (0, b"vhdxfile", "vhdx"),
    (0, b"conectix", "vhd"),
    (64, b"\x7f\x10\xda\xbe", "vdi"),
    (0x8001, b"CD001", "iso"),
)
"""Where a file has a sign, the sign, and the format that it is of."""
_PACKED = ((b"\x1f\x8b", "gzip"), (b"\xfd7zXZ\0", "xz"), (b"(\xb5/\xfd", "zstd"), (b"BZh", "bzip2"), (b"PK\3\4", "zip"))
_HEAD = 0x8006
_SHOWS = frozenset({"qcow2", "vhdx", "vdi"})
"""Formats that every file of theirs begins with a sign of."""
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_MARK = 64 << 20


class UploadError(Exception):
    """The image is not uploaded; the message says why and what helps."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user says of the image; what is empty he leaves open."""

    name: str = ""
    format: str = ""
    checksum: str = ""
    min_disk: str = ""
    min_memory: str = ""
    properties: tuple[str, ...] = ()


def name_of(file: Path) -> str:
    """Give the name of an image that is called as its file (pure).

    Raises:
        UploadError: no object can be called so.
    """
    name = file.stem.lower().replace("_", "-")
    if not _NAME.fullmatch(name) or len(name) > 253:
        raise UploadError(f"no image can be called {file.stem!r}: give it a --name of small letters, digits and dashes")
    return name


def format_of(file: Path, declared: str) -> str:
    """Give an image's format: as declared, or as the file looks.

    Raises:
        UploadError: hosts have no such format, or the file is of another.
    """
    with file.open("rb") as opened:
        head = opened.read(_HEAD)
    packed = next((name for sign, name in _PACKED if head.startswith(sign)), None)
    found = next((name for at, sign, name in _MAGIC if head[at : at + len(sign)] == sign), None)
    known = [item.value for item in ImageFormat]
    if packed is not None and not declared:
        raise UploadError(f"{file} is packed by {packed}: unpack it first")
    chosen = declared or found or ImageFormat.RAW.value
    if chosen not in known:
        advice = f"convert it: qemu-img convert -O qcow2 {file} {file.stem}.qcow2"
        raise UploadError(f"{file}: format {chosen} is none of {', '.join(known)}; {advice}")
    if chosen != found and (chosen in _SHOWS or found in _SHOWS):
        raise UploadError(f"{file} looks like {found or 'raw'}, not like {chosen}: see --format")
    return chosen


def wanted(name: str, image_format: str, size: int, wish: Wish, namespace: str | None) -> dict[str, Any]:
    """Give the Image that is made for a file (pure).

    Raises:
        UploadError: a property is no key=value.
    """
    spec: dict[str, Any] = {"source": {"upload": {"size": str(size)}}, "format": image_format}
    spec |= {
        key: value
        for key, value in (("checksum", wish.checksum), ("minDisk", wish.min_disk), ("minMemory", wish.min_memory))
        if value
    }
    pairs = [item.partition("=") for item in wish.properties]
    if any(not key or not sign for key, sign, _ in pairs):
        raise UploadError(f"a property is key=value, such as hw_firmware_type=uefi, not {' '.join(wish.properties)}")
    if pairs:
        spec["properties"] = {key: value for key, _, value in pairs}
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": API_VERSION, "kind": "Image", "metadata": metadata, "spec": spec}


class ImageFile:
    """A file that is read from somewhere, with the SHA-256 of everything before.

    Args:
        path: the file.

    Raises:
        UploadError: it is no file that can be read, or is empty.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            if not path.is_file():
                what = (
                    "is no file, and what cannot be read twice cannot be resumed" if path.exists() else "is not there"
                )
                raise UploadError(f"{path} {what}")
            self._was = self._now()
            self.size = self._was[0]
            if not self.size:
                raise UploadError(f"{path} is empty")
            self._file: BinaryIO = path.open("rb")
        except OSError as error:
            raise UploadError(f"{path} cannot be read: {error.strerror}") from error
        self._marks: list[tuple[int, Any]] = [(0, hashlib.sha256())]
        self._hash, self._at = hashlib.sha256(), 0

    def close(self) -> None:
        """Close it."""
        self._file.close()

    @property
    def changed(self) -> bool:
        """Whether somebody has written to it since."""
        return self._now() != self._was

    @property
    def sha256(self) -> str:
        """The hash of everything before what is read next."""
        return str(self._hash.hexdigest())

    def go_to(self, offset: int) -> None:
        """Have it read from an offset; what was hashed before is not read again. Blocks."""
        at, mark = next((at, mark) for at, mark in reversed(self._marks) if at <= offset)
        self._hash, self._at = mark.copy(), at
        self._file.seek(at)
        while self._at < offset and self.read(offset - self._at):
            pass

    def read(self, most: int = BLOCK) -> bytes:
        """Give the next bytes; none at the end. Blocks."""
        data = self._file.read(min(most, BLOCK, self.size - self._at))
        self._hash.update(data)
        self._at += len(data)
        if self._at - self._marks[-1][0] >= _MARK:
            self._marks.append((self._at, self._hash.copy()))
        return data

    def _now(self) -> tuple[int, int]:
        found = self.path.stat()
        return found.st_size, found.st_mtime_ns
