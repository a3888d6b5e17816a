"""Which members a load balancer has, and on which hosts it is."""

from __future__ import annotations

import copy
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from kumulus_api import LoadBalancer, Network, Server
from kumulus_api.load_balancer import LoadBalancerAssignment
from kumulus_api.load_balancer_status import LoadBalancerReason
from kumulus_api.testing import make_assigned, make_object
from kumulus_operator.load_balancers.hosts import Hosts, Seen, choose_hosts
from kumulus_operator.load_balancers.index import Balancers
from kumulus_operator.load_balancers.plan import (
    MOST_MEMBERS,
    Members,
    addresses_with,
    former_version,
    listeners_of,
    load_balancer_status,
    next_hops,
    unheard,
)
from kumulus_operator.networks.plan import balancer_endpoints

NOW = datetime(2026, 11, 22, tzinfo=UTC)
NETWORK = ("demo", "private")


def make_server(name: str, *addresses: str, labels: dict[str, str] | None = None, network: str = "private") -> Server:
    """Give a server that has a host, and addresses in a network."""
    body = make_assigned(Server, name, "h1")
    body["metadata"]["labels"] = labels or {}
    port = body["spec"]["assignment"]["ports"][0]
    port |= {"addresses": list(addresses), "network": network}
    return Server.model_validate(body)


def make_balancer(pool: dict[str, Any] | None = None, **listener: Any) -> LoadBalancer:
    """Give a load balancer with one listener."""
    body = make_assigned(LoadBalancer, "lb", "h1")
    (only,) = body["spec"]["listeners"]
    only |= {"pool": pool if pool is not None else only["pool"]} | listener
    return LoadBalancer.model_validate(body)


def make_members(*servers: Server, version: int = 4) -> Members:
    """Give where members are looked up."""
    known = {server.metadata.name: server for server in servers}
    return Members(NETWORK, version, known.get, known.values)


def given_to(host: str, standby: str | None) -> LoadBalancerAssignment:
    """Give an assignment to hosts."""
    body = copy.deepcopy(make_assigned(LoadBalancer, "lb", host)["spec"]["assignment"])
    return LoadBalancerAssignment.model_validate(body | {"standby": standby})


def test_a_member_has_the_address_of_its_server_in_the_network() -> None:
    """A named server's address is the one of its port in the load balancer's network; without one it has none."""
    pool = {"members": [{"name": name, "server": {"name": name}, "port": 80} for name in ("a", "b", "c")]}
    found = make_members(make_server("a", "10.0.0.11"), make_server("b", "10.1.0.5", network="other"))
    (listener,), faults = listeners_of(make_balancer(pool), found)
    assert [(member.name, member.address) for member in listener.members] == [
        ("a", "10.0.0.11"),
        ("b", None),
        ("c", None),
    ]
    assert faults == []


@pytest.mark.parametrize(("version", "expected"), [(4, "10.0.0.11"), (6, "2001:db8::11")])
def test_a_members_address_is_of_the_load_balancers_family(version: int, expected: str) -> None:
    """Of a server with both families the address of the load balancer's own family is taken."""
    pool = {"members": [{"name": "a", "server": {"name": "a"}, "port": 80}]}
    found = make_members(make_server("a", "2001:db8::11", "10.0.0.11"), version=version)
    (listener,), _ = listeners_of(make_balancer(pool), found)
    assert listener.members[0].address == expected


def test_a_server_that_is_being_deleted_gets_no_connections() -> None:
    """A member whose server is being deleted has no address any more."""
    server = make_server("a", "10.0.0.11")
    going = server.model_copy(
        update={"metadata": server.metadata.model_copy(update={"deletion_timestamp": "2026-11-22T00:00:00Z"})}
    )
    pool = {"members": [{"name": "a", "server": {"name": "a"}, "port": 80}]}
    (listener,), _ = listeners_of(make_balancer(pool), make_members(going))
    assert listener.members[0].address is None


def test_a_load_balancer_is_no_member_of_itself() -> None:
    """A member with the load balancer's own address is left out, and told of; the others stay."""
    pool = {"members": [{"name": n, "address": a, "port": 80} for n, a in (("a", "10.0.0.30"), ("b", "10.0.0.31"))]}
    found = replace(make_members(), own=frozenset({"10.0.0.30"}))
    (listener,), (fault,) = listeners_of(make_balancer(pool), found)
    assert [member.name for member in listener.members] == ["b"]
    assert fault.reason == LoadBalancerReason.MEMBER_INVALID


