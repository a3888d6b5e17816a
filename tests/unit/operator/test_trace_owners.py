"""Who is asked about an address: whose object the watches have shown."""

from __future__ import annotations

from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from kumulus_api import LoadBalancer, Network, Port, Router
from kumulus_operator.load_balancers.index import Balancers
from kumulus_operator.traces.owners import balancer_of, port_owner, routed_to, users_of
from kumulus_operator.traces.world import Owner
from kumulus_operator.views import View

ID = "00000000-0000-4000-8000-00000000000%d"
MAC = "02:00:00:00:00:01"
VERSIONS = count(1)


def put(view: View, kind: str, name: str, spec: dict[str, Any], status: dict[str, Any] | None = None) -> None:
    """Show an object of project red."""
    metadata = {"name": name, "namespace": "red", "uid": name, "resourceVersion": str(next(VERSIONS))}
    body = {"apiVersion": "kumulus.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}
    view.put(body | ({"status": status} if status is not None else {}))


def gateway(*routed: str, standby: str | None = None) -> dict[str, Any]:
    """The way out of a router on host h1."""
    given: dict[str, Any] = {
        "network": "internet",
        "networkNamespace": "public",
        "vni": 9,
        "mac": MAC,
        "addresses": ["203.0.113.2/24", "2001:db8:77::2/64"],
        "enableSNAT": True,
        "routed": list(routed),
        "host": "h1",
        "tunnelAddress": "192.0.2.1",
    }
    if standby:
        given["takeover"] = {"priority": 1, "standby": {"host": standby, "tunnelAddress": "192.0.2.2"}}
    return given


@pytest.fixture
def cloud() -> Any:
    """A router, a load balancer of two hosts, and ports."""
    made = SimpleNamespace(
        routers=View(Router),
        networks=View(Network),
        ports=View(Port),
        load_balancers=View(LoadBalancer),
        balancers=Balancers(),
    )
    out = gateway("2001:db8:1::/64", standby="h2")
    put(made.routers, "Router", "r", {"assignment": {"routerID": ID % 1, "interfaces": [], "gateway": out}})
    put(made.networks, "Network", "net", {"subnets": [{"name": "v4", "cidr": "10.0.1.0/24"}]}, {"vni": 5})
    pair = {"allowedAddressPairs": [{"address": "10.0.1.48/29"}]}
    for number, (name, more) in enumerate({"own": {}, "pair": pair, "open": {"portSecurityEnabled": False}}.items()):
        given = {"portID": ID % number, "mac": MAC, "addresses": [f"10.0.1.1{number}"], "host": f"h{number}"}
        put(made.ports, "Port", name, {"network": {"name": "net"}, "assignment": given, **more})
    takeover = {
        "priority": 1,
        "tunnelAddress": "192.0.2.1",
        "standbyTunnelAddress": "192.0.2.2",
        "port": "lb-own",
        "portID": ID % 8,
        "mac": "02:00:00:00:00:08",
        "addresses": ["10.0.1.31/24"],
    }
    assignment = {
        "loadBalancerID": ID % 9,
        "port": "lb-vip",
        "portID": ID % 9,
        "mac": MAC,
        "addresses": ["10.0.1.30/24"],
        "network": "net",
        "networkNamespace": "red",
        "vni": 5,
        "host": "h1",
        "standby": "h2",
        "takeover": takeover,
    }
    spec = {"network": {"name": "net"}, "listeners": [], "assignment": assignment}
    put(made.load_balancers, "LoadBalancer", "lb", spec)
    made.balancers.see(None, made.load_balancers.get("red", "lb"))
    return made


def test_a_prefix_is_its_routers(cloud):
    """What the outside routes to a router is sent to its address of that family, on either of its hosts."""
    assert routed_to(cloud, 9, "2001:db8:1::11") == Owner("red", "h1", "h2", "2001:db8:77::2")
    assert routed_to(cloud, 9, "2001:db8:2::11") is None
    assert routed_to(cloud, 8, "2001:db8:1::11") is None


def test_a_port_is_where_its_server_or_load_balancer_is(cloud):
    """A load balancer's port is on one of two hosts, the standby's own on that alone, and a server's on its host."""
    assert port_owner(cloud, ("red", "lb-vip")) == Owner("red", "h1", "h2")
    assert port_owner(cloud, ("red", "pair")) == Owner("red", "h1")
    assert port_owner(cloud, ("red", "gone")) == Owner("red", None)
    vip, own = (balancer_of(cloud, ("red", name)) for name in ("lb-vip", "lb-own"))
    assert vip is not None
    assert own is not None
    assert (vip.hosts, vip.port.addresses) == (("h1", "h2"), ["10.0.1.30"])
    assert (own.hosts, own.port.addresses) == (("h2",), ["10.0.1.31"])
    assert balancer_of(cloud, ("red", "pair")) is None


def test_both_hosts_of_a_centralised_router_are_asked(cloud):
    """Its addresses in its networks are on one of the two; those of a router that is everywhere are not sought."""
    interface = {"name": "net", "network": "net", "networkNamespace": "red", "vni": 5, "mac": MAC}
    given = {"routerID": ID % 1, "interfaces": [interface | {"addresses": ["10.0.1.1/24"]}]}
    for centralised, hosts in ((True, ["h1", "h2"]), (False, ["h2"])):
        assignment = given | {"gateway": gateway(standby="h2"), "centralised": centralised}
        put(cloud.routers, "Router", "r", {"assignment": assignment})
        assert users_of(cloud, 5, "10.0.1.1") == hosts


def test_those_that_may_use_an_address_are_asked(cloud):
    """Ports with a pair of that range, and without port security, of the network with that number."""
    assert users_of(cloud, 5, "10.0.1.50") == ["h1", "h2"]
    assert users_of(cloud, 5, "10.0.1.99") == ["h2"]
    assert users_of(cloud, 6, "10.0.1.50") == []
