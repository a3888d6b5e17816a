"""Quantities mean what Kubernetes means by them; a subnet's own address is always the same."""

from ipaddress import IPv4Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumulus_api.quantities import format_quantity, parse_quantity, service_address


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1", 1),
        ("1k", 1000),
        ("1Ki", 1024),
        ("1.5Gi", 3 << 29),
        ("0.1Ki", 103),
        ("512Mi", 512 << 20),
        ("2T", 2 * 10**12),
        ("9Pi", 9 << 50),
    ],
)
def test_known_quantities(text: str, size: int) -> None:
    """Decimal and binary units are told apart, and fractions of a byte are rounded up."""
    assert parse_quantity(text) == size


@pytest.mark.parametrize("text", ["", "-1", "+1", "1e3", "1 Gi", "1gi", "1Kib", ".5", "1.", "Gi", "0x1", "1\n"])
def test_what_is_no_quantity(text: str) -> None:
    """Signs, exponents, spaces and unknown units are refused by a message that shows the text."""
    with pytest.raises(ValueError, match="is not a quantity"):
        parse_quantity(text)


@given(st.integers(min_value=0, max_value=1 << 60))
def test_formatting_loses_nothing(size: int) -> None:
    """A size that is written as a quantity is read as the same size."""
    assert parse_quantity(format_quantity(size)) == size


@given(st.integers(0, 10**6), st.sampled_from(["", "k", "M", "G", "T", "P", "Ki", "Mi", "Gi", "Ti", "Pi"]))
def test_order_is_kept(number: int, unit: str) -> None:
    """More of a unit is more."""
    assert parse_quantity(f"{number + 1}{unit}") > parse_quantity(f"{number}{unit}")


@given(st.ip_addresses(v=4), st.integers(8, 29), st.integers(0, 2**24))
def test_service_address_is_free(address: object, prefix: int, number: int) -> None:
    """The service address is a usable address of the subnet and never the gateway."""
    network = ip_network(f"{address}/{prefix}", strict=False)
    assert isinstance(network, IPv4Network)
    gateway = network.network_address + 1 + number % (network.num_addresses - 2)
    for given_gateway in (None, str(gateway)):
        service = service_address(str(network), given_gateway)
        assert service in network
        assert service not in (network.network_address, network.broadcast_address)
        assert str(service) != given_gateway


def test_service_address_examples() -> None:
    """It is the last usable address, or the one before it if the gateway is there."""
    assert str(service_address("10.0.0.0/24", "10.0.0.1")) == "10.0.0.254"
    assert str(service_address("10.0.0.0/24", "10.0.0.254")) == "10.0.0.253"
    assert str(service_address("fd00::/125", "fd00::1")) == "fd00::7"
    assert str(service_address("fd00::/125", "fd00::7")) == "fd00::6"
