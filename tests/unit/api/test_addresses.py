"""Addresses have one spelling, and follow from MACs as the standards say."""

from ipaddress import IPv6Address, IPv6Network, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumulus_api.addresses import canonical, eui64, link_local
from kumulus_api.claims import address_claim_name


@pytest.mark.parametrize(
    ("mac", "address"),
    [
        ("34:56:78:9a:bc:de", "2001:db8::3656:78ff:fe9a:bcde"),  # RFC 4291, appendix A
        ("02:00:00:00:00:01", "2001:db8::ff:fe00:1"),
        ("00:00:00:00:00:00", "2001:db8::200:ff:fe00:0"),
        ("fe:ff:ff:ff:ff:ff", "2001:db8::fcff:ffff:feff:ffff"),
    ],
)
def test_an_address_follows_from_a_mac(mac: str, address: str) -> None:
    """The universal bit is turned around and ff:fe put into the middle."""
    assert eui64(IPv6Network("2001:db8::/64"), mac) == IPv6Address(address)


@given(st.integers(0, 2**48 - 1), st.integers(0, 2**48 - 1))
def test_no_two_macs_make_one_address(one: int, other: int) -> None:
    """Addresses of different MACs differ, and lie on the link."""
    macs = [":".join(f"{octet:02x}" for octet in number.to_bytes(6, "big")) for number in (one, other)]
    addresses = [link_local(mac) for mac in macs]
    assert all(address.is_link_local for address in addresses)
    assert (addresses[0] == addresses[1]) == (one == other)


def test_other_prefixes_make_none() -> None:
    """An address follows from a MAC only where 64 bits are left for it."""
    with pytest.raises(ValueError, match="not 64"):
        eui64(IPv6Network("2001:db8::/80"), "02:00:00:00:00:01")


@given(st.ip_addresses(), st.ip_addresses())
def test_a_claim_is_on_one_address(one: object, other: object) -> None:
    """Claims of two addresses have different names, whatever the addresses look like."""
    names = [address_claim_name(1, str(address)) for address in (one, other)]
    assert (names[0] == names[1]) == (one == other)


@given(st.ip_addresses(v=6))
def test_all_spellings_name_one_claim(address: IPv6Address) -> None:
    """An address written in full, in capitals or in short is one claim."""
    spellings = {str(address), address.exploded, address.exploded.upper()}
    assert len({address_claim_name(7, spelling) for spelling in spellings}) == 1
    assert {canonical(spelling) for spelling in spellings} == {str(ip_address(address))}
