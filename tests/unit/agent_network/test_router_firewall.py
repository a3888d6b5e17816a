"""The firewall of a centralised router as data: what it decides, where it is, and how it is known again."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from kumulus_agent.network.elements import elements
from kumulus_agent.network.groups import Flow
from kumulus_agent.network.rules import Element
from kumulus_agent.network.state import NetworkDesired, RouterPort
from kumulus_agent.network.tracked import Connection
from kumulus_agent.networks.plan import Here, NetworkFacts
from kumulus_agent.routers import plan
from kumulus_agent.routers.central import answering, firewall_of, hosts_of
from kumulus_agent.routers.desired import HereRouter, router_desired, routers_here
from kumulus_agent.routers.firewall import (
    Firewall,
    Guard,
    Rule,
    allows,
    applied,
    decides,
    group_of,
    parse,
    sealed,
    version,
)
from kumulus_agent.routers.state import Address, Route
from kumulus_agent.routers.tracked import changed
from kumulus_api.floating_ip import FloatingIPAssignment
from kumulus_api.router import RouterAssignment

ID = "11111111-1111-4111-8111-111111111111"
H1, H2, H3 = (Here(f"h{number}", f"192.0.2.{number}", 1450) for number in (1, 2, 3))
FACTS = {1: NetworkFacts(1450), 2: NetworkFacts(1450), 9: NetworkFacts(1500)}
ALLOW = Rule("all", "Allow")


def make_assignment(*, standby: bool = False, gateway: bool = True, **overrides) -> RouterAssignment:
    """A centralised router of networks 1 and 2 with a group on both, which h1 leads out, and h2 may."""
    interfaces = [
        {
            "name": f"net{vni}",
            "network": f"net{vni}",
            "networkNamespace": "red",
            "vni": vni,
            "mac": f"0e:00:00:00:00:{vni:02x}",
            "addresses": [f"10.0.{vni}.1/24"],
        }
        for vni in (1, 2)
    ]
    body = {
        "routerID": ID,
        "interfaces": interfaces,
        "centralised": True,
        "firewalls": [{"group": "web", "interfaces": ["net1", "net2"]}],
    }
    if gateway:
        body["gateway"] = {
            "network": "internet",
            "networkNamespace": "public",
            "vni": 9,
            "mac": "0e:00:00:00:00:ee",
            "addresses": ["203.0.113.2/24"],
            "nextHops": ["203.0.113.1"],
            "enableSNAT": True,
            "host": "h1",
            "tunnelAddress": "192.0.2.1",
        }
        if standby:
            waiting = {"host": "h2", "tunnelAddress": "192.0.2.2"}
            body["gateway"]["takeover"] = {"priority": 100, "standby": waiting}
    return RouterAssignment.model_validate(body | overrides)


def flow(source: str, destination: str, port: int = 80, protocol: int = 6) -> Flow:
    """The first packet of a connection."""
    return Flow(protocol, ip_address(source), ip_address(destination), 40000, port)


def test_the_first_rule_that_is_about_a_connection_decides():
    """Rules are asked in their order, and what none is about is denied."""
    deny = Rule("deny", "Deny", source=ip_network("10.0.1.11/32"))
    web = Rule("web", "Allow", protocol=6, destination_ports=(80, 81))
    assert not decides((deny, web), flow("10.0.1.11", "10.0.2.1"))
    assert decides((web, deny), flow("10.0.1.11", "10.0.2.1"))
    assert not decides((web,), flow("10.0.1.12", "10.0.2.1", 82))
    assert not decides((web,), flow("10.0.1.12", "10.0.2.1", 80, protocol=17))
    assert not decides((Rule("reject", "Reject"), ALLOW), flow("10.0.1.12", "10.0.2.1"))
    assert not decides((), flow("10.0.1.12", "10.0.2.1"))


def test_a_rule_about_icmp_is_about_that_of_either_family():
    """ICMP is ICMPv6 between IPv6 addresses, and a rule with a family is about no other."""
    ping, ping6 = flow("10.0.1.11", "10.0.2.1", 0, 1), flow("fd00::1", "fd00::2", 0, 58)
    assert decides((Rule("icmp", "Allow", 1),), ping)
    assert decides((Rule("icmp", "Allow", 1),), ping6)
    assert not decides((Rule("icmp", "Allow", 1, family=6),), ping)
    assert str(applied(Firewall((Guard("web", ("kr1",), (Rule("icmp", "Allow", 1),)),)))).count("58") == 1


@pytest.mark.parametrize(
    ("egress", "ingress", "passes"),
    [((ALLOW,), (ALLOW,), True), ((ALLOW,), (), False), ((), (ALLOW,), False)],
)
def test_a_connection_passes_what_it_comes_from_and_what_it_goes_to(egress, ingress, passes):
    """The group of the network where it begins is asked for egress, the one where it ends for ingress."""
    guards = (Guard("one", ("kr1",), egress=egress), Guard("two", ("kr2",), ingress=ingress))
    firewall = Firewall(guards, (("10.0.1.0/24", "kr1"), ("10.0.2.0/24", "kr2")))
    assert allows(firewall, flow("10.0.1.11", "10.0.2.11")) is passes


def test_what_is_in_no_network_of_the_router_is_outside():
    """Of a connection with the outside only the inner end is judged; the narrowest network tells where an end is."""
    guards = (Guard("one", ("kr1",)), Guard("two", ("kr2",), ingress=(ALLOW,)))
    firewall = Firewall(guards, (("10.0.0.0/8", "kr1"), ("10.0.2.0/24", "kr2")))
    assert allows(firewall, flow("198.51.100.7", "10.0.2.11"))
    assert not allows(firewall, flow("198.51.100.7", "10.9.9.9"))
    assert allows(firewall, flow("198.51.100.7", "198.51.100.8"))


def test_connections_are_marked_that_are_to_be_marked_otherwise():
    """One that is not allowed is marked, one that is allowed again is freed, others are left alone."""
    web = Rule("web", "Allow", 6, destination_ports=(80, 80))
    firewall = Firewall((Guard("web", ("kr2",), (web,)),), (("10.0.2.0/24", "kr2"),))
    good, bad = flow("10.0.1.11", "10.0.2.11"), flow("10.0.1.11", "10.0.2.11", 81)
    found = [Connection(good, refused) for refused in (False, True)] + [
        Connection(bad, refused) for refused in (False, True)
    ]
    assert changed(firewall, found) == [Connection(good, False), Connection(bad, True)]


def test_rules_are_known_again_when_connections_were_held_to_them():
    """What was applied and not sealed is not whole; other rules and other networks have other versions."""
    firewall = firewall_of(make_assignment())
    objects = [command["add"] for command in applied(firewall)["nftables"] if "add" in command]
    assert parse([]) is None
    assert parse(objects) == ""
    assert parse([*objects, *(command["add"] for command in sealed(firewall)["nftables"])]) == version(firewall)
    others = (replace(firewall, ways=()), replace(firewall, guards=()))
    assert len({version(item) for item in (firewall, *others)}) == 3
    assert version(Firewall()) == ""


def test_chains_name_their_group():
    """By the name of a chain a trace knows the group that decided."""
    assert group_of("ingress-web") == ("ingress", "web")
    assert group_of("egress-a-b") == ("egress", "a-b")
    assert group_of("judged") is None
    assert group_of("outgoing-x") is None


def test_a_centralised_router_is_on_the_hosts_of_its_gateway_alone():
    """Another host that has ports in its networks only knows where it is; without gateway it is nowhere."""
    for assignment, placed in ((make_assignment(), {"h1"}), (make_assignment(standby=True), {"h1", "h2"})):
        found = {on.host: routers_here([assignment], [], {1}, on)[ID] for on in (H1, H2, H3)}
        assert {name for name, router in found.items() if router.placed} == placed
        assert not list(found["h3"].ports())
        assert {tunnel for _, (_, tunnel) in found["h3"].transit()} == set(hosts_of(assignment).values())
        assert {key.vni for key in found["h3"].networks()} == {1, 2}
    nowhere = make_assignment(gateway=False)
    assert not routers_here([nowhere], [], {1}, H1)[ID].placed
    assert not list(routers_here([nowhere], [], {1}, H1)[ID].transit())


def test_hosts_have_macs_of_their_own_and_others_know_them():
    """What a host says of where an interface is, is what its hosts have there."""
    assignment = make_assignment(standby=True)
    macs = {}
    for on in (H1, H2):
        macs |= {
            (vni, port.mac): on.underlay_address for vni, port in HereRouter(on, assignment).ports() if port.central
        }
    assert len(macs) == 4
    assert {(vni, mac): tunnel for vni, (mac, tunnel) in HereRouter(H3, assignment).transit()} == macs
    (address,) = answering([assignment], 1).items()
    assert address[0] == "10.0.1.1"
    assert macs[1, address[1]] == H1.underlay_address


def test_vrrp_moves_the_addresses_of_a_centralised_routers_interfaces():
    """Neither host has them for good; both have the routes, the rules, and no link for other hosts' ways out."""
    assignment = make_assignment(standby=True)
    for on in (H1, H2):
        desired = router_desired(HereRouter(on, assignment), FACTS)
        assert not desired.addresses
        assert {item.text for item in desired.virtual if isinstance(item, Address)} >= {"10.0.1.1/32", "10.0.2.1/32"}
        assert {item.destination for item in desired.routes if isinstance(item, Route)} >= {
            "10.0.1.0/24",
            "10.0.2.0/24",
        }
        assert desired.firewall.guards[0].links
        assert "169.254.0.1" not in str(desired.virtual)
    alone = router_desired(HereRouter(H1, make_assignment()), FACTS)
    assert {item.text for item in alone.addresses} == {"10.0.1.1/24", "10.0.2.1/24"}


