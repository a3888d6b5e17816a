"""The question who has an address, and what is taken for an answer to it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest

from kumulus_agent.routers.announce import advertisement, gratuitous
from kumulus_agent.tracing.asking import answering, question

MAC, HOLDER = "0e:6b:6d:00:01:01", "02:00:00:00:00:09"
FOUR, SIX = IPv4Address("10.0.1.50"), IPv6Address("2001:db8:1::50")


def test_an_answer_is_of_the_address_that_was_asked_for():
    """Replies and advertisements of this address count, and tell the MAC; questions and other addresses do not."""
    asked, reply = gratuitous(HOLDER, str(FOUR))
    told = advertisement(HOLDER, SIX)
    assert answering(reply, FOUR) == answering(told, SIX) == HOLDER
    for frame, address in ((asked, FOUR), (reply, IPv4Address("10.0.1.51")), (reply, SIX), (told, FOUR), (b"", FOUR)):
        assert not answering(frame, address)
    assert not answering(told, IPv6Address("2001:db8:1::51"))


@pytest.mark.parametrize("address", [FOUR, SIX])
def test_a_question_tells_no_address_of_its_sender(address):
    """It comes from the MAC of the network's servers, and no receiver learns whose the address is by it."""
    frame = question(MAC, address)
    assert frame[6:12].hex(":") == MAC
    assert address.packed in frame
    if address.version == 4:
        assert frame[28:32] == bytes(4)
    assert not answering(frame, address)
