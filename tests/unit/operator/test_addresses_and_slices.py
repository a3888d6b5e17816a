"""Choosing addresses and VNIs, and spreading endpoints over slices."""

import random
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumulus_api.network import Subnet
from kumulus_operator.ipam.plan import (
    choose_address,
    fixed_address_fault,
    gateway_fault,
    pools_fault,
    reserved_addresses,
)
from kumulus_operator.networks.plan import SLICE_SIZE, choose_vni, plan_slices


def make_subnet(**overrides):
    """Give a small subnet."""
    return Subnet.model_validate({"name": "v4", "cidr": "10.0.0.0/29", "gateway": "10.0.0.1"} | overrides)


@given(st.sets(st.integers(0, 7)), st.none() | st.integers(0, 7))
def test_a_chosen_address_is_free_and_not_kept(used, after):
    """An address that is given out lies in the subnet, is not held, and is none that the subnet keeps."""
    held = {f"10.0.0.{number}" for number in used}
    subnet = make_subnet()
    chosen = choose_address(subnet, held, f"10.0.0.{after}" if after is not None else None)
    free = {str(item) for item in IPv4Network(subnet.cidr)} - held - {str(item) for item in reserved_addresses(subnet)}
    assert (chosen in free) if free else chosen is None


def test_a_small_subnet_is_used_up_completely():
    """A /29 with a gateway gives four addresses and then none."""
    used, last = set(), None
    while (chosen := choose_address(make_subnet(), used, last)) is not None:
        used.add(chosen)
        last = chosen
    assert used == {f"10.0.0.{number}" for number in (2, 3, 4, 5)}


def test_a_freed_address_comes_back_last():
    """The search goes on behind the last address, so that a freed one rests as long as possible."""
    assert choose_address(make_subnet(), {"10.0.0.3"}, "10.0.0.3") == "10.0.0.4"
    assert choose_address(make_subnet(), {"10.0.0.5"}, "10.0.0.5") == "10.0.0.2"


def test_automatic_addresses_stay_in_the_pools():
    """Pools limit automatic addresses only."""
    subnet = make_subnet(cidr="10.0.0.0/24", pools=[{"start": "10.0.0.20", "end": "10.0.0.21"}])
    assert choose_address(subnet, {"10.0.0.20"}) == "10.0.0.21"
    assert choose_address(subnet, {"10.0.0.20", "10.0.0.21"}) is None
    assert fixed_address_fault(subnet, "10.0.0.99") is None


@pytest.mark.parametrize("address", ["10.0.0.0", "10.0.0.7", "10.0.0.1", "10.0.0.6", "10.0.1.2", "fd00::1"])
def test_a_kept_address_cannot_be_asked_for(address):
    """Network, broadcast, gateway, DHCP and foreign addresses are refused."""
    assert fixed_address_fault(make_subnet(), address) is not None


@pytest.mark.parametrize(
    ("pools", "word"),
    [
        ([("10.0.0.2", "10.0.0.4"), ("10.0.0.4", "10.0.0.5")], "overlap"),
        ([("10.0.0.4", "10.0.0.2")], "ends before"),
        ([("10.0.0.2", "10.0.1.2")], "outside"),
    ],
)
def test_wrong_pools_are_named(pools, word):
    """Overlapping, reversed and outlying pools are said to be so."""
    subnet = make_subnet(pools=[{"start": start, "end": end} for start, end in pools])
    assert word in (pools_fault(subnet) or "")


def test_touching_pools_are_fine():
    """Pools that only touch do not overlap."""
    pools = [{"start": "10.0.0.4", "end": "10.0.0.5"}, {"start": "10.0.0.2", "end": "10.0.0.3"}]
    assert pools_fault(make_subnet(pools=pools)) is None


@pytest.mark.parametrize("gateway", ["10.0.0.0", "10.0.0.7"])
def test_a_gateway_is_an_address_of_one_machine(gateway):
    """The ends of a subnet belong to nobody, so no packet could be sent to a gateway there."""
    assert "network or broadcast" in (gateway_fault(make_subnet(gateway=gateway)) or "")
    assert gateway_fault(make_subnet(gateway="10.0.0.6")) is None


def test_a_vni_is_free_or_there_is_none():
    """A VNI is never given twice, and an empty pool gives none."""
    chance = random.Random(1)
    assert choose_vni(10, 12, {10, 12}, chance) == 11
    assert choose_vni(10, 12, {10, 11, 12}, chance) is None


def make_endpoints(names):
    """Give endpoints by name."""
    return {name: {"port": name, "addresses": [str(IPv4Address(number))]} for number, name in enumerate(names)}


@given(st.lists(st.sets(st.integers(0, 400)), min_size=1, max_size=4))
def test_slices_hold_exactly_what_is_wanted_and_settle(history):
    """After each change slices hold each endpoint once, none too many, and planning again does nothing."""
    found = {}
    for numbers in history:
        wanted = make_endpoints(f"p{number}" for number in sorted(numbers))
        plan = plan_slices(wanted, found)
        found = {index: items for index, items in (found | plan.write).items() if index not in plan.delete}
        held = [item["port"] for items in found.values() for item in items]
        assert sorted(held) == sorted(wanted)
        assert all(len(items) <= SLICE_SIZE for items in found.values())
        again = plan_slices(wanted, found)
        assert not again.write
        assert not again.delete


def test_one_change_writes_one_slice():
    """A port that goes changes only its own slice."""
    wanted = make_endpoints(f"p{number:03}" for number in range(SLICE_SIZE * 5 // 2))
    found = plan_slices(wanted, {}).write
    assert len(found) == 3
    del wanted[f"p{SLICE_SIZE:03}"]
    plan = plan_slices(wanted, found)
    assert list(plan.write) == [1]
    assert plan.delete == ()


def test_larger_slices_stay_until_they_change():
    """Slices that an earlier version made larger hold what they hold; what is new goes to others."""
    wanted = make_endpoints(f"p{number:03}" for number in range(100))
    found = {0: list(wanted.values())}
    assert not plan_slices(wanted, found).write
    wanted["q"] = {"port": "q"}
    assert plan_slices(wanted, found).write == {1: [{"port": "q"}]}
