"""The plan of a provider network: how it gets its uplink, and that the host gets its interface back."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumulus_agent.network.elements import elements
from kumulus_agent.network.plan import (
    ChangeFirewall,
    CreateBridge,
    CreateVlan,
    DeleteLink,
    FlushZone,
    GiveBack,
    SetLink,
    Step,
    TakeInterface,
    plan,
    plan_removal,
)
from kumulus_agent.network.rules import BASE, FirewallState
from kumulus_agent.network.state import (
    HostInterface,
    Link,
    NetworkDesired,
    Observed,
    PortDesired,
    SubnetDesired,
    Uplink,
)
from kumulus_agent.network.taken import Taken

BRIDGE, VLAN = "kb00002a", "ku00002a"
NOTE = Taken(42, True, "panel 7").note()
PORT = PortDesired("kt00000000001", "02:00:00:00:00:01", (IPv4Address("10.0.0.11"),), "i1")
SUBNET = SubnetDesired(IPv4Network("10.0.0.0/24"), IPv4Address("10.0.0.254"))


def numbers(network: NetworkDesired) -> dict[str, int]:
    """Number the ports of a network."""
    return {port.tap: number for number, port in enumerate(network.ports, 1)}


def make_network(**overrides: object) -> NetworkDesired:
    """Flat network 42 on eth1, with one port."""
    network = NetworkDesired(42, 1500, "192.0.2.1", ports=(PORT,), provider=True, uplink=Uplink("eth1"))
    return replace(network, **overrides)


def make_observed(network: NetworkDesired, *links: Link, **interfaces: HostInterface) -> Observed:
    """A datapath with the network's rules and bridge, and these links and interfaces of the host."""
    bridge = Link(BRIDGE, "bridge", 1500, up=True)
    state = FirewallState(BASE, frozenset(elements(network, 1, numbers(network))), frozenset({1}))
    return Observed({link.name: link for link in (bridge, *links)}, firewall=state, interfaces=interfaces)


def host_interface(**overrides: object) -> HostInterface:
    """The host's eth1: up, with an alias."""
    return replace(HostInterface("eth1", 1500, up=True, alias="panel 7"), **overrides)


def taken(**overrides: object) -> Link:
    """The host's eth1 as it is when network 42 has it."""
    return replace(Link("eth1", "", 1500, up=True, master=BRIDGE, alias=NOTE), **overrides)


def kinds(steps: tuple[Step, ...]) -> list[type[Step]]:
    """The kinds of the steps in their order."""
    return [type(step) for step in steps]


def test_a_flat_network_takes_the_interface() -> None:
    """Rules come first, then the bridge, then the interface with the note of how it was; there is no VXLAN device."""
    steps = plan(make_network(), Observed(interfaces={"eth1": host_interface()}))
    assert kinds(steps) == [FlushZone, ChangeFirewall, CreateBridge, SetLink, TakeInterface, SetLink]
    assert [step.note for step in steps if isinstance(step, TakeInterface)] == [NOTE]
    assert steps[-1] == SetLink("eth1", "found mtu 1500, port of None, down", 1500, BRIDGE)


def test_what_is_taken_stays() -> None:
    """With its interface in its bridge a network needs nothing; one that fell out of the bridge is put back."""
    network = make_network()
    assert plan(network, make_observed(network, taken())) == ()
    assert kinds(plan(network, make_observed(network, taken(master=None)))) == [SetLink]


def test_a_larger_interface_keeps_its_mtu() -> None:
    """The physical network's frames may be larger than the guests': the interface is left so, the bridge is not."""
    network = make_network()
    steps = plan(network, make_observed(network, eth1=host_interface(mtu=9000)))
    assert [(step.target, step.mtu) for step in steps if isinstance(step, SetLink)] == [("eth1", 9000), (BRIDGE, 1500)]
    assert plan(network, make_observed(network, taken(mtu=9000))) == ()


def test_an_interface_that_is_nowhere_is_not_waited_for() -> None:
    """Without its interface, or while another network still has it, the rest of a network is as it should be."""
    network = make_network()
    assert plan(network, make_observed(network)) == ()
    others = taken(alias=Taken(43, True).note(), master="kb00002b")
    assert plan(network, make_observed(network, others, eth1=host_interface(taken=True))) == ()


@pytest.mark.parametrize("uplink", [None, Uplink("eth2")])
def test_an_interface_that_is_no_longer_wanted_goes_back(uplink: Uplink | None) -> None:
    """An interface of the host is never deleted with the network's own: it goes back as it was."""
    network = make_network(uplink=uplink)
    steps = plan(network, make_observed(network, taken()))
    assert GiveBack("eth1", "the network does not leave the host by it", up=True, alias="panel 7") in steps
    assert DeleteLink not in kinds(steps)


def test_the_last_of_a_network_gives_the_interface_back() -> None:
    """Removal finds what is taken by its note, also if its agent died before it was in the bridge."""
    network = make_network()
    for link in (taken(), taken(master=None, up=False)):
        observed = make_observed(network, link)
        assert observed.networks() == {42}
        assert kinds(plan_removal(42, observed))[:2] == [GiveBack, DeleteLink]
    assert plan_removal(43, make_observed(network, taken())) == ()


def test_a_vlan_is_made_on_the_interface() -> None:
    """A network with a tag leaves the interface where it is; a device of another VLAN is replaced."""
    network = make_network(uplink=Uplink("eth1", 100))
    steps = plan(network, make_observed(network, eth1=host_interface()))
    assert kinds(steps) == [CreateVlan, SetLink]
    assert isinstance(steps[0], CreateVlan)
    assert (steps[0].target, steps[0].interface, steps[0].vlan) == (VLAN, "eth1", 100)
    made = Link(VLAN, "vlan", 1500, up=True, master=BRIDGE, alias=steps[0].note)
    assert plan(network, make_observed(network, made, eth1=host_interface())) == ()
    other = replace(made, alias="VLAN 99 on eth1")
    steps = plan(network, make_observed(network, other, eth1=host_interface()))
    assert kinds(steps) == [DeleteLink, CreateVlan, SetLink]
    assert kinds(plan_removal(42, make_observed(network, made)))[:2] == [DeleteLink, DeleteLink]


def test_the_outside_is_asked_for_addresses_only_where_kumulus_gives_none() -> None:
    """The uplink is kept apart from DHCP as the tunnel is, unless the physical network has a DHCP server of its own."""
    with_dhcp, without = make_network(subnets=(SUBNET,)), make_network()
    sets = {element.set for element in elements(with_dhcp, 1, numbers(with_dhcp)) if element.key[0] == "eth1"}
    assert sets == {"zones", "uplinks", "overlays", "unasked4"}
    assert {element.set for element in elements(without, 1, numbers(without)) if element.key[0] == "eth1"} == {
        "zones",
        "uplinks",
    }


@given(st.integers(1, (1 << 24) - 1), st.booleans(), st.text(max_size=200))
def test_a_note_is_read_as_it_was_written(vni: int, up: bool, alias: str) -> None:
    """Whatever alias an administrator gave an interface, it survives the note."""
    note = Taken(vni, up, alias)
    assert Taken.read(note.note()) == note
    assert Taken.read("uplink to rack 7") is None
