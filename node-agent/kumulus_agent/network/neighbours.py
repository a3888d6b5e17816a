"""Who has an address on a link, as the kernel has learned it: asked by rtnetlink(7), one entry at a time."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from typing import Final

_NEW_NEIGHBOUR: Final = 28
_GET_NEIGHBOUR: Final = 30
_REQUEST: Final = 1
_DESTINATION: Final = 1
_LINK_ADDRESS: Final = 2
_HEADER: Final = struct.Struct("=IHHII")
_NEIGHBOUR: Final = struct.Struct("=BxHiHBB")
_ATTRIBUTE: Final = struct.Struct("=HH")
_LARGEST: Final = 4096
_SECONDS: Final = 1.0
"""The kernel answers before the question has returned; that it does not is a bug that shall not stop us."""


class Neighbours:
    """The neighbours on one interface.

    Args:
        handle: a route netlink socket of the interface's namespace; closed by `close`.
        index: the interface's.
    """

    def __init__(self, handle: socket.socket, index: int) -> None:
        self._socket = handle
        self._index = index
        handle.settimeout(_SECONDS)

    def mac(self, address: IPv4Address | IPv6Address) -> str | None:
        """Give the MAC to which packets for an address go; None if that is not known."""
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        asked = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(address.packed), _DESTINATION) + address.packed
        body = _NEIGHBOUR.pack(family, 0, self._index, 0, 0, 0) + asked
        message = _HEADER.pack(_HEADER.size + len(body), _GET_NEIGHBOUR, _REQUEST, 0, 0) + body
        with suppress(OSError):
            self._socket.send(message)
            return _mac(self._socket.recv(_LARGEST))
        return None

    def close(self) -> None:
        """Close the socket, which keeps the namespace alive."""
        self._socket.close()


def _mac(answer: bytes) -> str | None:
    length, kind, *_ = _HEADER.unpack_from(answer)
    if kind != _NEW_NEIGHBOUR:
        return None
    place = _HEADER.size + _NEIGHBOUR.size
    while place + _ATTRIBUTE.size <= min(length, len(answer)):
        size, attribute = _ATTRIBUTE.unpack_from(answer, place)
        if attribute == _LINK_ADDRESS:
            return answer[place + _ATTRIBUTE.size : place + size].hex(":")
        place += max(_ATTRIBUTE.size, (size + 3) & ~3)
    return None
