"""What hosts are told of a VPN connection, and what its Ready condition says."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

import pytest

from kumulus_api import Router, VPNConnection
from kumulus_api.router import TUNNELLED
from kumulus_api.testing import ROUTER_ASSIGNMENT, make_assigned, make_object
from kumulus_operator.refusal import Refused
from kumulus_operator.vpn_connections.plan import (
    assignment_of,
    connection_status,
    ends_of,
    taken_down,
    tunnelled,
    unheard,
    untold,
)

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def make_router(standby: str | None = None, **assignment: Any) -> Router:
    """Give the example's router with a gateway on h1."""
    given = copy.deepcopy(ROUTER_ASSIGNMENT) | assignment
    if standby is not None:
        other = {"host": standby, "tunnelAddress": "192.0.2.2"}
        given["gateway"]["takeover"] = {"priority": 100, "standby": other}
    return Router.model_validate(make_object(Router, assignment=given))


def make_connection(name: str = "office", *, assigned: bool = False, born: str = "", **spec: Any) -> VPNConnection:
    """Give a connection of the example's router."""
    body = make_assigned(VPNConnection, name, "h1") if assigned else make_object(VPNConnection, name)
    body["spec"] |= spec
    body["metadata"] |= {"creationTimestamp": born or "2026-11-22T00:00:00Z", "generation": 1}
    if assigned and "peerCIDRs" in spec:
        body["spec"]["assignment"]["peerCIDRs"] = spec["peerCIDRs"]
    return VPNConnection.model_validate(body)


def refusal(connection: VPNConnection, router: Router | None, *others: VPNConnection) -> str:
    """Give the reason for which a connection can have no tunnel."""
    with pytest.raises(Refused) as caught:
        ends_of(connection, router, others)
    assert caught.value.refusal.needs
    return caught.value.refusal.reason


def test_an_assignment_has_all_that_hosts_need() -> None:
    """Both hosts, the router's own address, identities and terms; what the user leaves out is filled in."""
    connection = make_connection(localSubnets=[])
    given = assignment_of(connection, ends_of(connection, make_router("h2"), [connection]), "7")
    assert (given.host, given.standby, given.psk_version, given.up) == ("h1", "h2", "7", True)
    assert given.local_address == given.local_id == "203.0.113.2"
    assert given.peer_id == given.peer_address == "198.51.100.9"
    assert given.local_subnets == ["10.0.0.0/24"]
    assert given.esp == connection.spec.esp
    named = make_connection(localID="head", peerID="office.example", adminStateUp=False)
    given = assignment_of(named, ends_of(named, make_router(), []), "7")
    assert (given.local_id, given.peer_id, given.up, given.standby) == ("head", "office.example", False, None)


@pytest.mark.parametrize(
    ("spec", "router", "reason"),
    [
        ({}, None, "RouterNotFound"),
        ({}, make_router(gateway=None), "NoGateway"),
        ({}, make_router(interfaces=[]), "SubnetsInvalid"),
        ({"localSubnets": ["10.0.1.0/24"]}, make_router(), "SubnetsInvalid"),
        ({"peerCIDRs": ["10.0.0.0/8"]}, make_router(), "NetworksOverlap"),
        ({"peerCIDRs": ["203.0.113.128/25"]}, make_router(), "NetworksOverlap"),
    ],
)
def test_what_cannot_be_is_refused(spec: dict[str, Any], router: Router | None, reason: str) -> None:
    """Each fault has its reason, and is looked at again when what it needs changes."""
    assert refusal(make_connection(**spec), router) == reason


def test_part_of_a_subnet_may_be_behind_a_tunnel() -> None:
    """A local subnet may be smaller than the router's."""
    assert ends_of(make_connection(localSubnets=["10.0.0.128/25"]), make_router(), []).subnets == ("10.0.0.128/25",)


def test_of_two_to_one_network_the_first_has_it() -> None:
    """The one that is assigned, else the older; on another router it may be again."""
    old, new = make_connection("z", born="2026-11-21T00:00:00Z"), make_connection("a")
    assert ends_of(old, make_router(), [old, new])
    assert refusal(new, make_router(), old, new) == "NetworksOverlap"
    served = make_connection("b", assigned=True, born="2026-11-23T00:00:00Z")
    assert ends_of(served, make_router(), [old, new, served])
    assert refusal(old, make_router(), served) == "NetworksOverlap"
    assert ends_of(old, make_router(), [make_connection("b", assigned=True, router={"name": "other"})])
    assert ends_of(old, make_router(), [make_connection("b", assigned=True, peerCIDRs=["10.21.0.0/16"])])


