"""What routers should be on a host, and the steps that lead there."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from kumulus_agent.network import names
from kumulus_agent.network.elements import elements
from kumulus_agent.network.gateways import TRANSIT_ADDRESS
from kumulus_agent.network.rules import Element
from kumulus_agent.network.state import NetworkDesired, PortDesired, RouterPort
from kumulus_agent.networks.plan import Here, NetworkFacts, network_facts
from kumulus_agent.routers import plan
from kumulus_agent.routers.advertise import Advertised, advertisement
from kumulus_agent.routers.announce import frames
from kumulus_agent.routers.desired import HereRouter, router_desired, routers_here
from kumulus_agent.routers.rules import transaction, version
from kumulus_agent.routers.state import (
    TABLE_OUT,
    TABLE_TRANSIT,
    Address,
    Floating,
    Forwarding,
    Neighbour,
    PolicyRule,
    Route,
    Translation,
)
from kumulus_api.floating_ip import FloatingIPAssignment
from kumulus_api.router import RouterAssignment

ID, OTHER = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
H1, H2 = Here("h1", "192.0.2.1", 1450), Here("h2", "192.0.2.2", 1450)
WEB = ("10.0.1.11", "02:00:00:00:00:11")
FACTS = {1: NetworkFacts(1450, frozenset({WEB})), 2: NetworkFacts(1450), 9: NetworkFacts(1500)}


def make_assignment(
    router_id: str = ID, *vnis: int, gateway: str | None = None, number: int = 1, **overrides
) -> RouterAssignment:
    """A router with an interface 10.0.<vni>.<number> in each network."""
    interfaces = [
        {
            "name": f"net{vni}",
            "network": f"net{vni}",
            "networkNamespace": "red",
            "vni": vni,
            "mac": f"0e:00:00:00:00:{vni:02x}",
            "addresses": [f"10.0.{vni}.{number}/24"],
        }
        for vni in vnis
    ]
    body = {"routerID": router_id, "interfaces": interfaces}
    if gateway is not None:
        body["gateway"] = {
            "network": "internet",
            "networkNamespace": "public",
            "vni": 9,
            "mac": "0e:00:00:00:00:ee",
            "addresses": ["203.0.113.2/24"],
            "nextHops": ["203.0.113.1"],
            "enableSNAT": True,
            "host": gateway,
            "tunnelAddress": "192.0.2.1",
        }
    return RouterAssignment.model_validate(body | overrides)


def make_floating(host: str = "h2", **overrides) -> FloatingIPAssignment:
    """203.0.113.10, which leads to 10.0.1.11."""
    body = {
        "floatingIPID": OTHER,
        "address": "203.0.113.10",
        "mac": "0e:00:00:00:00:ff",
        "network": "internet",
        "networkNamespace": "public",
        "vni": 9,
        "routerID": ID,
        "host": host,
        "fixedAddress": "10.0.1.11",
    }
    return FloatingIPAssignment.model_validate(body | overrides)


def here(assignment: RouterAssignment, on: Here, *floating: FloatingIPAssignment) -> HereRouter:
    return HereRouter(on, assignment, floating)


@pytest.mark.parametrize(
    ("with_ports", "floating", "needed"),
    [((), (), {OTHER}), ((1,), (), {ID, OTHER}), ((9,), (), {OTHER}), ((), (make_floating(),), {ID, OTHER})],
)
def test_a_router_is_where_something_uses_it(with_ports, floating, needed):
    """A port in one of its networks, a floating address or its gateway brings it; a port outside does not."""
    assignments = [make_assignment(ID, 1, 2, gateway="h1"), make_assignment(OTHER, 3, gateway="h2")]
    assert routers_here(assignments, floating, set(with_ports), H2).keys() == needed


def test_a_floating_address_of_another_external_network_or_router_brings_nothing():
    """What does not fit the router, as its gateway has changed, is not translated."""
    assignments = [make_assignment(ID, 1, gateway="h1")]
    for floating in (make_floating(vni=8), make_floating(routerID=OTHER), make_floating(host=None)):
        assert not routers_here(assignments, [floating], set(), H2)


def test_routers_that_static_routes_lead_to_come_along():
    """A next hop that is another router is asked on the same host, and so on; a loop of them ends."""
    first = make_assignment(ID, 1, 2, routes=[{"destination": "10.0.3.0/24", "nextHop": "10.0.2.9"}])
    back = [{"destination": "10.0.1.0/24", "nextHop": "10.0.2.1"}]
    second = make_assignment(OTHER, 2, 3, number=9, routes=back)
    assert routers_here([first, second], [], {1}, H1).keys() == {ID, OTHER}
    assert routers_here([first, make_assignment(OTHER, 3)], [], {1}, H1).keys() == {ID}


def test_all_networks_of_a_router_are_carried_and_the_external_one_where_it_is_used():
    """Closure: whatever comes from a port here is routed here; only what leaves here needs the external network."""
    assignment = make_assignment(ID, 1, 2, gateway="h1")
    assert {key.vni for key in here(assignment, H2).networks()} == {1, 2}
    assert {key.vni for key in here(assignment, H2, make_floating()).networks()} == {1, 2, 9}
    assert {key.vni for key in here(assignment, H1).networks()} == {1, 2, 9}


def test_hosts_agree_on_the_way_to_the_gateway():
    """Others send to the MAC of the gateway, through the first network, in which the gateway's host has that MAC."""
    assignment = make_assignment(ID, 2, 1, gateway="h1")
    away, leading = here(assignment, H2), here(assignment, H1)
    assert list(away.transit()) == [(1, ("0e:00:00:00:00:ee", "192.0.2.1"))]
    assert not list(leading.transit())
    assert (1, RouterPort(leading.link("transit"), "0e:00:00:00:00:ee", distributed=False)) in list(leading.ports())
    desired = router_desired(away, FACTS)
    link = away.link(assignment.interfaces[1])
    assert Route(TABLE_TRANSIT, "0.0.0.0/0", link, TRANSIT_ADDRESS) in desired.routes
    assert Neighbour(link, TRANSIT_ADDRESS, "0e:00:00:00:00:ee") in desired.neighbours
    assert not desired.external
    assert desired.translation == Translation()


