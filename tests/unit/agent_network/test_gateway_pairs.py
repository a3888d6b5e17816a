"""The two hosts of a gateway: what each of them is, and what other hosts take for true."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kumulus_agent.failover.config import VirtualAddress, VirtualRule
from kumulus_agent.network.elements import elements
from kumulus_agent.network.gateways import TRANSIT_ADDRESS
from kumulus_agent.network.plan import AddNeighbour, plan
from kumulus_agent.network.rules import Element
from kumulus_agent.network.state import Link, NetworkDesired, Observed, PortDesired, RouterPort
from kumulus_agent.networks.plan import Here, NetworkFacts, tunnels
from kumulus_agent.routers import plan as router_plan
from kumulus_agent.routers.desired import HereRouter, router_desired, routers_here
from kumulus_agent.routers.pair import NETWORK, hosts_network, link_local, pair_of
from kumulus_agent.routers.rules import transaction
from kumulus_agent.routers.state import TABLE_OUT, TABLE_TRANSIT, Address, PolicyRule
from kumulus_api.floating_ip import FloatingIPAssignment
from kumulus_api.router import RouterAssignment

ID = "11111111-1111-4111-8111-111111111111"
HERE = {name: Here(name, f"192.0.2.{name[1]}", 1450) for name in ("h1", "h2", "h3")}
FACTS = {1: NetworkFacts(1450), 9: NetworkFacts(1500)}
MAC = "0e:00:00:00:00:ee"


def make_router(host: str = "h1", standby: str | None = "h2", priority: int = 100) -> RouterAssignment:
    """A router of network 1, which a host leads out."""
    where = {"host": standby, "tunnelAddress": HERE[standby].underlay_address} if standby is not None else None
    gateway = {
        "network": "internet",
        "networkNamespace": "public",
        "vni": 9,
        "mac": MAC,
        "addresses": ["203.0.113.2/24"],
        "nextHops": ["203.0.113.1"],
        "enableSNAT": True,
        "host": host,
        "tunnelAddress": HERE[host].underlay_address,
        "takeover": {"priority": priority, "standby": where},
    }
    interface = {"name": "net1", "network": "net1", "networkNamespace": "red", "vni": 1}
    interface |= {"mac": "0e:00:00:00:00:01", "addresses": ["10.0.1.1/24"]}
    return RouterAssignment.model_validate({"routerID": ID, "interfaces": [interface], "gateway": gateway})


def make_floating(host: str, standby: str | None = None, **fields) -> FloatingIPAssignment:
    """203.0.113.10."""
    body = {
        "floatingIPID": ID,
        "address": "203.0.113.10",
        "mac": MAC,
        "network": "internet",
        "networkNamespace": "public",
        "vni": 9,
        "routerID": ID,
        "host": host,
        "standby": standby,
    }
    return FloatingIPAssignment.model_validate(body | fields)


def on(host: str, *floating: FloatingIPAssignment, router: RouterAssignment | None = None) -> HereRouter:
    """The router as one host needs it."""
    return routers_here([router or make_router()], floating, {1}, HERE[host])[ID]


def test_the_two_hosts_differ_in_nothing_but_who_they_are() -> None:
    """Both have the whole router; addresses, rules and the translation come and go without the agent."""
    one, other = (router_desired(on(host), FACTS) for host in ("h1", "h2"))
    assert one.translation == other.translation
    assert {route for route in one.routes if route.table == TABLE_OUT} == {
        route for route in other.routes if route.table == TABLE_OUT
    }
    assert one.external == other.external == frozenset()
    assert one.policy == other.policy
    assert one.virtual == other.virtual
    assert one.failover is not None
    assert other.failover is not None
    assert one.failover.addresses == other.failover.addresses
    assert (one.failover.source,) == other.failover.peers
    assert (other.failover.source,) == one.failover.peers
    assert (one.failover.priority, other.failover.priority) == (100, 101)
    assert one.failover.delay_seconds < other.failover.delay_seconds


def test_what_leads_out_is_virtual() -> None:
    """The address outside, the one by which other hosts hear of it, and a rule before that of the waiting host."""
    router = on("h1")
    desired = router_desired(router, FACTS)
    assert desired.failover is not None
    outside, transit = router.link("external"), router.link("transit")
    shared = {VirtualAddress(outside, "203.0.113.2"), VirtualAddress(transit, TRANSIT_ADDRESS)}
    assert shared == set(desired.failover.of_family(own=False))
    assert VirtualRule(34500, TABLE_OUT) in desired.failover.rules
    assert desired.policy == {PolicyRule(35000, TABLE_TRANSIT)}


def test_what_is_virtual_is_neither_made_nor_removed() -> None:
    """The agent finds nothing to do, whichever of the two hosts leads out."""
    desired = router_desired(on("h2"), FACTS)
    assert not router_plan.plan(desired, router_plan.assumed(desired))
    leading = router_plan.assumed(desired)
    addresses = {item for item in desired.virtual if isinstance(item, Address)}
    rules = {item for item in desired.virtual if isinstance(item, PolicyRule)}
    leading = replace(leading, addresses=leading.addresses | addresses, policy=leading.policy | rules)
    assert not router_plan.plan(desired, leading)
    assert router_plan.plan(router_desired(on("h3"), FACTS), leading)


def test_addresses_outside_are_of_hosts() -> None:
    """Each host has a MAC of its own outside, also the gateway's without a standby; a third one has no part in VRRP."""
    macs = {on(host).external_mac for host in HERE}
    assert len(macs) == len(HERE)
    alone = on("h1", router=make_router(standby=None))
    assert alone.external_mac == on("h1").external_mac != MAC
    assert router_desired(alone, FACTS).failover is None
    assert Address(alone.link("external"), "203.0.113.2/32") in router_desired(alone, FACTS).external
    assert on("h3").pair is None
    assert set(on("h3").transit()) == {(1, (MAC, "192.0.2.1"))}
    assert set(on("h3").taken()) == {(1, (MAC, "192.0.2.2"))}


