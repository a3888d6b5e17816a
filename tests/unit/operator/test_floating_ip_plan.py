"""Where a floating IP leads, and on which host it is translated."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

import pytest

from kumulus_api import FloatingIP, Network, Port, Router
from kumulus_api.floating_ip import FloatingIPAssignment
from kumulus_api.testing import ROUTER_ASSIGNMENT, make_assigned, make_object
from kumulus_operator.floating_ips.plan import Leads, World, assignment_of, external_subnets, floating_status, lead
from kumulus_operator.refusal import Refused

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def make_port(name: str = "web-eth0", *addresses: str) -> Port:
    """Give a port that has its addresses."""
    body = make_assigned(Port, name, "h2")
    body["spec"]["assignment"]["addresses"] = list(addresses or ("10.0.0.10",))
    return Port.model_validate(body)


def make_router(name: str = "r", *, deleting: bool = False, network: str = "public") -> Router:
    """Give a router from `private` to an external network, which leads out on host h1."""
    body = make_object(Router, name, assignment=copy.deepcopy(ROUTER_ASSIGNMENT))
    body["spec"]["assignment"]["gateway"]["network"] = network
    if deleting:
        body["metadata"]["deletionTimestamp"] = "2026-11-22T00:00:00Z"
    return Router.model_validate(body)


def make_floating(**spec: Any) -> FloatingIP:
    """Give a floating IP that has its address."""
    assignment = make_assigned(FloatingIP, "x", "h2")["spec"]["assignment"]
    unbound = {k: v for k, v in assignment.items() if k not in {"router", "routerID", "fixedAddress", "host"}}
    return FloatingIP.model_validate(make_object(FloatingIP, "fip", **({"assignment": unbound} | spec)))


def given(floating: FloatingIP) -> FloatingIPAssignment:
    """Give what was decided of it."""
    assert floating.spec.assignment is not None
    return floating.spec.assignment


def make_world(*ports: Port, **overrides: Any) -> World:
    """Give a world with one router; ports' servers are on h2, which reaches the external network."""
    found = {port.metadata.name: port for port in ports or (make_port(),)}
    fields: dict[str, Any] = {
        "port": found.get,
        "routers": [make_router()],
        "host_of": lambda name: "h2",
        "reached": lambda host: True,
        "holder": lambda router, address: None,
    }
    return World(**(fields | overrides))


def refusal(floating: FloatingIP, world: World) -> tuple[str, str]:
    """Give reason and message of the refusal to lead there."""
    with pytest.raises(Refused) as caught:
        lead(floating, given(floating), world)
    return caught.value.refusal.reason, caught.value.refusal.message


def forwarding(port: str, external: int, **fields: Any) -> dict[str, Any]:
    """Give a port forwarding."""
    return {"protocol": "TCP", "externalPort": external, "port": {"name": port}, "internalPort": 80} | fields


def test_it_is_translated_where_the_server_is() -> None:
    """On the server's host where that reaches the external network, else on the gateway's."""
    floating = make_floating()
    for reached, host in ((True, "h2"), (False, "h1")):
        found = lead(floating, given(floating), make_world(reached=lambda _, answer=reached: answer))
        assert (found.host, found.fixed, found.faults) == (host, "10.0.0.10", ())
        decided = assignment_of(given(floating), found)
        assert (decided.host, decided.router, decided.router_id) == (
            host,
            "r",
            ROUTER_ASSIGNMENT["routerID"],
        )


def test_without_a_server_it_is_translated_nowhere() -> None:
    """It keeps its router, which it needs, and waits."""
    floating = make_floating()
    found = lead(floating, given(floating), make_world(host_of=lambda _: None))
    decided = assignment_of(given(floating), found)
    assert (decided.host, decided.router, decided.fixed_address) == (None, "r", "10.0.0.10")
    assert [fault.reason for fault in found.faults] == ["NoHost"]