def test_labels_find_members_besides() -> None:
    """Servers that have all labels of the selector are members by their names, but for those that are named already."""
    pool = {
        "members": [{"name": "first", "server": {"name": "a"}, "port": 81}],
        "memberSelector": {"matchLabels": {"app": "web", "tier": "front"}, "port": 80},
    }
    both = {"app": "web", "tier": "front"}
    found = make_members(
        make_server("c", "10.0.0.13", labels=both | {"more": "x"}),
        make_server("a", "10.0.0.11", labels=both),
        make_server("b", "10.0.0.12", labels={"app": "web"}),
    )
    (listener,), _ = listeners_of(make_balancer(pool), found)
    assert [(m.name, m.address, m.port) for m in listener.members] == [
        ("first", "10.0.0.11", 81),
        ("c", "10.0.0.13", 80),
    ]


def test_more_members_than_a_listener_takes_are_told() -> None:
    """Of too many servers the first by name are members, and the load balancer says so."""
    pool = {"memberSelector": {"matchLabels": {"app": "web"}, "port": 80}}
    servers = [make_server(f"s{i:03}", "10.0.0.9", labels={"app": "web"}) for i in range(MOST_MEMBERS + 1)]
    (listener,), (fault,) = listeners_of(make_balancer(pool), make_members(*servers))
    assert len(listener.members) == MOST_MEMBERS
    assert fault.reason == LoadBalancerReason.TOO_MANY_MEMBERS


def make_secure(*, version: str | None = None, secret: str = "cert") -> LoadBalancer:
    """Give a load balancer with one listener more, whose TLS ends there, and perhaps did before."""
    body = make_assigned(LoadBalancer, "lb", "h1")
    (only,) = body["spec"]["listeners"]
    tls = {"name": "secure", "port": 443, "protocol": "HTTPS", "tls": {"secret": {"name": "cert"}}}
    body["spec"]["listeners"].append(only | tls)
    if version is not None:
        (former,) = body["spec"]["assignment"]["listeners"]
        had = tls | {"tls": {"secret": {"name": secret}}, "certificateVersion": version}
        body["spec"]["assignment"]["listeners"].append(former | had)
    return LoadBalancer.model_validate(body)


def test_a_listener_without_certificate_is_left_out() -> None:
    """A listener of protocol HTTPS is served when its certificate is known, in that version; the others always are."""
    without, _ = listeners_of(make_secure(), make_members())
    assert [item.name for item in without] == ["web"]
    found = replace(make_members(), certificates={"secure": "17"})
    listeners, faults = listeners_of(make_secure(), found)
    assert [(item.name, item.certificate_version) for item in listeners] == [("web", None), ("secure", "17")]
    assert faults == []


@pytest.mark.parametrize(
    ("balancer", "expected"),
    [(make_secure(), None), (make_secure(version="9"), "9"), (make_secure(version="9", secret="other"), None)],
)
def test_a_certificate_that_is_served_is_kept(balancer: LoadBalancer, expected: str | None) -> None:
    """A listener that serves with a certificate of the Secret that it names has it still, and no other."""
    assert former_version(balancer, balancer.spec.listeners[1]) == expected


def test_hosts_are_kept_while_they_are_able() -> None:
    """A load balancer stays where it is, whatever other hosts have."""
    assert choose_hosts(given_to("h2", "h3"), Seen(["h1", "h2", "h3"], {"h2": 9, "h3": 9})) == Hosts("h2", "h3")


def test_the_standby_takes_over() -> None:
    """Where the host is able no more its standby has the addresses, and another is the standby."""
    assert choose_hosts(given_to("h2", "h3"), Seen(["h1", "h3", "h4"], {"h1": 5, "h4": 1})) == Hosts("h3", "h4")


def test_a_new_one_goes_where_the_fewest_are() -> None:
    """A new load balancer is on the host with the fewest; of several on the first by name."""
    assert choose_hosts(None, Seen(["h3", "h1", "h2"], {"h1": 1})) == Hosts("h2", "h3")


def test_without_an_able_host_it_stays() -> None:
    """Where no host is able a load balancer is kept where it is, and a new one has none."""
    assert choose_hosts(given_to("h2", "h3"), Seen([])) == Hosts("h2", None)
    assert choose_hosts(None, Seen([])) == Hosts(None)


def test_hosts_that_were_just_chosen_count() -> None:
    """Counts have what was just chosen, each load balancer once."""
    balancers = Balancers()
    balancers.see(None, make_balancer())
    balancers.choosing = {("demo", "lb"): frozenset({"h1"}), ("demo", "other"): frozenset({"h1", "h3"})}
    assert balancers.counts() == {"h1": 2, "h2": 1, "h3": 1}


