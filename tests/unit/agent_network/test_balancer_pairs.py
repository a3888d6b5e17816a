"""The two hosts of a load balancer: what each of them is, and what other hosts take for true."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kumulus_agent.failover.config import Files, VirtualAddress, VirtualRule, render
from kumulus_agent.load_balancers.desired import HereBalancer
from kumulus_agent.load_balancers.pair import LINK, TABLE, member, pair_of
from kumulus_agent.network.elements import elements
from kumulus_agent.network.plan import AddNeighbour, RemoveNeighbour, plan
from kumulus_agent.network.rules import Element
from kumulus_agent.network.state import Link, Observed, RouterPort
from kumulus_agent.networks.held import port_desired
from kumulus_agent.networks.plan import Here, network_desired, shared_here
from kumulus_api.load_balancer import LoadBalancerAssignment

ID = "11111111-1111-4111-8111-111111111111"
MAC, OWN_MAC = "02:00:00:00:00:30", "02:00:00:00:00:31"
HERE = {name: Here(name, f"192.0.2.{name[1]}", 1450) for name in ("h1", "h2", "h3")}


def make_assignment(*, takeover: bool = True) -> LoadBalancerAssignment:
    """A load balancer of both families on host h1, with h2 as the standby."""
    how = {
        "priority": 100,
        "tunnelAddress": "192.0.2.1",
        "standbyTunnelAddress": "192.0.2.2",
        "port": "lb-own",
        "portID": ID,
        "mac": OWN_MAC,
        "addresses": ["10.0.0.31/24"],
    }
    body = {
        "loadBalancerID": ID,
        "port": "lb-vip",
        "portID": ID,
        "mac": MAC,
        "addresses": ["10.0.0.30/24", "2001:db8::30/64"],
        "network": "private",
        "networkNamespace": "red",
        "vni": 1,
        "host": "h1",
        "standby": "h2",
        "takeover": how if takeover else None,
    }
    return LoadBalancerAssignment.model_validate(body)


def on(host: str) -> HereBalancer:
    """The load balancer as one host has it."""
    return HereBalancer("red", "lb", "uid", 1, make_assignment(), host)


def test_both_hosts_have_the_port_and_the_standby_one_of_its_own() -> None:
    """The one that waits reaches members by another MAC and address; a third host has nothing."""
    one, other = on("h1"), on("h2")
    assert [(port.mac, port.shared) for port in one.ports()] == [(MAC, True)]
    assert [(port.mac, port.shared) for port in other.ports()] == [(MAC, True), (OWN_MAC, False)]
    assert one.place(1450).own is None
    own = other.place(1450).own
    assert own is not None
    assert own.addresses == ("10.0.0.31/24",)
    assert pair_of(make_assignment(), "h3") is None
    assert pair_of(make_assignment(takeover=False), "h2") is None


def test_the_standby_wins_and_waits() -> None:
    """The hosts differ in priority and in how long they wait; addresses and rules of both families go along."""
    one, other = (member(make_assignment(), pair) for host in ("h1", "h2") if (pair := on(host).pair) is not None)
    assert (one.priority, other.priority) == (100, 101)
    assert one.delay_seconds < other.delay_seconds
    assert one.rules == other.rules == {VirtualRule(1000, TABLE), VirtualRule(1000, TABLE, family=6)}
    assert {VirtualAddress(LINK, "10.0.0.30"), VirtualAddress(LINK, "2001:db8::30")} < one.addresses == other.addresses
    assert (one.source, one.peers) == (other.peers[0], (other.source,))
    text = render("lb", one, Files(Path("/run/x")))
    assert "        from ::/0 lookup 100 preference 1000\n" in text
    assert "        2001:db8::30/128 dev eth0 preferred_lft forever\n" in text


def make_slices() -> list[dict]:
    """The endpoints of its ports."""
    vip = {"port": "lb-vip", "mac": MAC, "addresses": ["10.0.0.30"], "host": "h1", "tunnelAddress": "192.0.2.1"}
    own = {"port": "lb-own", "mac": OWN_MAC, "addresses": ["10.0.0.31"], "host": "h2", "tunnelAddress": "192.0.2.2"}
    vip |= {"standbyTunnelAddress": "192.0.2.2"}
    spec = {"network": {"name": "private"}, "vni": 1, "endpoints": [item | {"hostname": "lb"} for item in (vip, own)]}
    return [{"metadata": {"name": "private-0", "namespace": "red"}, "spec": spec}]


def test_another_host_keeps_where_the_address_has_gone() -> None:
    """An entry that has followed the standby's frames is kept; one that leads anywhere else is put right."""
    desired = network_desired(1, None, make_slices(), (), HERE["h3"])
    links = {
        desired.bridge: Link(desired.bridge, "bridge", desired.mtu, up=True),
        desired.vxlan: Link(desired.vxlan, "vxlan", desired.mtu, True, desired.bridge, 1, "192.0.2.3"),
    }

    def steps(peer: str) -> list[tuple[str, str]]:
        there = frozenset({(MAC, peer), (OWN_MAC, "192.0.2.2")})
        observed = Observed(links=links, neighbours={desired.vxlan: there})
        changes = [step for step in plan(desired, observed) if isinstance(step, AddNeighbour | RemoveNeighbour)]
        return [(step.mac, step.peer) for step in changes]

    assert steps("192.0.2.1") == steps("192.0.2.2") == []
    assert steps("192.0.2.9") == [(MAC, "192.0.2.1")]
    assert desired.peers == {"192.0.2.1", "192.0.2.2"}
    assert [shared_here(make_slices(), HERE[host]) for host in ("h1", "h2", "h3")] == [True, True, False]


def test_the_standby_knows_where_the_address_is() -> None:
    """It notes the MAC behind the other host's tunnel though it has a port of it, and lets its routers send there."""
    balancer = on("h2")
    ports = [port_desired(ID, "lb", port) for port in balancer.ports()]
    desired = network_desired(1, None, make_slices(), ports, HERE["h2"])
    desired = replace(desired, routers=(RouterPort("kr1", "0e:00:00:00:00:01"),))
    added = {(step.mac, step.peer) for step in plan(desired, Observed()) if isinstance(step, AddNeighbour)}
    assert (MAC, "192.0.2.1") in added
    numbers = {port.tap: number for number, port in enumerate(ports, 1)}
    found = set(elements(desired, 1, numbers))
    assert Element("localmacs", (desired.vxlan, MAC)) not in found
    assert Element("localmacs", (desired.vxlan, OWN_MAC)) in found