def test_which_address_of_the_port() -> None:
    """The one that is asked for, else its first IPv4 address; one that it has not is refused."""
    world = make_world(make_port("web-eth0", "fd00::5", "10.0.0.10", "10.0.0.11"))
    for asked, fixed in ((None, "10.0.0.10"), ("10.0.0.11", "10.0.0.11")):
        floating = make_floating(fixedAddress=asked)
        assert lead(floating, given(floating), world).fixed == fixed
    reason, message = refusal(make_floating(fixedAddress="10.0.0.12"), world)
    assert (reason, "has no address 10.0.0.12 but fd00::5, 10.0.0.10" in message) == ("AddressInvalid", True)
    reason, _ = refusal(make_floating(), make_world(make_port("web-eth0", "fd00::5")))
    assert reason == "AddressInvalid"


def make_dual(address: str = "2001:db8:77::2/64") -> Router:
    """Give a router with both families inside, and perhaps outside."""
    body = make_object(Router, "r", assignment=copy.deepcopy(ROUTER_ASSIGNMENT))
    body["spec"]["assignment"]["gateway"]["addresses"].append(address)
    body["spec"]["assignment"]["interfaces"][0]["addresses"].append("fd00::1/64")
    return Router.model_validate(body)


def test_one_of_ipv6_leads_to_an_address_of_ipv6() -> None:
    """By a router that has IPv6 outside and in the port's subnet; an address of the other family is refused."""
    assignment = given(make_floating()).dump() | {"address": "2001:db8:77::10"}
    port = make_port("web-eth0", "10.0.0.10", "fd00::5", "fd00::6")
    world = make_world(port, routers=[make_dual()])
    for asked, fixed in ((None, "fd00::5"), ("fd00::6", "fd00::6")):
        floating = make_floating(assignment=assignment, fixedAddress=asked)
        assert lead(floating, given(floating), world).fixed == fixed
    reason, message = refusal(make_floating(assignment=assignment, fixedAddress="10.0.0.10"), world)
    assert (reason, "no address 10.0.0.10" in message) == ("AddressInvalid", True)
    only_four = make_world(port, routers=[make_dual("203.0.113.3/24")])
    assert refusal(make_floating(assignment=assignment), only_four)[0] == "NoRouter"
    rules = [forwarding("web-eth0", 80)]
    floating = make_floating(assignment=assignment, port=None, portForwardings=rules)
    assert [item["address"] for item in lead(floating, given(floating), world).forwardings] == ["fd00::5"]


@pytest.mark.parametrize(
    ("address", "subnet", "chosen"),
    [
        (None, None, ["v4"]),
        (None, "v6", ["v6"]),
        (None, "v4", ["v4"]),
        ("2001:db8:77::9", None, ["v6"]),
        ("203.0.113.9", None, ["v4"]),
    ],
)
def test_which_family_it_is_of(address: str | None, subnet: str | None, chosen: list[str]) -> None:
    """Of IPv4 unless a subnet or an address says otherwise; what the network has not is refused."""
    subnets = [{"name": "v6", "cidr": "2001:db8:77::/64"}, {"name": "v4", "cidr": "203.0.113.0/24"}]
    network = Network.model_validate(make_object(Network, "public", external=True, subnets=subnets))
    assert [item.name for item in external_subnets(network, address, subnet)] == chosen
    with pytest.raises(Refused, match="has no v5 but v6, v4"):
        external_subnets(network, None, "v5")
    with pytest.raises(Refused, match="203"):
        external_subnets(network, "2001:db8:77::9", "v4")
    six = Network.model_validate(make_object(Network, "public", external=True, subnets=subnets[:1]))
    assert [item.name for item in external_subnets(six, None)] == ["v6"]


def test_refusals_have_their_reasons() -> None:
    """No port, a port of another floating IP, no router: each is told."""
    assert refusal(make_floating(port={"name": "none"}), make_world())[0] == "PortUnknown"
    reason, message = refusal(make_floating(), make_world(holder=lambda router, address: "other"))
    assert (reason, "floating IP other leads to 10.0.0.10" in message) == ("PortInUse", True)
    for routers in ([], [make_router(network="elsewhere")], [make_router(deleting=True)]):
        assert refusal(make_floating(), make_world(routers=routers))[0] == "NoRouter"
    elsewhere = make_assigned(Port, "web-eth0", "h2")
    elsewhere["spec"]["network"] = {"name": "x"}
    moved = Port.model_validate(elsewhere)
    assert refusal(make_floating(), make_world(moved))[0] == "NoRouter"


