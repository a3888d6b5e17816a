"""What a router joins, keeps and says, and which host leads out for it."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from ipaddress import ip_network
from types import SimpleNamespace
from typing import Any

import pytest

from kumulus_api import Host, Network, Router
from kumulus_api.testing import ROUTER_ASSIGNMENT, make_object
from kumulus_operator.ledger.counted import Counted
from kumulus_operator.networks.plan import edge_endpoints
from kumulus_operator.refusal import Refused
from kumulus_operator.routers.index import Edges
from kumulus_operator.routers.plan import (
    Joined,
    Needed,
    gateway_needed,
    interests,
    join,
    lead_out,
    reachable_routes,
    router_status,
)
from kumulus_operator.routers.ways import least_used, objection, reaches
from kumulus_operator.views import View
from kumulus_runtime.conditions import set_condition

READY = set_condition([], "Ready", True, "Fine", "", 1)
NOW = datetime(2026, 11, 22, tzinfo=UTC)


def make_network(name: str, cidr: str = "10.0.0.0/24", namespace: str = "demo", **spec: Any) -> dict[str, Any]:
    """Give a Ready network with one subnet whose gateway is the first address."""
    subnet = {"name": "v4", "cidr": cidr, "gateway": str(next(ip_network(cidr).hosts()))}
    metadata = {"name": name, "namespace": namespace, "uid": f"{namespace}/{name}", "resourceVersion": "1"}
    status = {"vni": 4096 + len(name), "conditions": READY}
    return {"metadata": metadata, "spec": {"subnets": [subnet]} | spec, "status": status}


def make_catalog(*networks: dict[str, Any]) -> Any:
    """Give what a router's networks are looked up in."""
    view = View(Network)
    for body in networks:
        view.put(body)
    return SimpleNamespace(networks=view)


def make_router(*interfaces: dict[str, Any], assigned: bool = False, **spec: Any) -> Router:
    """Give a router of the project `demo`; an assigned one has `private` and leads out to `public`."""
    wanted = {"interfaces": list(interfaces), "gateway": None, "routes": []} | spec
    if assigned:
        wanted["assignment"] = copy.deepcopy(ROUTER_ASSIGNMENT)
    return Router.model_validate(make_object(Router, "r", **wanted))


def inside(name: str, network: str | None = None, **fields: Any) -> dict[str, Any]:
    """Give an interface on the network of its name."""
    return {"name": name, "network": {"name": network or name}} | fields


def make_host(name: str = "h1", *, ready: bool = True, physical: bool = False, **spec: Any) -> Host:
    """Give a host with a tunnel, which may reach physical network `lan`."""
    mapped = [{"name": "lan", "interface": "eth1", "mtu": 1500, "reaches": ["Flat"], "obstacles": []}]
    status = {
        "tunnelAddress": "192.0.2.1",
        "conditions": set_condition([], "Ready", ready, "SelfTest", "", 1),
        "physicalNetworks": mapped if physical else [],
    }
    return Host.model_validate(make_object(Host, name, **spec) | {"status": status})


def reasons(joined: Joined) -> list[str]:
    """Give why interfaces are not there."""
    return [fault.reason for fault in joined.faults]


def test_an_interface_has_its_subnets_gateway_or_its_own_address() -> None:
    """The gateway is the default; another address is one that a port could have."""
    catalog = make_catalog(make_network("a"), make_network("b", "10.1.0.0/24"))
    joined = join(make_router(inside("a"), inside("b", address="10.1.0.7")), catalog, Needed())
    assert [(item.name, item.address) for item in joined.joints] == [("a", "10.0.0.1"), ("b", "10.1.0.7")]
    assert not joined.faults
    for address in ("10.1.0.0", "10.1.0.255", "10.1.0.254", "10.2.0.1"):
        joined = join(make_router(inside("b", address=address)), catalog, Needed())
        assert reasons(joined) == ["AddressInvalid"]


def test_absent_and_foreign_networks_are_told_in_the_same_words() -> None:
    """A project learns nothing of another's networks."""
    router = make_router({"name": "x", "network": {"name": "secret", "namespace": "other"}})
    there = join(router, make_catalog(make_network("secret", namespace="other")), Needed())
    absent = join(router, make_catalog(), Needed())
    assert there.faults == absent.faults
    assert reasons(there) == ["NetworkNotReady"]


def test_a_shared_subnets_gateway_is_for_its_own_project() -> None:
    """Whoever had a public subnet's gateway address would get the packets of all its servers."""
    catalog = make_catalog(make_network("shared", namespace="kumulus-public"))
    shared = {"name": "shared", "namespace": "kumulus-public"}
    for fields in ({}, {"address": "10.0.0.1"}):
        joined = join(make_router({"name": "s", "network": shared} | fields), catalog, Needed())
        assert reasons(joined) == ["ForeignGateway"]
    joined = join(make_router({"name": "s", "network": shared, "address": "10.0.0.9"}), catalog, Needed())
    assert [item.address for item in joined.joints] == ["10.0.0.9"]


