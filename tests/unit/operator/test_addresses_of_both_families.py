"""Which addresses a port is given of a network with several subnets."""

from ipaddress import IPv6Network

import pytest

from kumulus_api.addresses import eui64
from kumulus_api.network import Subnet
from kumulus_operator.ipam.plan import (
    NoneFree,
    choose_address,
    choose_addresses,
    fixed_fault,
    gateway_fault,
    pools_fault,
    reserved_addresses,
)

MAC = "02:00:00:00:00:01"


def make_subnet(name: str, cidr: str, **fields: object) -> Subnet:
    """Give a subnet."""
    return Subnet.model_validate({"name": name, "cidr": cidr} | fields)


FIRST, SECOND = make_subnet("a", "10.0.0.0/29"), make_subnet("b", "10.0.1.0/29")
STATEFUL = make_subnet("c", "fd00:1::/64", ipv6Mode="DHCPv6Stateful", gateway="fd00:1::1")
SMALL = make_subnet("d", "fd00:2::/125")
SLAAC = make_subnet("e", "fd00:3::/64", ipv6Mode="SLAAC")
STATELESS = make_subnet("f", "fd00:4::/64", ipv6Mode="DHCPv6Stateless")
MADE = [str(eui64(IPv6Network(subnet.cidr), MAC)) for subnet in (SLAAC, STATELESS)]


def chosen(*subnets: Subnet, fixed: tuple[str, ...] = (), used: frozenset[str] = frozenset()) -> list[str]:
    """Choose for a port with the MAC."""
    return choose_addresses(subnets, MAC, fixed, used, {})


def test_one_address_of_each_family_and_all_that_follow_from_the_mac() -> None:
    """As Neutron: the first IPv4 subnet, the first IPv6 one, and each in which servers make their addresses."""
    assert chosen(SLAAC, STATEFUL, FIRST, SECOND, SMALL, STATELESS) == ["10.0.0.1", "fd00:1::2", *MADE]
    assert chosen(SLAAC) == MADE[:1]
    assert chosen(STATEFUL) == ["fd00:1::2"]


def test_a_full_subnet_is_passed_over() -> None:
    """The next subnet of the family gives the address; when all are full, they are named."""
    full = frozenset(f"10.0.0.{number}" for number in range(8))
    assert chosen(FIRST, SECOND, used=full) == ["10.0.1.1"]
    used = full | {f"10.0.1.{number}" for number in range(8)}
    with pytest.raises(NoneFree, match=r"all addresses of 10\.0\.0\.0/29, 10\.0\.1\.0/29 are in use"):
        chosen(FIRST, SECOND, STATEFUL, used=used)
    small = frozenset(f"fd00:2::{number}" for number in range(8))
    with pytest.raises(NoneFree, match="all addresses of fd00:2::/125 are in use"):
        chosen(FIRST, SMALL, used=small)


def test_a_fixed_address_stands_in_place_of_its_family() -> None:
    """The other family's is given as ever, and so are those that follow from the MAC, in whatever spelling."""
    assert chosen(FIRST, SECOND, STATEFUL, SLAAC, fixed=("10.0.1.5",)) == ["10.0.1.5", "fd00:1::2", MADE[0]]
    assert chosen(FIRST, STATEFUL, fixed=("FD00:1:0::00AB",)) == ["10.0.0.1", "fd00:1::ab"]
    assert chosen(FIRST, STATEFUL, SLAAC, fixed=(MADE[0].upper(),)) == ["10.0.0.1", "fd00:1::2", MADE[0]]


def test_small_subnets_are_used_up_completely() -> None:
    """A /125 keeps the address of all routers and that of its service, and gives the other six."""
    used: set[str] = set()
    while (address := choose_address(SMALL, used)) is not None:
        used.add(address)
    assert used == {f"fd00:2::{number}" for number in range(1, 7)}
    assert {str(address) for address in reserved_addresses(SMALL)} == {"fd00:2::", "fd00:2::7"}


@pytest.mark.parametrize(
    ("address", "mac", "said"),
    [
        ("fd00:1::5", None, None),
        ("10.0.1.5", None, None),
        ("fd00:1::1", None, "kept by the subnet fd00:1::/64"),
        ("fd00:1::", None, "kept by the subnet"),
        ("fd00:1::ffff:ffff:ffff:ffff", None, "kept by the subnet"),
        ("fd00:9::1", None, "lies outside 10.0.0.0/29, 10.0.1.0/29, fd00:1::/64, fd00:3::/64"),
        ("fd00:3::5", None, "it follows from the MAC"),
        ("fd00:3::5", MAC, f"of {MAC} fd00:3::ff:fe00:1 follows"),
        ("fd00:3::ff:fe00:1", MAC, None),
        ("fd00:3::ff:fe00:1", None, "it follows from the MAC"),
        ("10.0.0", None, "is not an IP address"),
    ],
)
def test_a_fixed_address_chooses_its_subnet(address: str, mac: str | None, said: str | None) -> None:
    """An address is judged by the subnet that it lies in."""
    fault = fixed_fault((FIRST, SECOND, STATEFUL, SLAAC), address, mac)
    assert fault is None if said is None else said in (fault or "")


def test_gateways_and_pools_of_ipv6() -> None:
    """The address of all routers is no gateway, and pools are judged as those of IPv4."""
    assert "all routers" in (gateway_fault(make_subnet("x", "fd00::/64", gateway="fd00::")) or "")
    assert gateway_fault(STATEFUL) is None
    pools = [{"start": "fd00::9", "end": "fd00::5"}]
    assert "ends before" in (pools_fault(make_subnet("x", "fd00::/64", pools=pools)) or "")
    pool = [{"start": "fd00::a", "end": "fd00::b"}]
    assert choose_address(make_subnet("x", "fd00::/64", pools=pool), {"fd00::a"}) == "fd00::b"
    assert choose_address(make_subnet("x", "fd00::/64", pools=pool), {"fd00::a", "fd00::b"}) is None