def test_what_can_be_no_more_is_taken_down() -> None:
    """Hosts that know of it are told to end it; what they never knew they are not told of."""
    down = taken_down(make_connection(assigned=True))
    assert down is not None
    assert not down.up
    assert taken_down(make_connection()) is None


def test_a_router_has_the_networks_behind_its_tunnels() -> None:
    """Those of its assigned connections, each once, whether they are up or not."""
    own = make_connection(assigned=True, peerCIDRs=["10.30.0.0/16", "10.20.0.0/16"])
    others = [make_connection("b"), make_connection("c", assigned=True, router={"name": "other"})]
    assert tunnelled(make_router(), [own, *others], {own.key}) == ["10.20.0.0/16", "10.30.0.0/16"]


def test_a_router_is_told_before_anybody_that_a_network_shall_be_behind_a_tunnel() -> None:
    """A connection that has nothing yet counts, and what it asks for anew; not beyond the quota, nor what overlaps."""
    new = make_connection("new", peerCIDRs=["10.40.0.0/16"])
    assert tunnelled(make_router(), [new], {new.key}) == ["10.40.0.0/16"]
    assert tunnelled(make_router(), [new], set()) == []
    assert tunnelled(make_router(gateway=None), [new], {new.key}) == []
    changed = make_connection(assigned=True)
    wanted = changed.model_copy(update={"spec": changed.spec.model_copy(update={"peer_cidrs": ["10.41.0.0/16"]})})
    assert tunnelled(make_router(), [wanted], {wanted.key}) == ["10.20.0.0/16", "10.41.0.0/16"]
    second = make_connection("second", peerCIDRs=["10.20.7.0/24"])
    inside = make_connection("inside", peerCIDRs=["10.0.0.0/16"])
    every = [changed, second, inside]
    assert tunnelled(make_router(), every, {item.key for item in every}) == ["10.20.0.0/16"]


def test_a_router_has_no_more_networks_behind_tunnels_than_it_may() -> None:
    """The connections that come too late for it are said so, and wait for others to go."""
    networks = [f"10.{100 + n // 64}.{n % 64}.0/24" for n in range(TUNNELLED + 16)]
    parts = [networks[start : start + 16] for start in range(0, len(networks), 16)]
    every = [make_connection(f"c{number:02}", peerCIDRs=part) for number, part in enumerate(parts)]
    found = tunnelled(make_router(), every, {item.key for item in every})
    assert found == sorted(networks[:TUNNELLED])
    router = make_router(tunnelled=found)
    assert untold(every[0], router) is None
    fault = untold(every[-1], router)
    assert fault is not None
    assert (fault.reason, bool(fault.needs)) == ("TooManyNetworks", True)


def heard(status: str, reason: str, host: str = "h1") -> VPNConnection:
    """Give a connection of which a host has told."""
    condition = {"type": "Established", "status": status, "reason": reason, "message": "words"}
    condition["lastTransitionTime"] = "2026-11-22T00:00:00Z"
    body = make_assigned(VPNConnection, "office", "h1")
    return VPNConnection.model_validate(body | {"status": {"host": host, "conditions": [condition]}})


@pytest.mark.parametrize(
    ("connection", "reason"),
    [
        (make_connection(assigned=True), "WaitingForHost"),
        (heard("False", "PeerGone"), "PeerGone"),
        (heard("False", "TakenDown"), "WaitingForHost"),
        (heard("True", "Established", "h9"), "WaitingForHost"),
        (heard("True", "Established"), None),
        (heard("True", "Established", "h2"), None),
        (make_connection(), None),
    ],
)
def test_ready_is_what_its_hosts_say(connection: VPNConnection, reason: str | None) -> None:
    """Only the word of the gateway's host or its standby counts."""
    found = unheard(connection)
    assert (found.reason if found is not None else None) == reason


def test_the_operator_writes_its_part_alone() -> None:
    """The condition of the host is not touched, and the same again is no write."""
    connection = heard("True", "Established")
    status = connection_status(connection, [], NOW)
    assert status is not None
    assert [item["type"] for item in status["conditions"]] == ["Ready"]
    assert status["localAddress"] == "203.0.113.2"
    body = connection.model_dump(by_alias=True)
    body["status"] |= {
        "observedGeneration": status["observedGeneration"],
        "localAddress": status["localAddress"],
        "conditions": [*body["status"]["conditions"], *status["conditions"]],
    }
    assert connection_status(VPNConnection.model_validate(body), [], NOW) is None
