"""Routers and floating IPs: what the schema refuses, what is the operator's, who chooses addresses outside."""

from __future__ import annotations

from typing import Any

import pytest

from kumulus_api import PUBLIC_NAMESPACE, FloatingIP, Kind, Router
from kumulus_api.testing import FLOATING_IP_ID, ROUTER_ASSIGNMENT, ROUTER_ID, make_assigned, make_object
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.errors import ApiError, Forbidden, Invalid

PUBLIC = {"name": "public", "namespace": PUBLIC_NAMESPACE}
FORWARDING = {"protocol": "TCP", "externalPort": 80, "port": {"name": "web-eth0"}, "internalPort": 80}


@pytest.mark.parametrize(
    ("kind", "spec", "said"),
    [
        (Router, {"interfaces": [{"name": "a", "network": {"name": "n"}, "address": "1.2.3"}]}, "not an IP address"),
        (Router, {"gateway": {"network": PUBLIC, "address": "::gg"}}, "gateway.address"),
        (Router, {"routes": [{"destination": "10.0.0.0", "nextHop": "10.0.0.1"}]}, "destination"),
        (Router, {"routes": [{"destination": "10.0.0.0/8", "nextHop": "10.0.0"}]}, "nextHop is not an IP address"),
        (FloatingIP, {"address": "203.0.113"}, "address is not an IP address"),
        (FloatingIP, {"portForwardings": [FORWARDING]}, "port and portForwardings exclude each other"),
        (FloatingIP, {"port": None, "fixedAddress": "10.0.0.1"}, "fixedAddress needs a port"),
        (
            FloatingIP,
            {"port": None, "portForwardings": [FORWARDING, FORWARDING | {"internalPort": 81}]},
            "the same protocol and external port",
        ),
        (FloatingIP, {"port": None, "portForwardings": [FORWARDING | {"protocol": "ICMP"}]}, "protocol"),
    ],
)
async def test_bad_input_is_refused(admin: KubeClient, kind: type[Kind], spec: dict[str, Any], said: str) -> None:
    """A mistake is refused at once by a sentence that names the field."""
    with pytest.raises(ApiError, match=said):
        await admin.create(kind, make_object(kind, "odd", **spec))


@pytest.mark.parametrize(
    ("change", "said"),
    [({"network": {"name": "other"}}, "network cannot change"), ({"address": "203.0.113.9"}, "address cannot change")],
)
async def test_a_floating_ip_keeps_its_address(admin: KubeClient, change: dict[str, Any], said: str) -> None:
    """Where it comes from is fixed; where it leads is not."""
    name = f"kept-{next(iter(change))}"
    await admin.create(FloatingIP, make_object(FloatingIP, name))
    with pytest.raises(Invalid, match=said):
        await admin.patch_merge(FloatingIP, name, {"spec": change}, "demo")
    await admin.patch_merge(FloatingIP, name, {"spec": {"port": {"name": "other"}}}, "demo")
    await admin.patch_merge(FloatingIP, name, {"spec": {"port": None}}, "demo")


async def test_the_assignment_is_the_operators(connect: Any, admin: KubeClient) -> None:
    """Neither an administrator nor an agent says what was decided, and the operator itself changes no identity."""
    operator = await connect("operator")
    given = make_assigned(FloatingIP, "a", "h1")["spec"]["assignment"]
    decided: dict[type[Kind], dict[str, Any]] = {Router: ROUTER_ASSIGNMENT, FloatingIP: given}
    for kind, assignment in decided.items():
        await admin.create(kind, make_object(kind, "decided"))
        for user in ("admin", "agent@h1"):
            client = await connect(user)
            with pytest.raises(Forbidden):
                await client.patch_merge(kind, "decided", {"spec": {"assignment": assignment}}, "demo")
        await operator.patch_merge(kind, "decided", {"spec": {"assignment": assignment}}, "demo")
        with pytest.raises(Forbidden):
            await admin.patch_merge(kind, "decided", {"spec": {"assignment": assignment | _elsewhere(kind)}}, "demo")
        with pytest.raises(Forbidden):
            await admin.create(kind, make_object(kind, "forged", assignment=assignment))
        for forged in ({"assignment": None}, {"assignment": assignment | _other(kind)}):
            with pytest.raises(Invalid, match=r"identity|cannot change"):
                await operator.patch_merge(kind, "decided", {"spec": forged}, "demo")
        assert await (await connect("agent@h1")).get(kind, "decided", "demo") is not None


def _elsewhere(kind: type[Kind]) -> dict[str, Any]:
    return {"gateway": None} if kind is Router else {"host": "h2"}


def _other(kind: type[Kind]) -> dict[str, Any]:
    return {"routerID": FLOATING_IP_ID} if kind is Router else {"floatingIPID": ROUTER_ID}


async def test_floating_ips_are_watched_by_host(connect: Any) -> None:
    """An agent's watch can be narrowed to what is translated on its host."""
    restorer = await connect("restorer/system:masters/kumulus:restorers")
    for host in ("s1", "s2"):
        await restorer.create(FloatingIP, make_assigned(FloatingIP, f"on-{host}", host))
    found, _ = await restorer.list(FloatingIP, field_selector="spec.assignment.host=s1")
    assert [item["metadata"]["name"] for item in found] == ["on-s1"]


async def test_addresses_outside_are_chosen_by_their_owners(connect: Any, cluster: Any) -> None:
    """A member gets a free address of a public network, and chooses only where the network is his own."""
    member = "mia/routing"
    bind = ["create", "rolebinding", "routing", "--clusterrole=kumulus-project-member", "--group=routing", "-n", "demo"]
    cluster.plane.kubectl(*bind)
    tenant, admin = await connect(member), await connect("admin")
    own = {"name": "mine"}
    said = "chosen by those who may update that network"
    with pytest.raises(Forbidden, match=said):
        await tenant.create(FloatingIP, make_object(FloatingIP, "chosen", address="203.0.113.9"))
    gateway = {"network": PUBLIC, "address": "203.0.113.9"}
    with pytest.raises(Forbidden, match=said):
        await tenant.create(Router, make_object(Router, "chosen", gateway=gateway))
    await tenant.create(FloatingIP, make_object(FloatingIP, "free"))
    await tenant.create(FloatingIP, make_object(FloatingIP, "own", network=own, address="203.0.113.9"))
    await tenant.create(Router, make_object(Router, "own", gateway={"network": own, "address": "203.0.113.8"}))
    with pytest.raises(Forbidden, match=said):
        await tenant.patch_merge(Router, "own", {"spec": {"gateway": {"network": PUBLIC}}}, "demo")
    await admin.create(FloatingIP, make_object(FloatingIP, "chosen", address="203.0.113.9"))
    await tenant.patch_merge(FloatingIP, "chosen", {"spec": {"port": None}}, "demo")
    await tenant.delete(FloatingIP, "own", "demo")


async def test_readers_only_read(connect: Any, cluster: Any) -> None:
    """The reader's role sees routers and floating IPs and makes none."""
    bind = ["create", "rolebinding", "seeing", "--clusterrole=kumulus-project-reader", "--group=seeing", "-n", "demo"]
    cluster.plane.kubectl(*bind)
    reader = await connect("rita/seeing")
    for kind in (Router, FloatingIP):
        await reader.list(kind, "demo")
        with pytest.raises(Forbidden):
            await reader.create(kind, make_object(kind, "by-reader"))
