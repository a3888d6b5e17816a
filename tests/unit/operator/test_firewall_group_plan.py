"""Which firewall group is on which interface, with which rules, and what it says."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

import pytest

from kumulus_api import FirewallGroup, Router
from kumulus_api.firewall_group import AssignedFirewall, FirewallGroupReason
from kumulus_api.router import RouterReason
from kumulus_api.testing import ROUTER_ASSIGNMENT, make_object
from kumulus_operator.firewall_groups.plan import Findings, closed, find, firewall_status, firewalls_of

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def make_group(name: str = "web", *interfaces: str, made: int = 1, **spec: Any) -> FirewallGroup:
    """Give a group on interfaces of the router r, or on all."""
    routers = [{"name": "r", "interfaces": list(interfaces)}]
    body = make_object(FirewallGroup, name, **({"routers": routers} | spec))
    body["metadata"]["creationTimestamp"] = f"2026-11-22T00:00:0{made}Z"
    return FirewallGroup.model_validate(body)


def make_router(*firewalls: AssignedFirewall, gateway: bool = True, names: tuple[str, ...] = ("a", "b")) -> Router:
    """Give a router with interfaces, on which groups are."""
    assignment = copy.deepcopy(ROUTER_ASSIGNMENT)
    (first,) = assignment["interfaces"]
    assignment["interfaces"] = [first | {"name": name} for name in names]
    assignment |= {"centralised": bool(firewalls), "firewalls": [item.dump() for item in firewalls]}
    if not gateway:
        del assignment["gateway"]
    interfaces = [{"name": name, "network": {"name": "private"}} for name in names]
    return Router.model_validate(make_object(Router, "r", interfaces=interfaces, assignment=assignment))


def on(groups: list[AssignedFirewall]) -> dict[str, list[str]]:
    """Give the interfaces of each group."""
    return {item.group: item.interfaces for item in groups}


def test_an_interface_has_one_group_the_oldest_that_wants_it() -> None:
    """Of two groups the older gets what both want, and the other what is left."""
    old, new = make_group("old", "a", made=1), make_group("new", made=2)
    for order in ([old, new], [new, old]):
        assert on(firewalls_of(make_router(), ["a", "b"], order)) == {"old": ["a"], "new": ["b"]}


def test_a_group_keeps_the_interface_that_it_has() -> None:
    """An older group that wants it later does not take it away; when the holder leaves, the other gets it."""
    old, new = make_group("old", "a", made=1), make_group("new", "a", made=2)
    router = make_router(*firewalls_of(make_router(), ["a", "b"], [new]))
    assert on(firewalls_of(router, ["a", "b"], [old, new])) == {"new": ["a"]}
    assert on(firewalls_of(router, ["a", "b"], [old, make_group("new", "b", made=2)])) == {"old": ["a"], "new": ["b"]}
    assert on(firewalls_of(router, ["a", "b"], [old])) == {"old": ["a"]}
    assert not firewalls_of(router, ["a", "b"], [])


def test_rules_are_resolved() -> None:
    """The family comes from the CIDRs, ports are first and last, and what is not enabled is left out."""
    rules = [
        {"name": "one", "action": "Allow", "protocol": "TCP", "sourceCIDR": "fd00::/64", "destinationPort": 80},
        {"name": "two", "protocol": "UDP", "sourcePort": 1, "sourceEndPort": 9},
        {"name": "off", "action": "Allow", "enabled": False},
    ]
    (given,) = firewalls_of(make_router(), ["a"], [make_group(ingressRules=rules)])
    one, two = given.ingress
    assert (one.ip_version, one.source_ports, one.destination_ports) == (6, [], [80, 80])
    assert (two.ip_version, two.action, two.source_ports) == (None, "Deny", [1, 9])
    (down,) = firewalls_of(make_router(), ["a"], [make_group(ingressRules=rules, adminState="Down")])
    assert not down.ingress
    assert not down.egress


@pytest.mark.parametrize(
    ("group", "router", "reason"),
    [
        (make_group(), None, FirewallGroupReason.ROUTER_NOT_FOUND),
        (make_group("web", "z"), make_router(), FirewallGroupReason.INTERFACE_NOT_FOUND),
        (make_group(), make_router(names=()), FirewallGroupReason.ROUTER_NOT_READY),
        (
            make_group("web", "a"),
            make_router(*firewalls_of(make_router(), ["a"], [make_group("other")])),
            FirewallGroupReason.INTERFACE_IN_USE,
        ),
        (
            make_group("web", "a"),
            make_router(*firewalls_of(make_router(), ["a"], [make_group("web", "a")]), gateway=False),
            FirewallGroupReason.NO_GATEWAY,
        ),
    ],
)
def test_what_it_lacks_is_told(group: FirewallGroup, router: Router | None, reason: FirewallGroupReason) -> None:
    """Each refusal has its reason, and names the router."""
    found = find(group, lambda _: router)
    assert [item.reason for item in found.faults] == [reason.value]
    assert "outer r" in found.faults[0].message
    assert not found.due
    status = firewall_status(group, found, NOW)
    assert status is not None
    assert status["conditions"][0]["status"] == "False"


def test_it_says_where_it_is_in_force_when_the_router_has_its_rules() -> None:
    """Before the router was given the rules that it has now, nothing is said; and nothing that was said already."""
    group = make_group("web", "a")
    assert find(group, lambda _: make_router()).due
    router = make_router(*firewalls_of(make_router(), ["a", "b"], [group]))
    found = find(group, lambda _: router)
    assert [(place.router, place.interfaces, place.host) for place in found.places] == [("r", ["a"], "h1")]
    status = firewall_status(group, found, NOW)
    assert status is not None
    assert status["conditions"][0]["reason"] == "InForce"
    assert (
        firewall_status(
            group.model_copy(update={"status": type(group).model_validate(group.dump() | {"status": status}).status}),
            found,
            NOW,
        )
        is None
    )
    assert find(make_group("web", "a", egressRules=[]), lambda _: router).due


def test_a_group_that_names_no_router_is_inactive() -> None:
    """It is as it should be, and in force nowhere."""
    status = firewall_status(make_group(routers=[]), Findings(), NOW)
    assert status is not None
    assert [(item["status"], item["reason"]) for item in status["conditions"]] == [("True", "Inactive")]


def test_a_router_that_routes_nothing_says_so() -> None:
    """With a group and without gateway it is closed; without group or with a gateway it is not."""
    firewalls = firewalls_of(make_router(), ["a"], [make_group()])
    gateway = make_router().spec.assignment.gateway  # type: ignore[union-attr]
    assert [item.reason for item in closed(firewalls, None)] == [RouterReason.NO_GATEWAY.value]
    assert not closed(firewalls, gateway)
    assert not closed([], None)
