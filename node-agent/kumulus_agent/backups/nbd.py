"""A client of the NBD protocol, on a UNIX socket: reads and writes a disk that QEMU serves. Blocks.

Source: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md (fixed newstyle, structured replies).
"""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from types import TracebackType
from typing import Final

_GREETING: Final = b"NBDMAGICIHAVEOPT"
_OPTION: Final = b"IHAVEOPT"
_OPTION_REPLY: Final = 0x3E889045565A9
_STRUCTURED, _GO = 8, 7
_ACK, _INFO = 1, 3
_REQUEST: Final = 0x25609513
_SIMPLE, _CHUNKED = 0x67446698, 0x668E33EF
_READ, _WRITE, _DISCONNECT, _FLUSH = 0, 1, 2, 3
_DATA, _HOLE_AT, _ERROR = 1, 2, 0x8000
_SECONDS: Final = 120.0


class ServerFailed(OSError):
    """The server of a disk refuses, ends or says what cannot be."""


class Disk:
    """An export.

    Args:
        path: of the socket.
        export: name of it.

    Raises:
        OSError: it is not served.
    """

    def __init__(self, path: Path, export: str = "") -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(_SECONDS)
        self._handle = 0
        try:
            self._socket.connect(str(path))
            self.size = self._negotiate(export)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Disk:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None
    ) -> None:
        try:
            self._ask(_DISCONNECT, 0, 0)
        except OSError:
            pass
        finally:
            self._socket.close()

    def read(self, offset: int, length: int) -> bytearray | None:
        """Read; None if the server knows that there are zeros only.

        Raises:
            OSError: it cannot be read.
        """
        self._ask(_READ, offset, length)
        data: bytearray | None = None
        while True:
            flags, kind, size = self._chunk()
            if kind == _DATA:
                start = struct.unpack(">Q", self._exactly(8))[0] - offset
                if start < 0 or start + size - 8 > length:
                    raise ServerFailed("the NBD server gave what it was not asked for")
                data = bytearray(length) if data is None else data
                self._into(memoryview(data)[start : start + size - 8])
            elif kind & _ERROR:
                raise ServerFailed(f"the NBD server could not read {length} bytes at {offset}: {self._text(size)}")
            else:
                self._exactly(size)  # a hole, or nothing
            if flags & 1:
                return data

    def write(self, offset: int, data: bytes) -> None:
        """Write.

        Raises:
            OSError: it cannot be written.
        """
        self._ask(_WRITE, offset, len(data), data)
        self._answered(f"write {len(data)} bytes at {offset}")

    def flush(self) -> None:
        """Have all that was written outlive a loss of power.

        Raises:
            OSError: nobody knows.
        """
        self._ask(_FLUSH, 0, 0)
        self._answered("flush")

    def _negotiate(self, export: str) -> int:
        if self._exactly(16) != _GREETING:
            raise ServerFailed("the socket is none of an NBD server")
        offered = struct.unpack(">H", self._exactly(2))[0]
        self._socket.sendall(struct.pack(">I", offered & 3))
        self._option(_STRUCTURED, b"")
        if self._reply(_STRUCTURED)[0] != _ACK:
            raise ServerFailed("the NBD server has no structured replies")
        name = export.encode()
        self._option(_GO, struct.pack(">I", len(name)) + name + struct.pack(">H", 0))
        size = -1
        while True:
            kind, content = self._reply(_GO)
            if kind == _ACK:
                break
            if kind != _INFO:
                raise ServerFailed(f"the NBD server has no export {export!r}")
            if struct.unpack(">H", content[:2])[0] == 0:
                size = struct.unpack(">Q", content[2:10])[0]
        if size < 0:
            raise ServerFailed("the NBD server does not tell a size")
        return size

    def _option(self, option: int, content: bytes) -> None:
        self._socket.sendall(_OPTION + struct.pack(">II", option, len(content)) + content)

    def _reply(self, option: int) -> tuple[int, bytes]:
        magic, about, kind, length = struct.unpack(">QIII", self._exactly(20))
        if magic != _OPTION_REPLY or about != option:
            raise ServerFailed("the NBD server answers what it was not asked")
        return kind, self._exactly(length)

    def _ask(self, command: int, offset: int, length: int, content: bytes = b"") -> None:
        self._handle += 1
        self._socket.sendall(struct.pack(">IHHQQI", _REQUEST, 0, command, self._handle, offset, length))
        if content:
            self._socket.sendall(content)

    def _chunk(self) -> tuple[int, int, int]:
        """Give flags, type and length of the next part of an answer."""
        magic = struct.unpack(">I", self._exactly(4))[0]
        if magic == _SIMPLE:
            error, handle = struct.unpack(">IQ", self._exactly(12))
            flags, kind, size = 1, (_ERROR if error else 0), 0
        elif magic == _CHUNKED:
            flags, kind, handle, size = struct.unpack(">HHQI", self._exactly(16))
        else:
            raise ServerFailed("the NBD server says what cannot be understood")
        if handle != self._handle:
            raise ServerFailed("the NBD server answers what it was not asked")
        return flags, kind, size

    def _answered(self, asked: str) -> None:
        while True:
            flags, kind, size = self._chunk()
            if kind & _ERROR:
                raise ServerFailed(f"the NBD server could not {asked}: {self._text(size)}")
            self._exactly(size)
            if flags & 1:
                return

    def _text(self, size: int) -> str:
        content = self._exactly(size)
        number = struct.unpack(">I", content[:4])[0] if len(content) >= 4 else 0
        return f"error {number} {content[6:].decode(errors='replace')}".strip()

    def _exactly(self, length: int) -> bytes:
        data = bytearray(length)
        self._into(memoryview(data))
        return bytes(data)

    def _into(self, view: memoryview) -> None:
        done = 0
        while done < len(view):
            got = self._socket.recv_into(view[done:])
            if not got:
                raise ServerFailed("the NBD server has ended: the guest went off, or the copy was given up")
            done += got
