"""Load balancers: what the schema refuses, what is the operator's, and what an agent may tell."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from kumulus_api import IN_USE, LoadBalancer
from kumulus_api.testing import make_assigned, make_object
from kumulus_lab.testing.objects import fresh
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.errors import ApiError, Forbidden, Invalid

RESTORER = "restorer/system:masters/kumulus:restorers"
TLS = {"secret": {"name": "cert"}}


def listener(pool: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """Give a listener of the example, changed."""
    found = copy.deepcopy(make_object(LoadBalancer)["spec"]["listeners"][0])
    found["pool"] |= pool or {}
    return {key: value for key, value in (found | fields).items() if value is not None}


def datagrams(algorithm: str = "RoundRobin", **fields: Any) -> dict[str, Any]:
    """Give a listener that takes datagrams."""
    pool = {"algorithm": algorithm, "members": [], "healthCheck": {"type": "UDPConnect"}}
    return {"name": "dns", "protocol": "UDP", "port": 53, "pool": pool} | fields


def member(**fields: Any) -> dict[str, Any]:
    """Give a pool of one member."""
    return {"members": [{"name": "one", "port": 80, **fields}]}


def check(**fields: Any) -> dict[str, Any]:
    """Give a pool with a health check."""
    return {"healthCheck": fields}


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"address": "10.0.0"}, "address is not an IP address"),
        ({"listeners": [listener(protocol="SCTP")]}, 'Unsupported value: "SCTP"'),
        ({"listeners": [listener(protocol="UDP")]}, "sessionPersistence needs protocol HTTP or HTTPS"),
        ({"listeners": [datagrams(tls=TLS)]}, "tls goes with protocol HTTPS"),
        ({"listeners": [datagrams(algorithm="LeastConnections")]}, "do not say when a connection ends"),
        ({"listeners": [datagrams(), datagrams(name="b")]}, "two listeners have the same port"),
        ({"listeners": [listener(pool=check(type="UDPConnect"))]}, "type UDPConnect needs protocol UDP"),
        ({"listeners": [listener(protocol="HTTPS")]}, "tls goes with protocol HTTPS, and HTTPS needs it"),
        ({"listeners": [listener(tls=TLS)]}, "tls goes with protocol HTTPS"),
        ({"listeners": [listener(), listener(name="b")]}, "two listeners have the same port"),
        ({"listeners": [listener(), listener(port=81)]}, "Duplicate value"),
        ({"listeners": [listener(allowedCIDRs=["10.0.0.0"])]}, "allowedCIDR"),
        ({"listeners": [listener(pool=member())]}, "a member is a server or an address"),
        (
            {"listeners": [listener(pool=member(address="10.0.0.1", server={"name": "a"}))]},
            "a member is a server or an address",
        ),
        ({"listeners": [listener(pool=member(address="10.0.0"))]}, "address is not an IP address"),
        ({"listeners": [listener(pool=member(address="10.0.0.1", weight=257))]}, "weight"),
        *(
            ({"listeners": [listener(pool=member(address=address))]}, "not one machine's in a network")
            for address in ("127.0.0.1", "169.254.169.254", "224.0.0.1", "::1", "fe80::1", "0.0.0.0")
        ),
        ({"listeners": [listener(pool={"memberSelector": {"matchLabels": {}, "port": 1}})]}, "at least one label"),
        ({"listeners": [listener(protocol="TCP")]}, "sessionPersistence needs protocol HTTP or HTTPS"),
        ({"listeners": [listener(pool={"sessionPersistence": {"cookieName": "a b"}})]}, "cookieName"),
        ({"listeners": [listener(pool=check(type="TCP", path="/"))]}, "path, host and expectedCodes need type HTTP"),
        ({"listeners": [listener(pool=check(type="HTTP", path="/a b"))]}, "healthCheck.path"),
        ({"listeners": [listener(pool=check(type="HTTP", expectedCodes="99"))]}, "expectedCodes"),
        ({"listeners": [listener(pool=check(intervalSeconds=2, timeoutSeconds=3))]}, "not above intervalSeconds"),
    ],
)
async def test_bad_input_is_refused(admin: KubeClient, spec: dict[str, Any], said: str) -> None:
    """A mistake is refused at once by a sentence that names the field."""
    with pytest.raises(ApiError, match=said):
        await admin.create(LoadBalancer, make_object(LoadBalancer, "odd", **spec))


async def test_a_port_is_listened_on_by_both_protocols(admin: KubeClient) -> None:
    """A name server has one port for TCP and UDP; datagrams are spread by turns or by their source."""
    both = [datagrams(algorithm="SourceIP"), {"name": "tcp", "protocol": "TCP", "port": 53, "pool": {"members": []}}]
    body = await admin.create(LoadBalancer, make_object(LoadBalancer, "names", listeners=both))
    assert [item["port"] for item in body["spec"]["listeners"]] == [53, 53]


async def test_a_name_fits_dns(admin: KubeClient) -> None:
    """A name that no DNS label holds with its port's ending is refused."""
    for name in ("a" * 60, "a.b"):
        with pytest.raises(Invalid, match="at most 59 characters, no dots"):
            await admin.create(LoadBalancer, make_object(LoadBalancer, name))