def test_distributed_links_are_the_same_on_all_hosts_and_the_external_mac_is_not():
    """The gateway of a subnet has one MAC everywhere; in the external network each host has its own."""
    assignment = make_assignment(ID, 1, gateway="h1")
    on = [here(assignment, host, make_floating()) for host in (H1, H2, Here("h3", "192.0.2.3", 1450))]
    shared = [{port for _, port in router.ports() if port.distributed} for router in on]
    assert shared[0] == shared[1] == shared[2]
    assert len({router.external_mac for router in on}) == 3


def test_the_gateways_host_translates_what_leaves():
    """It has the router's address, the way out, and rules for source and floating addresses."""
    router = here(make_assignment(ID, 1, gateway="h1"), H1, make_floating("h1"))
    desired = router_desired(router, FACTS)
    out = router.link("external")
    assert desired.external == {Address(out, "203.0.113.2/32"), Address(out, "203.0.113.10/32")}
    assert desired.routes == {
        Route(TABLE_OUT, "203.0.113.0/24", out),
        Route(TABLE_OUT, "0.0.0.0/0", out, "203.0.113.1"),
    }
    assert PolicyRule(34000, TABLE_OUT) in desired.policy
    assert desired.translation.source == "203.0.113.2"
    assert desired.translation.floating == {Floating("203.0.113.10", "10.0.1.11")}
    assert Neighbour(router.link(router.assignment.interfaces[0]), *WEB) in desired.neighbours


def test_a_floating_address_leaves_by_its_own_host():
    """Packets of its server alone leave there; all others go to the gateway's host."""
    desired = router_desired(here(make_assignment(ID, 1, gateway="h1"), H2, make_floating()), FACTS)
    assert desired.policy == {
        PolicyRule(33000, TABLE_OUT, "10.0.1.11"),
        PolicyRule(33000, TABLE_OUT, "203.0.113.10"),
        PolicyRule(34000, TABLE_TRANSIT),
    }
    assert desired.translation.source == ""