def test_a_floating_address_brings_no_centralised_router():
    """Until the operator has moved it to the gateway's host, it is translated nowhere."""
    floating = FloatingIPAssignment.model_validate(
        {
            "floatingIPID": ID,
            "address": "203.0.113.10",
            "mac": "0e:00:00:00:00:ff",
            "network": "internet",
            "networkNamespace": "public",
            "vni": 9,
            "routerID": ID,
            "host": "h3",
            "fixedAddress": "10.0.1.11",
        }
    )
    assert not routers_here([make_assignment()], [floating], set(), H3)


def test_nothing_passes_before_the_rules_are_there():
    """Rules come before links; where there were none, connections that were not judged are forgotten."""
    desired = router_desired(HereRouter(H1, make_assignment()), FACTS)
    steps = plan.plan(desired, plan.Observed())
    kinds = [type(step) for step in steps]
    assert kinds.index(plan.Judge) < kinds.index(plan.CreateJoin)
    (step,) = [step for step in steps if isinstance(step, plan.Judge)]
    assert step.anew
    assert not plan.plan(desired, plan.assumed(desired))
    for known in ("", "other"):
        (again,) = plan.plan(desired, replace(plan.assumed(desired), firewall=known))
        assert isinstance(again, plan.Judge)
        assert not again.anew
    open_again = replace(desired, firewall=Firewall())
    assert [type(step) for step in plan.plan(open_again, plan.assumed(desired))] == [plan.Judge]


def test_a_centralised_routers_link_is_no_gateway_of_every_host():
    """Its frames go to other hosts by its own MAC; it advertises itself, and so do frames from where it is."""
    port = RouterPort("kr1", "0e:00:00:00:00:01", distributed=False, central=True)
    here = set(elements(NetworkDesired(1, 1450, "192.0.2.1", routers=(port,)), 1, {}))
    assert {Element("central", ("kr1",)), Element("advertisers", ("kr1",))} <= here
    assert not {item for item in here if item.set in ("gateways", "gatewaymacs")}
    away = set(elements(NetworkDesired(1, 1450, "192.0.2.1", centred=True), 1, {}))
    assert Element("advertisers", ("kx000001",)) in away