async def test_it_keeps_its_address_and_has_its_finalizer(admin: KubeClient) -> None:
    """Network and address are fixed, listeners are not; the finalizer comes with the object and stays."""
    body = await admin.create(LoadBalancer, make_object(LoadBalancer, "kept"))
    assert body["metadata"]["finalizers"] == [IN_USE]
    for change, said in (
        ({"network": {"name": "other"}}, "network cannot change"),
        ({"address": "10.0.0.31"}, "address cannot change"),
    ):
        with pytest.raises(Invalid, match=said):
            await admin.patch_merge(LoadBalancer, "kept", {"spec": change}, "demo")
    await admin.patch_merge(LoadBalancer, "kept", {"spec": {"listeners": [listener(port=8080)]}}, "demo")
    with pytest.raises(Forbidden, match="removed by the operator"):
        await admin.patch_merge(LoadBalancer, "kept", {"metadata": {"finalizers": []}}, "demo")


async def test_the_assignment_is_the_operators(connect: Any, admin: KubeClient) -> None:
    """Neither an administrator nor an agent says what was decided, and the operator itself changes no identity."""
    operator = await connect("operator")
    given = make_assigned(LoadBalancer, "a", "h1")["spec"]["assignment"]
    await admin.create(LoadBalancer, make_object(LoadBalancer, "decided"))
    for user in ("admin", "agent@h1"):
        with pytest.raises(Forbidden):
            await (await connect(user)).patch_merge(LoadBalancer, "decided", {"spec": {"assignment": given}}, "demo")
    await operator.patch_merge(LoadBalancer, "decided", {"spec": {"assignment": given}}, "demo")
    with pytest.raises(Forbidden):
        await admin.patch_merge(LoadBalancer, "decided", {"spec": {"assignment": {"host": "h2"}}}, "demo")
    with pytest.raises(Forbidden):
        await admin.create(LoadBalancer, make_object(LoadBalancer, "forged", assignment=given))
    for forged in ({"assignment": None}, {"assignment": given | {"mac": "02:00:00:00:00:99"}}):
        with pytest.raises(Invalid, match="keeps its identity"):
            await operator.patch_merge(LoadBalancer, "decided", {"spec": forged}, "demo")
    await operator.patch_merge(LoadBalancer, "decided", {"spec": {"assignment": given | {"host": "h2"}}}, "demo")


async def test_an_agent_tells_of_what_its_host_has(connect: Any) -> None:
    """The agent of the host that has a load balancer writes its status, no other does, and no agent anything else."""
    restorer = await connect(RESTORER)
    await fresh(restorer, LoadBalancer, make_assigned(LoadBalancer, "told", "h1"))
    metadata = {"name": "told", "namespace": "demo"}
    own, other = await connect("agent@h1"), await connect("agent@h2")
    lie = {"metadata": metadata, "status": {"host": "h2", "members": []}}
    truth = {"metadata": metadata, "status": {"host": "h1", "members": []}}
    await own.apply_status(LoadBalancer, truth, manager="kumulus-agent")
    with pytest.raises(Forbidden, match="no other host"):
        await own.apply_status(LoadBalancer, lie, manager="kumulus-agent")
    with pytest.raises(Forbidden):
        await own.patch_merge(LoadBalancer, "told", {"spec": {"description": "x"}}, "demo")
    for body in (lie, truth):
        with pytest.raises(Forbidden, match="not assigned to host h2"):
            await other.apply_status(LoadBalancer, body, manager="kumulus-agent")


async def test_the_standby_tells_of_what_it_has_taken_over(connect: Any) -> None:
    """The agent of a standby that takes over by itself writes the status; one to which the operator moves does not."""
    restorer, standby = await connect(RESTORER), await connect("agent@h2")
    own = {"port": "lb-own", "portID": "11111111-1111-4111-8111-111111111112", "mac": "02:00:00:00:00:31"}
    own |= {"addresses": ["10.0.0.31/24"], "priority": 100}
    takeover = own | {"tunnelAddress": "192.0.2.1", "standbyTunnelAddress": "192.0.2.2"}
    for name, given in (("shared", {"takeover": takeover}), ("moved", {})):
        body = make_assigned(LoadBalancer, name, "h1")
        body["spec"]["assignment"] |= {"standby": "h2"} | given
        await fresh(restorer, LoadBalancer, body)
        status = {"metadata": {"name": name, "namespace": "demo"}, "status": {"host": "h2", "members": []}}
        if given:
            await standby.apply_status(LoadBalancer, status, manager="kumulus-agent")
            status["status"]["host"] = "h1"
        with pytest.raises(Forbidden):
            await standby.apply_status(LoadBalancer, status, manager="kumulus-agent")


async def test_both_write_their_part_of_the_status(connect: Any) -> None:
    """What the operator and the agent write stands beside each other: neither takes away the other's."""
    restorer, operator, agent = await connect(RESTORER), await connect("operator"), await connect("agent@h1")
    await fresh(restorer, LoadBalancer, make_assigned(LoadBalancer, "both", "h1"))
    metadata = {"name": "both", "namespace": "demo"}
    condition = {"status": "True", "reason": "Balancing", "lastTransitionTime": "2026-11-22T00:00:00Z"}
    members = [{"listener": "web", "name": "web", "state": "Up"}]
    serving = {"host": "h1", "members": members, "conditions": [{"type": "Serving", **condition}]}
    ready = {"address": "10.0.0.30", "conditions": [{"type": "Ready", **condition}]}
    await agent.apply_status(LoadBalancer, {"metadata": metadata, "status": serving}, manager="kumulus-agent")
    await operator.apply_status(LoadBalancer, {"metadata": metadata, "status": ready}, manager="kumulus-operator")
    body = await agent.apply_status(LoadBalancer, {"metadata": metadata, "status": serving}, manager="kumulus-agent")
    assert {item["type"] for item in body["status"]["conditions"]} == {"Ready", "Serving"}
    assert (body["status"]["address"], body["status"]["members"]) == ("10.0.0.30", members)