def test_a_static_route_takes_the_place_of_the_gateways():
    """One whose next hop is outside is asked of the gateway's host; one inside leads on every host."""
    routes = [
        {"destination": "0.0.0.0/0", "nextHop": "203.0.113.7"},
        {"destination": "192.168.0.0/16", "nextHop": "10.0.1.7"},
        {"destination": "172.16.0.0/12", "nextHop": "198.51.100.1"},
    ]
    assignment = make_assignment(ID, 1, gateway="h1", routes=routes)
    leading, away = here(assignment, H1), here(assignment, H2)
    inside = Route(254, "192.168.0.0/16", leading.link(assignment.interfaces[0]), "10.0.1.7")
    found = router_desired(leading, FACTS).routes
    assert found == {
        Route(TABLE_OUT, "203.0.113.0/24", leading.link("external")),
        Route(TABLE_OUT, "0.0.0.0/0", leading.link("external"), "203.0.113.7"),
        inside,
    }
    assert inside in router_desired(away, FACTS).routes


def test_names_of_links_fit_and_differ():
    """At most 15 characters, stable, and no two alike."""
    router = here(make_assignment(ID, 1, 2, gateway="h1"), H1)
    found = [port.name for _, port in router.ports()]
    assert len(found) == len(set(found)) == 4
    assert all(len(name) <= 15 for name in found)
    assert names.router_link(ID, "external") == router.link("external")


def test_plan_after_apply_is_empty():
    """What is as desired needs no steps."""
    desired = router_desired(here(make_assignment(ID, 1, 2, gateway="h1"), H1, make_floating("h1")), FACTS)
    assert plan.plan(desired, plan.assumed(desired)) == ()


def test_rules_are_there_before_the_address_and_it_is_announced_last():
    """No packet for a floating address meets a router that does not translate it yet."""
    assignment = make_assignment(ID, 1, gateway="h1")
    before = router_desired(here(assignment, H1), FACTS)
    after = router_desired(here(assignment, H1, make_floating("h1")), FACTS)
    steps = plan.plan(after, plan.assumed(before))
    kinds = [type(step).__name__ for step in steps]
    assert kinds == ["Translate", "Add", "Add", "Add", "Announce"]
    assert steps[-1].mac == "0e:00:00:00:00:ee"
    gone = [type(step).__name__ for step in plan.plan(before, plan.assumed(after))]
    assert gone == ["Remove", "Remove", "Remove", "Translate", "EndConnections"]


def test_exactly_what_is_no_more_is_ended():
    """A forwarding that stays keeps its connections, and so does a floating address."""
    stays, goes = (
        Forwarding("tcp", "203.0.113.10", 80, "10.0.1.11", 80),
        Forwarding("tcp", "203.0.113.10", 81, "10.0.1.11", 80),
    )
    kept = Floating("203.0.113.11", "10.0.1.12")
    desired = router_desired(here(make_assignment(ID, 1, gateway="h1"), H1), FACTS)
    translation = replace(desired.translation, forwardings=frozenset({stays}), floating=frozenset({kept}))
    desired = replace(desired, translation=translation)
    observed = replace(plan.assumed(desired), forwardings=frozenset({stays, goes}), source="203.0.113.3", version="old")
    ended = [step.by for step in plan.plan(desired, observed) if isinstance(step, plan.EndConnections)]
    assert ended == [goes, "203.0.113.3"]


def test_a_link_that_is_made_anew_gets_all_that_was_on_it():
    """Addresses, neighbours and routes go with a link, and are added again."""
    desired = router_desired(here(make_assignment(ID, 1, gateway="h1"), H2), FACTS)
    broken = replace(plan.assumed(desired), joins=frozenset())
    steps = plan.plan(desired, broken)
    kinds = [type(step).__name__ for step in steps]
    assert kinds == [
        "DeleteJoin",
        "CreateJoin",
        *["Add"] * (len(desired.addresses | desired.neighbours | desired.routes)),
        "Announce",
    ]


def test_the_rules_depend_on_nothing_but_what_is_asked():
    """The order of sets does not change the digest by which the rules are known again."""
    pair = [Floating("203.0.113.10", "10.0.1.11"), Floating("203.0.113.11", "10.0.1.11")]
    one = Translation("kr1", ("10.0.1.0/24",), "203.0.113.2", "203.0.113.2", frozenset(pair))
    assert version(one) == version(replace(one, floating=frozenset(reversed(pair))))
    assert version(one) != version(replace(one, source=""))
    fixed = next(
        command["add"]["map"]
        for command in transaction(one)["nftables"]
        if "fixed" in str(command.get("add", {}).get("map"))
    )
    assert fixed["elem"] == [["10.0.1.11", "203.0.113.10"]]