def test_its_router_stays() -> None:
    """Of several routers it keeps its own, also one that is being deleted, which waits for it."""
    floating = make_floating(assignment=make_assigned(FloatingIP, "x", "h2")["spec"]["assignment"] | {"router": "z"})
    routers = [make_router("a"), make_router("z", deleting=True)]
    found = lead(floating, given(floating), make_world(routers=routers))
    assert found.router is not None
    assert found.router.metadata.name == "z"
    fresh = make_floating()
    found = lead(fresh, given(fresh), make_world(routers=[make_router("b"), make_router("a")]))
    assert found.router is not None
    assert found.router.metadata.name == "a"


def test_ports_are_forwarded_at_the_gateway() -> None:
    """Each port leads where it is said; one that cannot is told and left out."""
    rules = [forwarding("a", 80), forwarding("none", 81), forwarding("b", 82, protocol="UDP", address="10.0.0.21")]
    floating = make_floating(port=None, portForwardings=rules)
    world = make_world(make_port("a", "10.0.0.10"), make_port("b", "10.0.0.20", "10.0.0.21"))
    found = lead(floating, given(floating), world)
    decided = assignment_of(given(floating), found)
    assert [(item.protocol, item.external_port, item.address) for item in decided.forwardings] == [
        ("TCP", 80, "10.0.0.10"),
        ("UDP", 82, "10.0.0.21"),
    ]
    assert (decided.host, decided.fixed_address, decided.router) == ("h1", None, "r")
    assert [fault.reason for fault in found.faults] == ["PortUnknown"]
    nothing = lead(floating, given(floating), make_world(routers=[]))
    assert assignment_of(given(floating), nothing) == given(floating)


def test_what_leads_nowhere_needs_no_router() -> None:
    """An address without a port has neither router nor host, whatever it had before."""
    bound = FloatingIP.model_validate(make_assigned(FloatingIP, "x", "h2"))
    decided = assignment_of(given(bound), Leads())
    assert (decided.router, decided.router_id, decided.host, decided.fixed_address) == (None, None, None, None)
    assert (decided.address, decided.mac) == (given(bound).address, given(bound).mac)


def test_deciding_again_changes_nothing() -> None:
    """The plan of what was carried out is what was carried out."""
    floating = make_floating()
    decided = assignment_of(given(floating), lead(floating, given(floating), make_world()))
    again = make_floating(assignment=decided.dump())
    assert assignment_of(decided, lead(again, decided, make_world())) == decided


@pytest.mark.parametrize(
    ("address", "external", "reason"),
    [("198.51.100.1", True, "AddressInvalid"), ("203.0.113.1", True, "AddressInvalid"), (None, False, "NotExternal")],
)
def test_an_address_is_of_an_external_network(*, address: str | None, external: bool, reason: str) -> None:
    """One outside of its subnets, and the subnet's own, are refused; so is a network that is not external."""
    subnets = [{"name": "v4", "cidr": "203.0.113.0/24", "gateway": "203.0.113.1"}]
    network = Network.model_validate(make_object(Network, "public", external=external, subnets=subnets))
    with pytest.raises(Refused) as caught:
        external_subnets(network, address)
    assert caught.value.refusal.reason == reason


def test_the_same_is_said_once() -> None:
    """A status that says so already causes no write; Unbound is Ready, as nothing was asked for."""
    bound = FloatingIP.model_validate(make_assigned(FloatingIP, "x", "h2"))
    status = floating_status(bound, [], NOW)
    assert status is not None
    assert status["conditions"][0]["message"] == "leads to 10.0.0.10 of port web-eth0"
    again = FloatingIP.model_validate(bound.model_dump(by_alias=True) | {"status": status})
    assert floating_status(again, [], NOW) is None
    unbound = floating_status(make_floating(port=None), [], NOW)
    assert unbound is not None
    assert (unbound["conditions"][0]["status"], unbound["conditions"][0]["reason"]) == ("True", "Unbound")
