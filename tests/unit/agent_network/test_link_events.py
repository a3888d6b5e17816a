"""Which of the kernel's messages have the host's interfaces looked at."""

from __future__ import annotations

import struct

import pytest

from kumulus_agent.networks.physical import matters

NEW_LINK, DEL_LINK, NEW_ADDRESS = 16, 17, 20


def message(kind: int, name: str) -> bytes:
    """Make a message as rtnetlink(7) has it, with an attribute before the interface's name."""
    text = name.encode() + b"\0"
    attributes = struct.pack("=HHI", 8, 4, 1500)
    attributes += struct.pack("=HH", 4 + len(text), 3) + text.ljust(-(-len(text) // 4) * 4, b"\0")
    body = struct.pack("=BxHiII", 0, 1, 7, 0, 0) + attributes
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


@pytest.mark.parametrize("name", ["kt0123456789a", "kx00002a", "kv00002a", "kr0123456789a"])
def test_what_only_passes_through_is_no_event(name: str) -> None:
    """The taps, tunnels and links that each start of a server makes have nothing looked at."""
    assert not matters(message(NEW_LINK, name) + message(DEL_LINK, name))


def test_any_other_interface_and_every_address_is_one() -> None:
    """A change of another interface counts, also behind some that do not, and so does an address of any."""
    passing = message(NEW_LINK, "kt0123456789a")
    assert matters(passing + message(NEW_LINK, "eth1"))
    assert matters(message(DEL_LINK, "eth1.7"))
    assert matters(passing + message(NEW_ADDRESS, "kt0123456789a"))


def test_what_cannot_be_read_ends() -> None:
    """Messages and attributes of no length are passed over once, and a nameless interface counts."""
    assert matters(struct.pack("=IHHII", 0, NEW_LINK, 0, 0, 0))
    assert matters(message(NEW_LINK, "")[:36] + struct.pack("=HH", 0, 0))
    assert not matters(b"")