def test_addresses_have_their_subnets_prefix_and_gateway() -> None:
    """Addresses are given with the prefix length of their subnets, IPv4 first, and a gateway for each family."""
    six = {"name": "v6", "cidr": "2001:db8::/64", "gateway": "2001:db8::1", "ipv6Mode": "SLAAC"}
    body = make_object(Network, "private")
    body["spec"]["subnets"].append(six)
    network = Network.model_validate(body)
    assert addresses_with(network, ["2001:db8::30", "10.0.0.30"]) == ["10.0.0.30/24", "2001:db8::30/64"]
    assert next_hops(network, ["2001:db8::30", "10.0.0.30"]) == ["10.0.0.1", "2001:db8::1"]


def _served(host: str, status: str) -> LoadBalancer:
    condition = {
        "type": "Serving",
        "status": status,
        "reason": "Balancing",
        "message": "why",
        "lastTransitionTime": "2026-11-22T00:00:00Z",
    }
    body = make_assigned(LoadBalancer, "lb", "h1") | {"status": {"host": host, "conditions": [condition]}}
    return LoadBalancer.model_validate(body)


@pytest.mark.parametrize(
    ("balancer", "reason"),
    [
        (make_balancer(), LoadBalancerReason.WAITING_FOR_HOST),
        (_served("h2", "True"), LoadBalancerReason.WAITING_FOR_HOST),
        (_served("h1", "False"), LoadBalancerReason.NOT_SERVING),
        (_served("h1", "True"), None),
    ],
)
def test_ready_is_what_its_host_tells(balancer: LoadBalancer, reason: LoadBalancerReason | None) -> None:
    """A load balancer is served if the agent of the host that it is on now says so."""
    fault = unheard(balancer)
    assert (fault.reason if fault is not None else None) == reason


def test_a_status_is_written_once() -> None:
    """The operator's part of a status, once written, is not written again, whatever the agent wrote beside it."""
    balancer = _served("h1", "True")
    status = load_balancer_status(balancer, [], NOW)
    assert status is not None
    assert balancer.status is not None
    found = balancer.status.dump()
    merged = found | status | {"conditions": [*found["conditions"], *status["conditions"]]}
    written = LoadBalancer.model_validate(balancer.dump() | {"status": merged})
    assert load_balancer_status(written, [], NOW) is None


def test_its_address_is_an_endpoint_of_its_network() -> None:
    """The load balancer's port is told to the network's hosts as ports of servers are: where its host is reached."""
    (endpoint,) = balancer_endpoints(NETWORK, [make_balancer()], {"h1": "192.0.2.1"}.get, lambda *_: None).values()
    assert endpoint["port"] == "example-vip"
    assert endpoint["addresses"] == ["10.0.0.30"]
    assert (endpoint["host"], endpoint["tunnelAddress"]) == ("h1", "192.0.2.1")
    assert endpoint["groups"] == ["default"]
    assert balancer_endpoints(NETWORK, [make_balancer()], lambda _: None, lambda *_: None) == {}


def test_datagrams_have_members_of_both_families() -> None:
    """For UDP a server has an address of each family that the load balancer has; for TCP one is enough."""
    pool = {"members": [{"name": "a", "server": {"name": "a"}, "port": 80}]}
    server = make_server("a", "2001:db8::11", "10.0.0.11")
    both = replace(make_members(server), own=frozenset({"10.0.0.30", "2001:db8::30"}))
    ((listener,), faults), ((web,), _) = (
        listeners_of(make_balancer(pool, protocol=protocol), both) for protocol in ("UDP", "TCP")
    )
    assert faults == []
    assert [(item.address, item.second_address) for item in listener.members] == [("10.0.0.11", "2001:db8::11")]
    assert web.members[0].second_address is None
    one = replace(both, own=frozenset({"10.0.0.30"}))
    ((listener,), _) = listeners_of(make_balancer(pool, protocol="UDP"), one)
    assert listener.members[0].second_address is None


def test_a_member_that_no_datagram_reaches_is_told() -> None:
    """A member of the other family alone is a fault for UDP, and none for TCP, which is two connections."""
    pool = {"members": [{"name": "six", "address": "2001:db8::7", "port": 80}]}
    found = replace(make_members(), own=frozenset({"10.0.0.30"}))
    _, (fault,) = listeners_of(make_balancer(pool, protocol="UDP"), found)
    assert fault.reason == LoadBalancerReason.MEMBER_INVALID
    assert "member six is at 2001:db8::7" in fault.message
    assert listeners_of(make_balancer(pool, protocol="TCP"), found)[1] == []