def test_ports_here_are_neighbours_before_any_endpoint_tells():
    """A guest that has just started is reached; what endpoints say of an address here is older."""
    port = PortDesired("kt1", "02:00:00:00:00:01", (IPv4Address("10.0.0.1"),), "i1")
    body = {"spec": {"endpoints": [{"mac": "02:00:00:00:00:09", "addresses": ["10.0.0.1", "10.0.0.9"]}]}}
    facts = network_facts(1450, [body], [port])
    assert facts.neighbours == {("10.0.0.1", "02:00:00:00:00:01"), ("10.0.0.9", "02:00:00:00:00:09")}


def test_only_distributed_gateways_are_kept_from_other_hosts():
    """A router's link to an external network speaks for itself there, and a host has one MAC for what it routes."""
    ports = (RouterPort("kr1", "0e:00:00:00:00:01"), RouterPort("kr2", "0e:00:00:00:00:02", distributed=False))
    network = NetworkDesired(1, 1450, "192.0.2.1", routers=ports)
    found = set(elements(network, 7, {}))
    assert {element.key for element in found if element.set == "gatewaymacs"} == {("kx000001", "0e:00:00:00:00:01")}
    assert {element.key for element in found if element.set == "gateways"} == {("kr1",)}
    assert Element("zones", ("kr2",), 7) in found
    assert Element("sources", ("kx000001",), "0e:6e:c0:00:02:01") in found
    assert not [e for e in elements(replace(network, routers=ports[1:]), 7, {}) if e.set in {"sources", "outward"}]


def test_both_forms_of_gratuitous_arp_say_the_same():
    """Sender and target are the address, the sender's MAC is the one to be learned, and all hear it."""
    for frame in frames("0e:00:00:00:00:ee", "203.0.113.2"):
        assert frame[:6] == b"\xff" * 6
        assert frame[6:12] == frame[22:28] == bytes.fromhex("0e00000000ee")
        assert frame[28:32] == frame[38:42] == bytes([203, 0, 113, 2])


def test_an_advertisement_says_that_there_is_a_router_and_nothing_of_addresses():
    """Its lifetime, the router's MAC and the network's MTU; no prefix, no flags of DHCP."""
    message = advertisement(Advertised("0e:00:00:00:00:01", 1450))
    assert (message[0], message[5], int.from_bytes(message[6:8])) == (134, 0, 9000)
    assert message[16:] == bytes.fromhex("01010e0000000001" + "0501000000" + "0005aa")
    assert int.from_bytes(advertisement(Advertised("0e:00:00:00:00:01", 1450), lifetime=0)[6:8]) == 0


def test_ipv6_is_routed_inside_alone_where_the_external_network_has_none():
    """Addresses, neighbours and inner routes are of both families; the way out and translation are of IPv4."""
    routes = [{"destination": "fd00:9::/64", "nextHop": "fd00:1::7"}]
    assignment = make_assignment(ID, 1, gateway="h1", routes=routes)
    interface = assignment.interfaces[0].model_copy(update={"addresses": ["fd00:1::1/64"]})
    assignment = assignment.model_copy(update={"interfaces": [interface]})
    ports = {WEB, ("fd00:1::11", WEB[1]), ("fd00:1::1", "0e:00:00:00:00:99")}
    facts = {**FACTS, 1: NetworkFacts(1450, frozenset(ports))}
    router = here(assignment, H1)
    desired = router_desired(router, facts)
    link = router.link(interface)
    assert desired.addresses == {Address(link, "fd00:1::1/64")}
    assert desired.neighbours == {Neighbour(link, "fd00:1::11", WEB[1])}
    assert Route(254, "fd00:9::/64", link, "fd00:1::7") in desired.routes
    assert desired.speaking6 == {link}
    assert not [item for item in desired.routes if item.table != 254 and ":" in item.destination]
    assert not [rule for rule in desired.policy if rule.family == 6]
    assert not desired.translation6.needed
