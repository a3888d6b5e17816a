"""What goes through the tunnel, and how a connection says what it is for."""

from __future__ import annotations

import errno
import json
import os
import struct
from asyncio import StreamReader
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

_LONGEST_LINE: Final = 4096
LIBVIRT_SOCKET: Final = "/run/libvirt/libvirt-sock"


class Channel(StrEnum):
    """What a connection carries."""

    CONTROL = "control"
    """libvirt's own protocol, to the target's libvirtd."""
    MEMORY = "memory"
    """QEMU's migration stream."""
    DISKS = "disks"
    """NBD, one connection per disk."""
    FILE = "file"
    """One file of the instance."""
    IMAGE = "image"
    """An image that the host holds, for one that has a server of it or is to keep it."""


class Denied(Exception):
    """The other host does not take the connection."""


@dataclass(frozen=True, slots=True)
class Hello:
    """The first line of a connection.

    Attributes:
        namespace: of the action, or of the Image.
        action: the ServerAction's name, or the Image's.
        uid: its uid.
        instance_id: of the server.
        channel: what follows.
        file: its name, for a file; the digest of an image.
        size: its bytes, for a file; of an image those that are there already.
    """

    namespace: str
    action: str
    uid: str
    instance_id: str
    channel: Channel
    file: str = ""
    size: int = 0

    def line(self) -> bytes:
        """Give it as it is sent."""
        return json.dumps(asdict(self)).encode() + b"\n"


def parse_hello(line: bytes) -> Hello:
    """Read a first line.

    Raises:
        Denied: it is none.
    """
    try:
        found = json.loads(line)
        channel = Channel(found.pop("channel"))
        size = int(found.pop("size", 0))
        return Hello(channel=channel, size=size, **{name: str(value) for name, value in found.items()})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Denied(f"the first line says not what the connection is for: {error}") from error


async def read_line(reader: StreamReader) -> bytes:
    """Read one short line.

    Raises:
        Denied: it is too long, or there is none.
    """
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = await reader.read(1)
        if not byte or len(line) >= _LONGEST_LINE:
            raise Denied("the other host ended the connection" if not byte else "the first line is too long")
        line += byte
    return bytes(line)


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a file that holds data, in bytes; the last one of a file has no length."""

    offset: int
    length: int

    def head(self) -> bytes:
        """Give what is sent before the data."""
        return struct.pack(">QQ", self.offset, self.length)


PIECE_BYTES: Final = 16
PIECE_LENGTH: Final = 1 << 20


def parse_piece(head: bytes) -> Piece:
    """Read what was sent before the data.

    Raises:
        Denied: no piece is that long.
    """
    piece = Piece(*struct.unpack(">QQ", head))
    if piece.length > PIECE_LENGTH:
        raise Denied(f"a piece of {piece.length} bytes is not taken")
    return piece


def pieces(descriptor: int, size: int) -> Iterator[Piece]:
    """Give the stretches of an open file that hold data, none longer than `PIECE_LENGTH`; holes are passed over."""
    end = 0
    while end < size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole up to the end
                return
            raise
        end = min(os.lseek(descriptor, start, os.SEEK_HOLE), size)
        for offset in range(start, end, PIECE_LENGTH):
            yield Piece(offset, min(PIECE_LENGTH, end - offset))


@dataclass(frozen=True, slots=True)
class Sockets:
    """The sockets of one migration; the paths are the same on both hosts, as libvirt knows only one."""

    directory: Path

    @property
    def control(self) -> Path:
        """Leads to the target's libvirtd, on the source."""
        return self.directory / "control.sock"

    @property
    def local(self) -> Path:
        """Leads to the source's own libvirtd, on the source."""
        return self.directory / "local.sock"

    @property
    def memory(self) -> Path:
        """QEMU's at the target; leads to it at the source."""
        return self.directory / "memory.sock"

    @property
    def disks(self) -> Path:
        """As `memory`, for NBD."""
        return self.directory / "disks.sock"


def sockets_of(run_dir: Path, instance_id: str) -> Sockets:
    """Give the sockets of a migration; short, for a socket's path may have 107 bytes."""
    return Sockets(run_dir / "migration" / instance_id)


def make_sockets(run_dir: Path, instance_id: str, owner_of: Path) -> Sockets:
    """Make the folder of a migration's sockets, for root and QEMU's user only.

    Args:
        run_dir: the agent's.
        instance_id: a UUID.
        owner_of: a folder that belongs to the user as whom QEMU runs here.
    """
    sockets = sockets_of(run_dir, instance_id)
    directory = sockets.directory
    directory.mkdir(mode=0o711, parents=True, exist_ok=True)
    for left in directory.iterdir():
        left.unlink()
    directory.chmod(0o700)
    if owner_of.exists():
        owner = owner_of.stat()
        os.chown(directory, owner.st_uid, owner.st_gid)
    return sockets


def libvirt_socket(uri: str) -> str:
    """Give the socket that a libvirt URI of this host leads to."""
    _, _, query = uri.partition("?")
    for item in query.split("&"):
        name, _, value = item.partition("=")
        if name == "socket" and value:
            return value
    return LIBVIRT_SOCKET
