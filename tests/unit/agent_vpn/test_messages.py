"""Messages of charon's control interface as bytes."""

from __future__ import annotations

import pytest

from kumulus_agent.vpn.messages import Malformed, Packet, decode, encode, named, opened

MESSAGE = {"a": "1", "list": ["x", ""], "section": {"inner": {"b": "2"}, "none": {}}, "last": "ü"}


def test_what_is_written_is_read_again() -> None:
    """A message of texts, lists and sections survives its bytes."""
    assert decode(encode(MESSAGE)) == MESSAGE
    assert opened(named(Packet.EVENT, "ike-updown", MESSAGE)) == (Packet.EVENT, "ike-updown", MESSAGE)
    assert opened(bytes([Packet.RESPONSE]) + encode(MESSAGE)) == (Packet.RESPONSE, "", MESSAGE)


def test_it_has_the_bytes_that_the_protocol_says() -> None:
    """Keys have a length of one byte, texts of two; secrets are bytes as they are."""
    assert encode({"k": b"\xff\x00"}) == b"\x03\x01k\x00\x02\xff\x00"
    assert encode({"s": {"l": ["i"]}}) == b"\x01\x01s\x04\x01l\x05\x00\x01i\x06\x02"


@pytest.mark.parametrize("cut", range(1, len(encode(MESSAGE))))
def test_what_is_cut_off_is_no_message(cut: int) -> None:
    """Part of a message is the beginning of one, or refused: nothing is made up."""
    try:
        found = decode(encode(MESSAGE)[:cut])
    except (Malformed, IndexError):
        return
    assert found.items() <= MESSAGE.items()


@pytest.mark.parametrize("content", [b"", b"\xff", b"\x07\xff", b"\x01\x09\x01k"])
def test_other_bytes_are_no_packet(content: bytes) -> None:
    """What charon would not send is refused."""
    with pytest.raises(Malformed):
        opened(content)


@pytest.mark.parametrize("message", [{"": "x"}, {"k" * 256: "x"}, {"k": "x" * 65536}])
def test_what_does_not_fit_is_not_sent(message: dict[str, str]) -> None:
    """Keys and texts that the protocol has no length for are refused."""
    with pytest.raises(ValueError, match="of vici has"):
        encode(message)