@pytest.mark.parametrize("order", [("private", "wide"), ("wide", "private")])
def test_of_overlapping_subnets_the_assigned_one_stays(order: tuple[str, str]) -> None:
    """A new interface takes nothing from one that is there, wherever the spec puts it."""
    catalog = make_catalog(make_network("private"), make_network("wide", "10.0.0.0/16"))
    joined = join(make_router(*(inside(name) for name in order), assigned=True), catalog, Needed())
    assert [item.name for item in joined.joints] == ["private"]
    assert reasons(joined) == ["OverlappingSubnets"]


def test_an_interface_stays_while_its_network_is_deleted() -> None:
    """It is served as long as the spec says it, and the fault is told."""
    network = make_network("private")
    network["metadata"]["deletionTimestamp"] = "2026-11-22T00:00:00Z"
    joined = join(make_router(inside("private"), assigned=True), make_catalog(network), Needed())
    assert [item.name for item in joined.kept] == ["private"]
    assert reasons(joined) == ["NetworkNotReady"]


def test_what_floating_ips_need_is_kept() -> None:
    """An interface that was removed, or leads elsewhere now, stays while a floating IP leads into its subnet."""
    catalog = make_catalog(make_network("private"), make_network("other", "10.7.0.0/24"))
    needed = Needed({"10.0.0.10": ["b", "a"], "10.99.0.1": ["c"]})
    for interfaces in ([], [inside("private", "other")]):
        joined = join(make_router(*interfaces, assigned=True), catalog, needed)
        assert [item.addresses for item in joined.kept] == [["10.0.0.1/24"]]
        (fault,) = joined.faults
        assert fault.reason == "InUse"
        assert "interface private: 2 floating IPs (a, b) still need it" in fault.message
    assert join(make_router(assigned=True), catalog, Needed({"10.99.0.1": ["c"]})) == Joined()


def test_the_gateway_is_needed_while_floating_ips_lead_through_it() -> None:
    """Another external network, or none, waits for them; the same one with other settings does not."""
    needed = Needed({"10.0.0.10": ["a"]})
    public = {"network": {"name": "public", "namespace": "kumulus-public"}}
    for gateway, kept in ((None, True), ({"network": {"name": "other"}}, True), (public, False)):
        assert (gateway_needed(make_router(assigned=True, gateway=gateway), needed) is not None) == kept
    assert gateway_needed(make_router(assigned=True), Needed()) is None


def test_the_way_out_keeps_its_address() -> None:
    """An address that was given is asked for again; one that the user chooses goes before it."""
    catalog = make_catalog(make_network("public", "203.0.113.0/24", "kumulus-public", external=True))
    public = {"network": {"name": "public", "namespace": "kumulus-public"}}
    for chosen, wanted in ((None, "203.0.113.2"), ("203.0.113.9", "203.0.113.9")):
        router = make_router(assigned=True, gateway=public | ({"address": chosen} if chosen else {}))
        assert router.spec.gateway is not None
        way = lead_out(router, router.spec.gateway, catalog, [])
        assert [address for _, address in way.wanted] == [wanted]
    fresh = make_router(gateway=public)
    assert fresh.spec.gateway is not None
    assert [address for _, address in lead_out(fresh, fresh.spec.gateway, catalog, []).wanted] == [None]


@pytest.mark.parametrize(
    ("external", "inner", "address", "reason"),
    [
        (False, "10.0.0.0/24", None, "NotExternal"),
        (True, "203.0.0.0/16", None, "OverlappingSubnets"),
        (True, "10.0.0.0/24", "10.0.0.5", "AddressInvalid"),
        (True, "10.0.0.0/24", "203.0.113.1", "AddressInvalid"),
    ],
)
def test_a_way_out_that_cannot_be_had(*, external: bool, inner: str, address: str | None, reason: str) -> None:
    """It leads to an external network that is none of those inside, by an address that is nobody's already."""
    catalog = make_catalog(make_network("public", "203.0.113.0/24", external=external))
    gateway = {"network": {"name": "public"}} | ({"address": address} if address else {})
    router = make_router(gateway=gateway)
    assert router.spec.gateway is not None
    with pytest.raises(Refused) as caught:
        lead_out(router, router.spec.gateway, catalog, [ip_network(inner)])
    assert caught.value.refusal.reason == reason


def test_routes_lead_to_neighbours_only() -> None:
    """A next hop is in a subnet of the router, inside or outside, is not the router, and is of the route's family."""
    hops = {"10.0.0.9": True, "203.0.113.1": True, "10.0.0.1": False, "203.0.113.2": False, "10.1.0.1": False}
    hops["fd00::1"] = False
    routes = [{"destination": "192.0.2.0/24", "nextHop": hop} for hop in hops]
    router = make_router(assigned=True, routes=routes)
    given = router.spec.assignment
    assert given is not None
    kept, faults = reachable_routes(router, given.interfaces, given.gateway)
    assert [item["nextHop"] for item in kept] == [hop for hop, good in hops.items() if good]
    assert len(faults) == 4


