"""Firewall groups: what the schema refuses, and who has a say."""

from __future__ import annotations

from typing import Any

import pytest

from kumulus_api import FirewallGroup, Router
from kumulus_api.testing import ROUTER_ASSIGNMENT, make_object
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.errors import ApiError, Forbidden


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"destinationPort": 80}, "ports need protocol"),
        ({"protocol": "ICMP", "sourcePort": 80}, "ports need protocol"),
        ({"protocol": "TCP", "destinationPort": 81, "destinationEndPort": 80}, "an end port needs a port"),
        ({"protocol": "TCP", "sourceEndPort": 80}, "an end port needs a port"),
        ({"sourceCIDR": "10.0.0.1/24"}, "without bits behind its prefix"),
        ({"destinationCIDR": "10.0.0/24"}, "a CIDR is a range"),
        ({"sourceCIDR": "10.0.0.0/24", "destinationCIDR": "fd00::/64"}, "are of one family"),
        ({"action": "Maybe"}, "action"),
    ],
)
async def test_bad_rules_are_refused(admin: KubeClient, rule: dict[str, Any], said: str) -> None:
    """A mistake is refused at once by a sentence that names the field."""
    for where in ("ingressRules", "egressRules"):
        with pytest.raises(ApiError, match=said):
            await admin.create(FirewallGroup, make_object(FirewallGroup, "odd", **{where: [{"name": "odd"} | rule]}))


async def test_names_fit_into_rules(admin: KubeClient) -> None:
    """A name is a label, rules of a list are told apart, and the largest group is accepted."""
    with pytest.raises(ApiError, match="no dots"):
        await admin.create(FirewallGroup, make_object(FirewallGroup, "a.b"))
    twice = [{"name": "one"}, {"name": "one"}]
    with pytest.raises(ApiError, match="Duplicate"):
        await admin.create(FirewallGroup, make_object(FirewallGroup, "twice", ingressRules=twice))
    rules = [
        {"name": f"r{number}", "protocol": "TCP", "sourceCIDR": "fd00:1:2:3::/64", "destinationPort": 80}
        for number in range(100)
    ]
    await admin.create(FirewallGroup, make_object(FirewallGroup, "many", ingressRules=rules, egressRules=rules))


async def test_only_the_operator_says_what_is_in_force(connect: Any, admin: KubeClient) -> None:
    """Nobody else centralises a router or takes its firewall away, and agents do not touch groups."""
    given = ROUTER_ASSIGNMENT | {"centralised": True, "firewalls": [{"group": "web", "interfaces": ["private"]}]}
    operator = await connect("operator")
    await admin.create(Router, make_object(Router, "walled"))
    await operator.patch_merge(Router, "walled", {"spec": {"assignment": given}}, "demo")
    agent = await connect("agent@h1")
    for client in (admin, agent):
        with pytest.raises(Forbidden):
            await client.patch_merge(Router, "walled", {"spec": {"assignment": {"firewalls": []}}}, "demo")
    group = make_object(FirewallGroup, "guarded")
    await admin.create(FirewallGroup, group)
    with pytest.raises(Forbidden):
        await agent.patch_merge(FirewallGroup, "guarded", {"spec": {"adminState": "Down"}}, "demo")
    with pytest.raises(Forbidden):
        await operator.patch_merge(FirewallGroup, "guarded", {"spec": {"adminState": "Down"}}, "demo")
    status = {"status": {"places": [{"router": "walled", "interfaces": ["private"], "host": "h1"}]}}
    metadata = {"metadata": {"name": "guarded", "namespace": "demo"}}
    await operator.apply_status(FirewallGroup, metadata | status, manager="kumulus-operator")