@pytest.mark.parametrize("host", ["h1", "h2"])
def test_floating_addresses_of_the_gateway_move_with_it(host: str) -> None:
    """One of the gateway is virtual on both hosts, and translated where it is; one of a server here stays here."""
    forwarding = {"protocol": "TCP", "externalPort": 80, "address": "10.0.1.9", "internalPort": 8080}
    moving = make_floating("h1", "h2", forwardings=[forwarding])
    staying = make_floating("h2", address="203.0.113.11", fixedAddress="10.0.1.11")
    router = on(host, moving, staying)
    desired = router_desired(router, FACTS)
    assert desired.failover is not None
    shared = {item.address for item in desired.failover.addresses}
    assert "203.0.113.10" in shared
    assert "203.0.113.11" not in shared
    here = {item.text for item in desired.external}
    assert here == ({"203.0.113.11/32"} if host == "h2" else set())
    assert desired.translation.shared
    assert '"fib"' in str(transaction(desired.translation)).replace("'", '"')


def test_a_floating_address_is_not_where_its_router_is_not_led_out() -> None:
    """A standby of a former assignment does nothing with it."""
    router = make_router("h1", None)
    assert not routers_here([router], [make_floating("h1", "h2")], {1}, HERE["h2"])[ID].floating


def test_the_hosts_network_floods_nothing() -> None:
    """Each host knows by which tunnel it reaches the other's link, and links by the MACs of their addresses."""
    pairs = [pair for host in ("h1", "h2") if (pair := pair_of(ID, make_router().gateway, host)) is not None]
    one, other = (hosts_network([pair], HERE[pair.host]) for pair in pairs)
    assert one.vni == NETWORK
    assert not one.peers
    assert one.transits == {(other.routers[0].mac, "192.0.2.2")}
    assert other.transits == {(one.routers[0].mac, "192.0.2.1")}
    assert link_local("02:00:00:00:00:01") == "fe80::ff:fe00:1"


def test_where_a_gateway_was_heard_is_kept() -> None:
    """An entry that follows the gateway to its standby is not put back; one that leads elsewhere is."""
    desired = NetworkDesired(
        1, 1450, "192.0.2.3", transits=frozenset({(MAC, "192.0.2.1")}), taken=frozenset({(MAC, "192.0.2.2")})
    )

    def steps(peer: str) -> list[str]:
        links = {"kx000001": Link("kx000001", "vxlan", 1450, up=True, vni=1, local="192.0.2.3", master="kb000001")}
        seen = Observed(links=links, neighbours={"kx000001": frozenset({(MAC, peer)})})
        return [step.peer for step in plan(desired, seen) if isinstance(step, AddNeighbour)]

    assert steps("192.0.2.1") == steps("192.0.2.2") == []
    assert steps("192.0.2.9") == ["192.0.2.1"]


def test_no_guest_sends_by_the_gateways_mac() -> None:
    """A guest that may send by other MACs than its own may not by that, on the gateway's hosts and on others."""
    free = PortDesired("kt1", "02:00:00:00:00:11", (), "i", secured=False)
    bound = PortDesired("kt2", "02:00:00:00:00:12", (), "i")
    for where in (
        {"transits": frozenset({(MAC, "192.0.2.1")})},
        {"routers": (RouterPort("kr1", MAC, distributed=False),)},
    ):
        desired = NetworkDesired(1, 1450, "192.0.2.3", ports=(free, bound), **where)
        found = [e for e in elements(desired, 1, {"kt1": 1, "kt2": 2}) if e.set == "transitmacs"]
        assert found == [Element("transitmacs", ("kt1", MAC))]


def test_hosts_behind_a_router_hear_of_its_gateway() -> None:
    """They are those of all its networks' endpoints, without this one."""
    endpoints = [{"host": "h1", "tunnelAddress": "192.0.2.1"}, {"host": "h3", "tunnelAddress": "192.0.2.3"}]
    slices = [{"spec": {"endpoints": [*endpoints, {"host": "h2", "tunnelAddress": None}]}}, {"spec": {}}]
    assert tunnels(slices, HERE["h1"]) == {"192.0.2.3"}