def test_the_fewest_routers_decide() -> None:
    """Of hosts that can, the one with the fewest routers is taken, the first by name of equal ones."""
    assert least_used(["b", "a"], {}) == "a"
    assert least_used(["b", "a"], {"a": 1}) == "b"
    assert least_used([], {"a": 1}) is None


def test_a_host_that_was_just_chosen_counts() -> None:
    """Routers that are decided at once spread as those do that come one after the other, and none counts twice."""
    edges = Edges()
    router = make_router(assigned=True)
    edges.router(None, router)
    edges.choosing |= {router.key: "h1", ("demo", "new"): "h1", ("demo", "other"): "h2"}
    assert edges.led_out() == {"h1": 2, "h2": 1}
    edges.choosing.clear()
    edges.router(router, None)
    assert edges.led_out() == {}


@pytest.mark.parametrize(
    ("host", "said"),
    [
        (None, "gone"),
        (make_host(), None),
        (make_host(schedulable=False), None),
        (make_host(ready=False), "not Ready"),
        (make_host(maintenance=True), "in maintenance"),
        (make_host(decommissioned=True), "decommissioned"),
    ],
)
def test_which_hosts_lead_out(host: Host | None, said: str | None) -> None:
    """A host that is well leads out, also one that takes no servers."""
    assert objection(host, Network.model_validate(make_network("public", external=True))) == said


def test_a_physical_network_is_reached_by_cable() -> None:
    """A tunnel is no way to it; an interface that carries less than the network is none either."""
    lan = make_network("lan", type="Provider", provider={"physicalNetwork": "lan"})
    jumbo = make_network("jumbo", type="Provider", provider={"physicalNetwork": "lan", "mtu": 9000})
    assert reaches(make_host(physical=True), Network.model_validate(lan))
    assert not reaches(make_host(physical=True), Network.model_validate(jumbo))
    assert not reaches(make_host(), Network.model_validate(lan))
    assert objection(make_host(), Network.model_validate(lan)) == "without physical network lan (Flat)"


def test_the_same_is_said_once() -> None:
    """A status that says so already causes no write; several faults are counted behind the first."""
    router = make_router(inside("private"), assigned=True)
    status = router_status(router, [], NOW)
    assert status is not None
    assert status["conditions"][0]["message"] == "joins 1 subnet, leads out on host h1"
    again = Router.model_validate(router.model_dump(by_alias=True) | {"status": status})
    assert router_status(again, [], NOW) is None
    faults = join(make_router(inside("x"), inside("y")), make_catalog(), Needed()).faults
    told = router_status(again, faults, NOW)
    assert told is not None
    assert told["conditions"][0]["message"].endswith("(and 1 more)")


def test_a_router_waits_for_what_it_names() -> None:
    """Its networks, the quota and, to lead out, hosts."""
    router = make_router(inside("a"), gateway={"network": {"name": "p", "namespace": "kumulus-public"}})
    needs = interests(router)
    assert {("Network", "demo", "a"), ("Network", "kumulus-public", "p"), ("Quota", "demo", "")} <= needs


def test_only_routers_that_lead_there_are_endpoints() -> None:
    """An external overlay has its routers' gateways; one that has but an interface in it has none there."""
    router = make_router(assigned=True)
    assert edge_endpoints(("kumulus-public", "public"), [router], [], {"h1": "192.0.2.1"}).keys() == {
        f"router.{ROUTER_ASSIGNMENT['routerID']}"
    }
    assert edge_endpoints(("demo", "private"), [router], [], {"h1": "192.0.2.1"}) == {}
    assert edge_endpoints(("kumulus-public", "public"), [router], [], {}) == {}


def test_nothing_is_counted_beyond_the_limit() -> None:
    """What was admitted before counts and is never refused; what is withdrawn makes room once."""
    told: list[str] = []
    counted = Counted("routers", {"demo": 2}.get, told.append)
    assert counted.admit(("demo", "a"), admitted=True) is None
    assert counted.admit(("demo", "b")) is None
    assert counted.admit(("demo", "b")) is None
    assert counted.admit(("demo", "c")) == "2 of 2 routers are in use"
    assert counted.admit(("other", "c")) is None
    assert counted.withdraw(("demo", "a"))
    assert not counted.withdraw(("demo", "a"))
    assert counted.admit(("demo", "c")) is None
    assert counted.admit(("demo", "d"), admitted=True) is None
    assert (counted.count("demo"), counted.count("other")) == (3, 1)
    assert told == ["demo", "demo", "other", "demo", "demo", "demo"]
