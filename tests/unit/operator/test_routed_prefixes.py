"""Which IPv6 subnets go out as they are: within what the outside routes here, and by one router each."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

from kumulus_api import Network, Router
from kumulus_api.router import AssignedGateway, AssignedInterface
from kumulus_api.testing import ROUTER_ASSIGNMENT, make_object
from kumulus_operator.routers.index import Edges
from kumulus_operator.routers.routed import RoutedPrefixes, of_gateway, within_reach

FOUR, ONE, TWO, FAR = "10.0.0.1/24", "2001:db8:1::1/64", "2001:db8:1:1::1/64", "fd00:1::1/64"
KEY = ("kumulus-public", "public")


def make_network(*routed: str) -> Network:
    """Give an external network."""
    metadata = {"name": KEY[1], "namespace": KEY[0], "uid": "x", "resourceVersion": "1"}
    body = make_object(Network, "public", type="Overlay", external=True, provider=None, routedPrefixes=list(routed))
    return Network.model_validate(body | {"metadata": metadata})


def make_interface(name: str, *addresses: str) -> AssignedInterface:
    """Give an interface of a router."""
    return AssignedInterface.model_validate(ROUTER_ASSIGNMENT["interfaces"][0] | {"name": name, "addresses": addresses})


def make_gateway(*routed: str) -> AssignedGateway:
    """Give a gateway of both families."""
    addresses = ["203.0.113.2/24", "2001:db8:77::2/64"]
    return AssignedGateway.model_validate(ROUTER_ASSIGNMENT["gateway"] | {"addresses": addresses, "routed": routed})


def make_router(name: str, *routed: str, age: int = 0) -> Router:
    """Give a router that leads these out."""
    assignment = copy.deepcopy(ROUTER_ASSIGNMENT)
    assignment["gateway"] = make_gateway(*routed).dump()
    body = make_object(Router, name, assignment=assignment)
    body["metadata"]["creationTimestamp"] = f"2026-11-22T00:00:{age:02d}Z"
    return Router.model_validate(body)


def make_prefixes(network: Network, *routers: Router) -> RoutedPrefixes:
    """Give what decides, in a world with these."""
    edges = Edges()
    for router in routers:
        edges.router(None, router)
    by_name = {router.key: router for router in routers}
    views: Any = {
        "networks": SimpleNamespace(get=lambda *key: network if key == KEY else None),
        "routers": SimpleNamespace(get=lambda *key: by_name.get(key)),
        "edges": edges,
    }
    return RoutedPrefixes(SimpleNamespace(**views))  # type: ignore[arg-type]


def test_only_what_the_external_network_routes_goes_out() -> None:
    """A subnet within a routed range does, one around it or elsewhere does not; nothing said means none."""
    interfaces = [make_interface("a", FOUR), make_interface("b", FAR), make_interface("c", TWO, ONE)]
    both = ["2001:db8:1::/64", "2001:db8:1:1::/64"]
    assert [str(item) for item in within_reach(interfaces, make_network("2001:db8:1::/48"))] == both
    assert [str(item) for item in within_reach(interfaces, make_network("2001:db8:1:1::/64"))] == both[1:]
    assert within_reach(interfaces, make_network()) == []
    assert within_reach(interfaces, make_network("2001:db8:1:1::/65")) == []


def test_a_subnet_leaves_by_one_router() -> None:
    """Whoever has it keeps it; another is told, without a name, and gets it when it is given up."""
    network, interfaces = make_network("2001:db8:1::/48"), [make_interface("a", ONE), make_interface("b", TWO)]
    first, second = make_router("first", "2001:db8:1::/64", age=9), make_router("second")
    prefixes = make_prefixes(network, first, second)
    gateway, faults = prefixes.choose(second, interfaces, make_gateway())
    assert gateway.routed == ["2001:db8:1:1::/64"]
    assert [(fault.reason, "first" in fault.message) for fault in faults] == [("OverlappingSubnets", False)]
    assert faults[0].needs == {("RoutedPrefix", *KEY)}
    kept, faults = prefixes.choose(first, interfaces[:1], make_gateway("2001:db8:1::/64"))
    assert (kept.routed, faults) == (["2001:db8:1::/64"], [])
    gateway, faults = make_prefixes(network, second).choose(second, interfaces, make_gateway())
    assert (len(gateway.routed), faults) == (2, [])


def test_of_two_that_decide_at_once_one_gets_it() -> None:
    """What is decided and not yet seen by the watch counts, until it is written."""
    network, interfaces = make_network("2001:db8:1::/48"), [make_interface("a", ONE)]
    one, other = make_router("one"), make_router("other")
    prefixes = make_prefixes(network, one, other)
    assert prefixes.choose(one, interfaces, make_gateway())[0].routed
    assert not prefixes.choose(other, interfaces, make_gateway())[0].routed
    prefixes.forget(one.key)
    assert prefixes.choose(other, interfaces, make_gateway())[0].routed


def test_of_two_that_have_the_same_the_older_keeps_it() -> None:
    """As after a restore from an old backup: it does not go to and fro."""
    network, interfaces = make_network("2001:db8:1::/48"), [make_interface("a", ONE)]
    old, young = (make_router(name, "2001:db8:1::/64", age=age) for name, age in (("z", 1), ("a", 2)))
    prefixes = make_prefixes(network, old, young)
    assert not prefixes.choose(young, interfaces, make_gateway())[0].routed
    prefixes.forget(young.key)
    assert prefixes.choose(old, interfaces, make_gateway())[0].routed


def test_without_ipv6_outside_nothing_is_routed() -> None:
    """A gateway with an IPv4 address alone leads no IPv6 out."""
    router = make_router("r", "2001:db8:1::/64")
    gateway = make_gateway("2001:db8:1::/64").model_copy(update={"addresses": ["203.0.113.2/24"]})
    prefixes = make_prefixes(make_network("2001:db8:1::/48"), router)
    assert prefixes.choose(router, [make_interface("a", ONE)], gateway) == (
        gateway.model_copy(update={"routed": []}),
        [],
    )
    assert of_gateway(None) is None
