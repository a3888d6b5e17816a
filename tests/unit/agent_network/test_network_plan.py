"""The plan of a network: golden steps, and that nothing is left to do after applying it."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kumulus_agent.network import names
from kumulus_agent.network.plan import (
    AddNeighbour,
    AddPeer,
    ChangeFirewall,
    CreateBridge,
    CreateServiceLink,
    CreateVxlan,
    DeleteLink,
    FlushZone,
    JudgeConnections,
    RemoveNeighbour,
    RemovePeer,
    SetLink,
    Step,
    plan,
    plan_base,
    plan_removal,
)
from kumulus_agent.network.rules import BASE, FirewallState
from kumulus_agent.network.state import (
    Link,
    NetworkDesired,
    Observed,
    PortDesired,
    SubnetDesired,
)

UNDERLAY = "192.0.2.1"
MACS = [f"02:00:00:00:00:{number:02x}" for number in range(1, 6)]
TUNNELS = [f"192.0.2.{number}" for number in range(1, 5)]
TAPS = [f"kt{number:011x}" for number in range(1, 6)]
ADDRESSES = [IPv4Address(f"10.0.0.{number}") for number in range(10, 15)]


def make_port(number: int, **overrides: object) -> PortDesired:
    """Port number 0 … 4."""
    port = PortDesired(TAPS[number], MACS[number], (ADDRESSES[number],), f"instance-{number}", f"web-{number}")
    return replace(port, **overrides)


def make_subnet(**overrides: object) -> SubnetDesired:
    """The subnet 10.0.0.0/24 with its service at .2."""
    return replace(SubnetDesired(IPv4Network("10.0.0.0/24"), IPv4Address("10.0.0.2")), **overrides)


def make_network(**overrides: object) -> NetworkDesired:
    """Network 42 with one port and one peer."""
    network = NetworkDesired(42, 1450, UNDERLAY, frozenset({"192.0.2.2"}), ports=(make_port(0),))
    return replace(network, **overrides)


def simulate(observed: Observed, step: Step) -> Observed:  # noqa: C901 - one line per kind of step
    """What the kernel would show after the step."""
    links, flood = dict(observed.links), {k: set(v) for k, v in observed.flood.items()}
    neighbours = {k: set(v) for k, v in observed.neighbours.items()}
    name = step.target
    match step:
        case CreateBridge():
            links[name] = Link(name, "bridge", step.mtu, up=False)
        case CreateVxlan():
            assert name not in links
            links[name] = Link(name, "vxlan", step.mtu, up=False, vni=step.vni, local=step.local)
        case CreateServiceLink():
            links[name] = Link(name, "veth", step.mtu, up=False, alias=step.note)
        case SetLink():
            assert step.master is None or step.master in links
            links[name] = replace(links[name], mtu=step.mtu, master=step.master, up=True)
        case DeleteLink():
            del links[name]
            flood.pop(name, None)
            neighbours.pop(name, None)
        case AddPeer():
            flood.setdefault(name, set()).add(step.peer)
        case RemovePeer():
            flood[name].remove(step.peer)
        case AddNeighbour():
            others = {entry for entry in neighbours.get(name, set()) if entry[0] != step.mac}
            neighbours[name] = others | {(step.mac, step.peer)}
        case RemoveNeighbour():
            neighbours[name].remove((step.mac, step.peer))
        case ChangeFirewall():
            assert step.change.before == observed.firewall
            return replace(observed, firewall=step.change.result)
        case FlushZone() | JudgeConnections():
            pass
        case _:
            raise AssertionError(step)
    return Observed(
        links,
        {k: frozenset(v) for k, v in flood.items() if v},
        {k: frozenset(v) for k, v in neighbours.items() if v},
        observed.firewall,
    )


def apply(observed: Observed, steps: tuple[Step, ...]) -> Observed:
    """What the kernel would show after all steps."""
    for step in steps:
        observed = simulate(observed, step)
    return observed


def plugged(observed: Observed, network: NetworkDesired) -> Observed:
    """The taps of the network's ports have been moved in, but belong to no bridge yet."""
    taps = {port.tap: Link(port.tap, "tun", 1500, up=False) for port in network.ports}
    return replace(observed, links={**taps, **observed.links})


@st.composite
def networks(draw: st.DrawFn, vni: int = 42) -> NetworkDesired:
    """Any network of up to five ports."""
    numbers = draw(st.sets(st.integers(0, 4)))
    remote = draw(st.dictionaries(st.sampled_from(MACS), st.sampled_from(TUNNELS)))
    subnet = make_subnet(gateway=draw(st.sampled_from([None, IPv4Address("10.0.0.1")])))
    return NetworkDesired(
        vni,
        draw(st.sampled_from([1400, 1450])),
        draw(st.sampled_from(TUNNELS[:2])),
        frozenset(draw(st.sets(st.sampled_from(TUNNELS)))),
        frozenset(remote.items()),
        tuple(make_port(number) for number in sorted(numbers)),
        draw(st.sampled_from([(), (subnet,)])),
    )


@settings(deadline=None)
@given(st.lists(networks(), min_size=1, max_size=4), st.booleans())
def test_plan_after_apply_is_empty(versions: list[NetworkDesired], with_taps: bool) -> None:
    """Whatever the network was before, one plan leads to what is desired."""
    observed = apply(Observed(), plan_base(Observed()))
    for network in versions:
        observed = plugged(observed, network) if with_taps else observed
        observed = apply(observed, plan(network, observed))
        assert plan(network, observed) == ()
    assert plan_base(observed) == ()


