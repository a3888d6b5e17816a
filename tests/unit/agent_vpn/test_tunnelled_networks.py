"""Where packets go that are for networks behind a tunnel: to the host that leads out, and never out in clear."""

from __future__ import annotations

import copy
import json
from typing import Any

from kumulus_agent.failover.config import VirtualRule
from kumulus_agent.networks.plan import Here, NetworkFacts
from kumulus_agent.routers import plan
from kumulus_agent.routers.desired import HereRouter, router_desired
from kumulus_agent.routers.rules import transaction
from kumulus_agent.routers.state import (
    NOWHERE,
    PREFERENCE_FLOATING,
    PREFERENCE_NOWHERE,
    PREFERENCE_TUNNELLED,
    PREFERENCE_TUNNELLED_LEADING,
    TABLE_OUT,
    TABLE_TRANSIT,
    Observed,
    PolicyRule,
    Route,
    RouterDesired,
)
from kumulus_api.floating_ip import FloatingIPAssignment
from kumulus_api.router import RouterAssignment
from kumulus_api.testing import MAC, ROUTER_ASSIGNMENT, ROUTER_ID

SITE = "10.20.0.0/16"
FACTS = {4096: NetworkFacts(1450), 4097: NetworkFacts(1500)}
FLOATING = FloatingIPAssignment.model_validate(
    {
        "floatingIPID": ROUTER_ID,
        "address": "203.0.113.10",
        "mac": MAC,
        "network": "public",
        "networkNamespace": "kumulus-public",
        "vni": 4097,
        "routerID": ROUTER_ID,
        "fixedAddress": "10.0.0.10",
        "host": "h3",
    }
)


def desired(host: str, *networks: str, standby: bool = False) -> RouterDesired:
    """Give the example's router, which h1 leads out, on a host; its floating address is on h3."""
    given: dict[str, Any] = copy.deepcopy(ROUTER_ASSIGNMENT) | {"tunnelled": list(networks)}
    if standby:
        given["gateway"]["takeover"] = {"priority": 9, "standby": {"host": "h2", "tunnelAddress": "192.0.2.2"}}
    floating = (FLOATING,) if host == "h3" else ()
    here = Here(host, "192.0.2.9", 1450)
    return router_desired(HereRouter(here, RouterAssignment.model_validate(given), floating), FACTS)


def to(network: str, preference: int, table: int) -> PolicyRule:
    """Give a rule for a network of destinations."""
    return PolicyRule(preference, table, destination=network)


def test_other_hosts_send_it_to_the_one_that_leads_out() -> None:
    """Before they look whether its source has a floating address there."""
    found = desired("h3", SITE).policy
    assert to(SITE, PREFERENCE_TUNNELLED, TABLE_TRANSIT) in found
    assert any(rule.source == "10.0.0.10" and rule.preference == PREFERENCE_FLOATING for rule in found)
    assert PREFERENCE_TUNNELLED < PREFERENCE_FLOATING
    assert to(SITE, PREFERENCE_TUNNELLED_LEADING, TABLE_OUT) in desired("h1", SITE).policy
    assert not any(rule.preference == PREFERENCE_TUNNELLED for rule in desired("h1", SITE).policy)


def test_what_no_tunnel_takes_goes_nowhere() -> None:
    """On every host that is asked for before any static route, behind what leads to the tunnel."""
    for host in ("h1", "h2", "h3"):
        assert to(SITE, PREFERENCE_NOWHERE, NOWHERE) in desired(host, SITE).policy
    assert PREFERENCE_TUNNELLED < PREFERENCE_NOWHERE < 32766


def test_the_routers_own_networks_are_reached_whatever_a_connection_says() -> None:
    """A subnet of the router that lies in a peer's network, or around it, is not behind the tunnel."""
    own = "10.0.0.0/24"
    around = {rule.destination for rule in desired("h1", "10.0.0.0/23").policy if rule.destination}
    assert around == {"10.0.1.0/24"}
    assert desired("h1", "10.0.0.64/26").translation.tunnelled == ()
    assert not any(rule.destination == own for rule in desired("h2", own).policy)


def test_connections_to_a_network_end_when_it_is_behind_a_tunnel() -> None:
    """Once, behind the rules that drop what would leave in clear, and before anything leads there."""
    for host in ("h1", "h3"):
        after, before = desired(host, SITE), plan.assumed(desired(host))
        steps = plan.plan(after, before)
        ends = [number for number, step in enumerate(steps) if isinstance(step, plan.EndConnections)]
        rules = [number for number, step in enumerate(steps) if isinstance(step, plan.Translate)]
        ways = [number for number, step in enumerate(steps) if isinstance(step, plan.Add)]
        assert len(ends) == len(rules) == 1
        assert rules[0] < ends[0] < min(ways)
        assert plan.plan(after, plan.assumed(after)) == ()


def test_what_is_behind_a_tunnel_is_said_before_any_route_leads_there() -> None:
    """A router that is made anew passes nothing there before its rules are whole."""
    after = desired("h3", SITE)
    added = [step.item for step in plan.plan(after, Observed()) if isinstance(step, plan.Add)]
    rules = [number for number, item in enumerate(added) if isinstance(item, PolicyRule) and item.destination]
    routes = [number for number, item in enumerate(added) if isinstance(item, Route)]
    assert max(rules) < min(routes)


def test_of_two_hosts_the_one_that_waits_sends_it_to_the_other() -> None:
    """The rule by which it does not is the leading one's, and comes first."""
    for host in ("h1", "h2"):
        found = desired(host, SITE, standby=True)
        assert to(SITE, PREFERENCE_TUNNELLED, TABLE_TRANSIT) in found.policy
        assert to(SITE, PREFERENCE_TUNNELLED_LEADING, TABLE_OUT) in found.virtual
        assert found.failover is not None
        assert VirtualRule(PREFERENCE_TUNNELLED_LEADING, TABLE_OUT, destination=SITE) in found.failover.rules
    assert PREFERENCE_TUNNELLED_LEADING < PREFERENCE_TUNNELLED


def test_it_does_not_leave_in_clear() -> None:
    """Wherever packets may leave by the external link those for such a network are dropped there."""
    for host in ("h1", "h3"):
        found = desired(host, SITE, "10.20.7.0/24", "192.0.2.0/25")
        assert found.translation.tunnelled == ("10.20.0.0/16", "192.0.2.0/25")
        rules = json.dumps(transaction(found.translation))
        assert '"drop"' in rules
        assert '"10.20.0.0", "len": 16' in rules
    assert "10.20.0.0" not in json.dumps(transaction(desired("h1").translation))
