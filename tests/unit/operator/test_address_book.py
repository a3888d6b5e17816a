"""What the operator knows of the addresses that are just being claimed."""

from contextlib import ExitStack
from itertools import permutations
from typing import cast

import pytest

from kumulus_api.network import Subnet
from kumulus_operator.ipam.claims import AddressBook, AddressesExhausted
from kumulus_runtime.api_client import KubeClient

VNI = 7
NO_CLIENT = cast(KubeClient, None)
"""Nothing here asks the API server."""
SUBNETS = [Subnet(name="a", cidr="10.0.0.0/29")]
ADDRESSES = [f"10.0.0.{number}" for number in range(1, 6)]


def test_reservations_that_overlap_in_time_all_end() -> None:
    """An address that nobody reserves any more is free, in whatever order reservations began and ended."""
    for order in permutations(range(3)):
        book = AddressBook(NO_CLIENT)
        reservations = [ExitStack() for _ in range(4)]
        for number in range(3):
            reservations[number].enter_context(book.reserved(VNI, ADDRESSES[number : number + 2]))
        for ended in order:
            reservations[ended].close()
            # One comes whenever one goes, with the last address and one that another may still have.
            reservations[3].enter_context(book.reserved(VNI, [ADDRESSES[ended], ADDRESSES[4]]))
        reservations[3].close()
        chosen = [book.choose(SUBNETS, VNI, "02:00:00:00:00:01", ())[0] for _ in ADDRESSES]
        assert sorted(chosen) == ADDRESSES


def test_what_several_reserve_is_free_after_the_last() -> None:
    """An address that two reserve is not given while one of them is still at it."""
    book = AddressBook(NO_CLIENT)
    with book.reserved(VNI, ADDRESSES):
        with book.reserved(VNI, ADDRESSES[:1]):
            pass
        with pytest.raises(AddressesExhausted, match=r"all addresses of .* are in use"):
            book.choose(SUBNETS, VNI, "02:00:00:00:00:01", ())
    assert book.choose(SUBNETS, VNI, "02:00:00:00:00:01", ()) == ADDRESSES[:1]