@settings(deadline=None)
@given(networks(42), networks(43))
def test_removing_one_network_leaves_the_other(one: NetworkDesired, other: NetworkDesired) -> None:
    """Removal takes all of a network and nothing of another."""
    other = replace(other, ports=tuple(replace(port, tap=port.tap[:-1] + "f") for port in other.ports[:1]))
    alone = apply(Observed(), plan(other, Observed()))
    both = apply(alone, plan(one, alone))
    assert plan(other, both) == ()
    assert apply(both, plan_removal(one.vni, both)) == alone
    assert plan_removal(one.vni, alone) == ()


def test_the_steps_of_a_new_network() -> None:
    """Rules come first, then bridge, tunnel, peers and the DHCP server's link."""
    steps = plan(make_network(subnets=(make_subnet(),)), Observed(firewall=FirewallState(BASE)))
    assert [(type(step), step.target) for step in steps] == [
        (ChangeFirewall, "nftables"),
        (CreateBridge, "kb00002a"),
        (SetLink, "kb00002a"),
        (CreateVxlan, "kx00002a"),
        (SetLink, "kx00002a"),
        (AddPeer, "kx00002a"),
        (CreateServiceLink, "kv00002a"),
        (SetLink, "kv00002a"),
    ]
    assert all(step.reason for step in steps)


def test_a_port_that_is_here_is_nobodys_neighbour() -> None:
    """A stale endpoint does not send a local port's frames to another host."""
    network = make_network(neighbours=frozenset({(MACS[0], "192.0.2.2"), (MACS[1], UNDERLAY)}))
    assert not [step for step in plan(network, Observed()) if isinstance(step, AddNeighbour)]


def test_a_moved_neighbour_is_overwritten() -> None:
    """A port that has moved to another host is never without an entry."""
    before = make_network(neighbours=frozenset({(MACS[3], "192.0.2.2")}))
    observed = apply(Observed(), plan(before, Observed()))
    after = replace(before, neighbours=frozenset({(MACS[3], "192.0.2.3")}))
    assert plan(after, observed) == (AddNeighbour("kx00002a", "the port is there", MACS[3], "192.0.2.3"),)


def test_an_interface_that_is_no_port_is_deleted() -> None:
    """A tap whose port has left the host does not stay on the bridge."""
    observed = plugged(Observed(), make_network())
    observed = apply(observed, plan(make_network(), observed))
    steps = plan(make_network(ports=()), observed)
    assert [step.target for step in steps if isinstance(step, DeleteLink)] == [TAPS[0]]


def test_networks_get_numbers_of_their_own() -> None:
    """Two networks never share a conntrack zone, and a freed one is given again."""
    observed = Observed()
    for vni in (1, 2, 3):
        network = make_network(vni=vni, ports=())
        observed = apply(observed, plan(network, observed))
    assert [observed.firewall.zone_of(names.vxlan(vni)) for vni in (1, 2, 3)] == [1, 2, 3]
    removal = plan_removal(2, observed)
    assert [step.zone for step in removal if isinstance(step, FlushZone)] == [2]
    assert apply(observed, removal).firewall.free_zone() == 2


def test_networks_are_found_by_their_links() -> None:
    """What is on the host can be compared with what should be."""
    observed = apply(Observed(), plan(make_network(), Observed()))
    assert plugged(observed, make_network()).networks() == {42}


@pytest.mark.parametrize("name", [names.bridge, names.vxlan, names.service_link])
@pytest.mark.parametrize("vni", [1, 0xFFFFFF])
def test_names_fit_the_kernel(name, vni: int) -> None:
    """No interface name is longer than 15 characters."""
    assert len(name(vni)) <= 15


def test_tap_names_are_stable() -> None:
    """A tap's name follows from the instance and its interface alone."""
    name = names.tap("5a1c8f0e-0000-4000-8000-000000000000", "eth0")
    assert name == names.tap("5a1c8f0e-0000-4000-8000-000000000000", "eth0")
    assert len(name) == 13
    assert name != names.tap("5a1c8f0e-0000-4000-8000-000000000000", "eth1")


@pytest.mark.parametrize(
    "wrong",
    [
        {"mac": "02:00:00:00:00:0A"},
        {"mac": "01:00:00:00:00:0a"},
        {"tap": "a b"},
        {"hostname": "a,b"},
        {"tap": "k" * 16},
    ],
)
def test_what_a_tool_could_misread_is_refused(wrong: dict[str, str]) -> None:
    """Names and MACs that could change a command's or file's meaning make no port."""
    with pytest.raises(ValueError, match="is not"):
        make_port(0, **wrong)


def test_the_service_address_lies_in_the_subnet() -> None:
    """A DHCP server that its guests could not reach is refused."""
    with pytest.raises(ValueError, match=r"192\.0\.2\.7 is not in"):
        make_subnet(service_address=IPv4Address("192.0.2.7"))


def test_rules_that_were_removed_come_back_without_the_connections_of_others() -> None:
    """A network that gets a number anew, because somebody removed all rules, starts without tracked connections."""
    network = make_network()
    steps = plan(network, Observed())
    flushes = [step for step in steps if isinstance(step, FlushZone)]
    assert [flush.zone for flush in flushes] == [1]
    based = Observed(firewall=FirewallState(BASE))
    assert not any(isinstance(step, FlushZone) for step in plan(network, based))
