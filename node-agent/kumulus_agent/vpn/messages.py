"""Messages of vici, charon's control interface, as bytes (pure); strongSwan's README of libcharon/plugins/vici.

A message is a tree: a key has a text, a list of texts, or a section with keys of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import Any

Message = Mapping[str, Any]
"""Texts as str, or as bytes where they are secret; lists of these; sections as mappings. What was read has str."""


class Packet(IntEnum):
    """What a packet is."""

    REQUEST = 0
    RESPONSE = 1
    UNKNOWN_REQUEST = 2
    REGISTER = 3
    UNREGISTER = 4
    CONFIRMED = 5
    UNKNOWN_EVENT = 6
    EVENT = 7


class _Element(IntEnum):
    SECTION_START = 1
    SECTION_END = 2
    KEY_VALUE = 3
    LIST_START = 4
    LIST_ITEM = 5
    LIST_END = 6


class Malformed(ValueError):
    """The bytes are no message."""


def encode(message: Message) -> bytes:
    """Give the bytes of a message.

    Raises:
        ValueError: a key has more than 255 bytes, or a text more than 65535.
    """
    return b"".join(_encoded(message))


def _encoded(message: Message) -> Iterator[bytes]:
    for key, value in message.items():
        if isinstance(value, Mapping):
            yield bytes([_Element.SECTION_START]) + _key(key)
            yield from _encoded(value)
            yield bytes([_Element.SECTION_END])
        elif isinstance(value, list | tuple):
            yield bytes([_Element.LIST_START]) + _key(key)
            for item in value:
                yield bytes([_Element.LIST_ITEM]) + _text(item)
            yield bytes([_Element.LIST_END])
        else:
            yield bytes([_Element.KEY_VALUE]) + _key(key) + _text(value)


def _key(text: str) -> bytes:
    content = text.encode()
    if not 0 < len(content) <= 0xFF:
        raise ValueError(f"a key of vici has 1 … 255 bytes, not {len(content)}")
    return bytes([len(content)]) + content


def _text(value: str | bytes) -> bytes:
    content = value.encode() if isinstance(value, str) else value
    if len(content) > 0xFFFF:
        raise ValueError(f"a text of vici has up to 65535 bytes, not {len(content)}")
    return len(content).to_bytes(2) + content


def named(packet: Packet, name: str, message: Message | None = None) -> bytes:
    """Give the bytes of a packet that has a name: a request, or an event."""
    return bytes([packet]) + _key(name) + encode(message or {})


def opened(content: bytes) -> tuple[Packet, str, dict[str, Any]]:
    """Read a packet; its name is empty where it has none.

    Raises:
        Malformed: it is none.
    """
    try:
        packet = Packet(content[0])
        at, name = 1, ""
        if packet in (Packet.REQUEST, Packet.EVENT, Packet.REGISTER, Packet.UNREGISTER):
            name, at = _read(content, 1, 1)
        return packet, name, decode(content[at:])
    except (IndexError, ValueError) as error:
        raise Malformed(f"no packet of vici in {len(content)} bytes") from error


def decode(content: bytes) -> dict[str, Any]:
    """Read a message.

    Raises:
        Malformed: it is none.
    """
    found, at = _section(content, 0, inside=False)
    if at != len(content):
        raise Malformed(f"{len(content) - at} bytes are left of a message of vici")
    return found


def _section(content: bytes, at: int, *, inside: bool) -> tuple[dict[str, Any], int]:
    found: dict[str, Any] = {}
    while at < len(content):
        element, at = content[at], at + 1
        if element == _Element.SECTION_END and inside:
            return found, at
        key, at = _read(content, at, 1)
        if element == _Element.SECTION_START:
            found[key], at = _section(content, at, inside=True)
        elif element == _Element.KEY_VALUE:
            found[key], at = _read(content, at, 2)
        elif element == _Element.LIST_START:
            found[key], at = _list(content, at)
        else:
            raise Malformed(f"element {element} of vici is not expected")
    if inside:
        raise Malformed("a section of vici does not end")
    return found, at


def _list(content: bytes, at: int) -> tuple[list[str], int]:
    items = []
    while content[at] == _Element.LIST_ITEM:
        item, at = _read(content, at + 1, 2)
        items.append(item)
    if content[at] != _Element.LIST_END:
        raise Malformed("a list of vici does not end")
    return items, at + 1


def _read(content: bytes, at: int, width: int) -> tuple[str, int]:
    begin = at + width
    end = begin + int.from_bytes(content[at:begin])
    if end > len(content):
        raise Malformed("a text of vici is cut off")
    return content[begin:end].decode(errors="replace"), end
