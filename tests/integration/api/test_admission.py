"""Who may write what: the chart's policies and roles, judged by a real API server with real tokens."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from kumulus_api import (
    FINALIZER,
    IN_USE,
    AddressClaim,
    Host,
    Image,
    Kind,
    Network,
    NetworkEndpoints,
    NetworkIDClaim,
    Port,
    Project,
    Server,
    Volume,
)
from kumulus_api.testing import PORT_ID, make_assigned, make_object
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.errors import Forbidden
from kumulus_runtime.events import EventRecorder
from kumulus_runtime.lease import Heartbeat
from kumulus_runtime.resources import CONFIGMAP, EVENT, LEASE, NAMESPACE, SECRET

SYSTEM = "kumulus-system"
RESTORER = "restorer/system:masters/kumulus:restorers"
OWNER = {"apiVersion": "kumulus.dev/v1alpha1", "kind": "Server", "name": "web", "uid": PORT_ID}

Object = dict[str, Any]


def status_body(body: Object, status: Object) -> Object:
    """Give what server-side apply of a status sends."""
    metadata = {key: value for key, value in body["metadata"].items() if key in ("name", "namespace")}
    return {"apiVersion": body["apiVersion"], "kind": body["kind"], "metadata": metadata, "status": status}


async def fresh(client: KubeClient, kind: type[Kind], body: Object, status: Object | None = None) -> Object:
    """Create an object, or give the one that is there; then set its status."""
    metadata = body["metadata"]
    found = await client.get(kind, metadata["name"], metadata.get("namespace"))
    found = found or await client.create(kind, body)
    if status is not None:
        found = await client.apply_status(kind, status_body(body, status), manager="setup")
    return found


# --- finalizers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "finalizer"),
    [(Server, FINALIZER), (Volume, FINALIZER), (Port, FINALIZER), (Network, IN_USE), (Project, IN_USE)],
)
async def test_finalizer_comes_with_creation(admin: KubeClient, kind: type[Kind], finalizer: str) -> None:
    """What must not go at once bears our finalizer from its first moment, beside those that it has already."""
    plain = await admin.create(kind, make_object(kind, "fin-plain"))
    body = make_object(kind, "fin-other")
    body["metadata"]["finalizers"] = ["example.org/other"]
    other = await admin.create(kind, body)
    assert plain["metadata"]["finalizers"] == [finalizer]
    assert sorted(other["metadata"]["finalizers"]) == ["example.org/other", finalizer]


async def test_owned_ports_have_none(connect: Any) -> None:
    """A Port that was made for a Server goes by its owner and waits for nobody."""
    operator = await connect("operator")
    body = make_object(Port, "fin-owned")
    body["metadata"]["ownerReferences"] = [OWNER]
    port = await operator.create(Port, body)
    assert "finalizers" not in port["metadata"]


async def test_only_operator_and_agent_remove_the_finalizer(connect: Any) -> None:
    """An administrator who pulls the finalizer off would leave a guest running; the operator may."""
    admin, operator = await connect("admin"), await connect("operator")
    server = await admin.create(Server, make_object(Server, "fin-pulled"))
    with pytest.raises(Forbidden, match=r"metadata\.finalizers"):
        await admin.remove_finalizer(Server, "fin-pulled", FINALIZER, "demo", uid=server["metadata"]["uid"])
    await operator.remove_finalizer(Server, "fin-pulled", FINALIZER, "demo", uid=server["metadata"]["uid"])
    assert "finalizers" not in (await admin.get(Server, "fin-pulled", "demo") or {})["metadata"]


async def test_only_the_operator_lets_a_network_go(connect: Any) -> None:
    """Neither a tenant's administrator nor an agent takes a network away from the servers that use it."""
    admin, operator = await connect("admin"), await connect("operator")
    network = await admin.create(Network, make_object(Network, "fin-used"))
    for user in ("admin", "agent@h1"):
        with pytest.raises(Forbidden):
            await (await connect(user)).remove_finalizer(
                Network, "fin-used", IN_USE, "demo", uid=network["metadata"]["uid"]
            )
    await operator.remove_finalizer(Network, "fin-used", IN_USE, "demo", uid=network["metadata"]["uid"])


# --- what only the operator writes --------------------------------------------------------------------------------


PORT_ASSIGNMENT = {"portID": PORT_ID, "mac": "52:54:00:00:00:01", "addresses": ["10.0.0.10"]}
ASSIGNED: list[tuple[type[Kind], Object]] = [
    (Server, make_assigned(Server, "deed-server", "h1")),
    (Volume, make_assigned(Volume, "deed-volume", "h1")),
    (Port, make_object(Port, "deed-port", assignment=PORT_ASSIGNMENT)),
]


@pytest.mark.parametrize(("kind", "body"), ASSIGNED, ids=lambda v: v.__name__ if isinstance(v, type) else "")
async def test_assignment_is_the_operators(connect: Any, kind: type[Kind], body: Object) -> None:
    """Not even an administrator assigns; the operator does, and a restore brings back what a backup holds."""
    admin, operator, restorer = await connect("admin"), await connect("operator"), await connect(RESTORER)
    name = body["metadata"]["name"]
    with pytest.raises(Forbidden, match=r"spec\.assignment is written by the operator only"):
        await admin.create(kind, body)
    await admin.create(kind, make_object(kind, name))
    patch = {"spec": {"assignment": body["spec"]["assignment"]}}
    for client in (admin, restorer):
        with pytest.raises(Forbidden, match=r"spec\.assignment is written by the operator only"):
            await client.patch_merge(kind, name, patch, "demo")
    await operator.patch_merge(kind, name, patch, "demo")
    # What does not touch it stays free.
    await admin.patch_merge(kind, name, {"metadata": {"labels": {"a": "b"}}}, "demo")
    restored = body | {"metadata": body["metadata"] | {"name": f"{name}-restored"}}
    stored = await restorer.create(kind, restored)
    assert stored["spec"]["assignment"] == body["spec"]["assignment"] | stored["spec"]["assignment"]
    assert FINALIZER in stored["metadata"]["finalizers"]


@pytest.mark.parametrize("kind", [AddressClaim, NetworkIDClaim, NetworkEndpoints])
async def test_claims_and_endpoints_are_the_operators(connect: Any, kind: type[Kind]) -> None:
    """A claim that anybody could make would be anybody's lock; a false endpoint would draw frames to a host."""
    admin, operator = await connect("admin"), await connect("operator")
    body = make_object(kind, "claim")
    with pytest.raises(Forbidden, match="written by the operator only"):
        await admin.create(kind, body)
    await operator.create(kind, body)
    namespace = body["metadata"].get("namespace")
    change = {"endpoints": []} if kind is NetworkEndpoints else {"releasedAt": "2026-11-21T00:00:00Z"}
    with pytest.raises(Forbidden, match="written by the operator only"):
        await admin.patch_merge(kind, "claim", {"spec": change}, namespace)
    await admin.patch_merge(kind, "claim", {"metadata": {"labels": {"a": "b"}}}, namespace)
    await operator.patch_merge(kind, "claim", {"spec": change}, namespace)
    await operator.delete(kind, "claim", namespace)


async def test_revoked_is_the_operators(connect: Any) -> None:
    """Revoking tells a host to destroy a guest: only the operator, who has proof, writes it."""
    admin, operator = await connect("admin"), await connect("operator")
    revoked = [{"instanceID": PORT_ID, "epoch": 1}]
    await admin.create(Host, make_object(Host, "revoking"))
    with pytest.raises(Forbidden, match=r"spec\.revoked"):
        await admin.create(Host, make_object(Host, "revoking-2", revoked=revoked))
    with pytest.raises(Forbidden, match=r"spec\.revoked"):
        await admin.patch_merge(Host, "revoking", {"spec": {"revoked": revoked}})
    await admin.patch_merge(Host, "revoking", {"spec": {"schedulable": False}})
    await operator.patch_merge(Host, "revoking", {"spec": {"revoked": revoked}})


async def test_placement_on_a_host_is_for_host_administrators(connect: Any, cluster: Any) -> None:
    """A tenant does not choose the machine; who may update Hosts does."""
    bind = ["create", "rolebinding", "tenants", "--clusterrole=kumulus-project-member", "--group=tenants", "-n", "demo"]
    cluster.plane.kubectl(*bind)
    tenant, admin = await connect("alice/tenants"), await connect("admin")
    body = make_object(Server, "placed", placement={"host": "h1"})
    with pytest.raises(Forbidden, match=r"spec\.placement\.host"):
        await tenant.create(Server, body)
    await admin.create(Server, body)
    # Who may change the server may do so without being asked about its host again.
    await tenant.patch_merge(Server, "placed", {"spec": {"powerState": "Stopped"}}, "demo")
    with pytest.raises(Forbidden, match=r"spec\.placement\.host"):
        await tenant.patch_merge(Server, "placed", {"spec": {"placement": {"host": "h2"}}}, "demo")


async def test_tenants_stay_in_their_project(connect: Any, cluster: Any) -> None:
    """A member of a project sees what is public and nothing of other projects or of the machinery."""
    bind = ["create", "rolebinding", "bobs", "--clusterrole=kumulus-project-member", "--group=bobs", "-n", "demo"]
    cluster.plane.kubectl(*bind)
    bob = await connect("bob/bobs")
    await bob.create(Network, make_object(Network, "bobs"))
    await bob.list(Image, "kumulus-public")
    for kind, namespace in ((Server, "default"), (Host, None), (AddressClaim, None), (Image, None)):
        with pytest.raises(Forbidden):
            await bob.list(kind, namespace)
    network = make_object(Network, "bobs")
    with pytest.raises(Forbidden):
        await bob.apply_status(Network, status_body(network, {"vni": 4096}), manager="bob")


# --- agents -------------------------------------------------------------------------------------------------------


READY = {
    "conditions": [
        {"type": "Ready", "status": "True", "reason": "Running", "lastTransitionTime": "2026-11-21T00:00:00Z"}
    ]
}


@pytest.fixture
async def world(connect: Any) -> KubeClient:
    """Give the administrator's client of a cluster with something of everything on h1 and on h2."""
    operator, restorer = await connect("operator"), await connect(RESTORER)
    for host in ("h1", "h2"):
        await fresh(restorer, Host, make_object(Host, host), {"bootID": host})
        await fresh(restorer, Server, make_assigned(Server, f"server-{host}", host))
        await fresh(restorer, Volume, make_assigned(Volume, f"volume-{host}", host))
        await fresh(restorer, Port, make_object(Port, f"port-{host}"), {"host": host, "wired": True})
        image = await fresh(restorer, Image, make_object(Image, f"image-{host}"))
        await operator.apply_status(Image, status_body(image, {"importHost": host}), manager="kumulus-operator")
        lease = {"metadata": {"name": f"host-{host}", "namespace": SYSTEM}, "spec": {"holderIdentity": host}}
        if await restorer.get(LEASE, f"host-{host}", SYSTEM) is None:
            await restorer.create(LEASE, lease)
    await fresh(restorer, Server, make_object(Server, "server-nowhere"))
    await fresh(restorer, Port, make_object(Port, "port-nowhere"))
    return await connect("admin")


Act = Callable[[KubeClient, str], Awaitable[Any]]


async def _apply_status(client: KubeClient, kind: type[Kind], name: str, status: Object) -> None:
    body = status_body(make_object(kind, name), status)
    await client.apply_status(kind, body, manager="kumulus-agent")


ACTS: dict[str, Act] = {
    "host status": lambda c, h: _apply_status(c, Host, h, {"bootID": h}),
    "host labels": lambda c, h: c.patch_merge(Host, h, {"metadata": {"labels": {"zone": "a"}}}),
    "server status": lambda c, h: _apply_status(c, Server, f"server-{h}", {"powerState": "Running"} | READY),
    "volume status": lambda c, h: _apply_status(c, Volume, f"volume-{h}", {"usedBytes": 1}),
    "port status": lambda c, h: _apply_status(c, Port, f"port-{h}", {"host": h, "wired": True}),
    "image status": lambda c, h: _apply_status(c, Image, f"image-{h}", {"size": 1} | READY),
    "lease": lambda c, h: c.patch_merge(LEASE, f"host-{h}", {"spec": {"leaseTransitions": 1}}, SYSTEM),
}
"""What the agent of a host does to that host's objects."""


@pytest.mark.parametrize("act", ACTS)
async def test_an_agent_serves_its_own_host_only(connect: Any, world: KubeClient, act: str) -> None:
    """An agent reports what its host holds; a token of host h1 changes nothing of h2, and one without node nothing."""
    agent, nameless = await connect("agent@h1"), await connect("agent")
    await ACTS[act](agent, "h1")
    before = await snapshot(world)
    with pytest.raises(Forbidden):
        await ACTS[act](agent, "h2")
    with pytest.raises(Forbidden, match="names no node"):
        await ACTS[act](nameless, "h1")
    assert await snapshot(world) == before


async def snapshot(client: KubeClient) -> dict[tuple[str, str], str]:
    """Give the version of every object that agents write."""
    kinds = (Host, Server, Volume, Port, Image, LEASE)
    return {
        (getattr(kind, "__name__", "Lease"), item["metadata"]["name"]): item["metadata"]["resourceVersion"]
        for kind in kinds
        for item in (await client.list(kind))[0]
    }


FORBIDDEN: dict[str, Callable[[KubeClient], Awaitable[Any]]] = {
    "own server's spec": lambda c: c.patch_merge(Server, "server-h1", {"spec": {"powerState": "Stopped"}}, "demo"),
    "own server's assignment": lambda c: c.patch_merge(
        Server, "server-h1", {"spec": {"assignment": {"host": "h2", "epoch": 2}}}, "demo"
    ),
    "own server's owners": lambda c: c.patch_merge(
        Server, "server-h1", {"metadata": {"ownerReferences": [OWNER]}}, "demo"
    ),
    "own server's labels": lambda c: c.patch_merge(Server, "server-h1", {"metadata": {"labels": {"a": "b"}}}, "demo"),
    "finalizer of what is not being deleted": lambda c: c.patch_merge(
        Server, "server-h1", {"metadata": {"finalizers": []}}, "demo"
    ),
    "unassigned server": lambda c: _apply_status(c, Server, "server-nowhere", {"powerState": "Running"}),
    "own volume's labels": lambda c: c.patch_merge(Volume, "volume-h1", {"metadata": {"labels": {"a": "b"}}}, "demo"),
    "own volume's assignment": lambda c: c.patch_merge(
        Volume, "volume-h1", {"spec": {"assignment": {"attachedTo": "x"}}}, "demo"
    ),
    "a port for another host": lambda c: _apply_status(c, Port, "port-nowhere", {"host": "h2", "wired": True}),
    "a port for nobody": lambda c: _apply_status(c, Port, "port-nowhere", {"wired": True}),
    "own host's revoked": lambda c: c.patch_merge(
        Host, "h1", {"spec": {"revoked": [{"instanceID": PORT_ID, "epoch": 1}]}}
    ),
    "own host schedulable": lambda c: c.patch_merge(Host, "h1", {"spec": {"schedulable": False}}),
    "own host's owners": lambda c: c.patch_merge(Host, "h1", {"metadata": {"ownerReferences": [OWNER]}}),
    "another host": lambda c: c.create(Host, make_object(Host, "h3")),
    "own image's import host": lambda c: _apply_status(c, Image, "image-h1", {"importHost": "h2"}),
    "own image's source": lambda c: c.patch_merge(Image, "image-h1", {"metadata": {"labels": {"a": "b"}}}, "demo"),
    "another's lease": lambda c: c.create(LEASE, {"metadata": {"name": "host-h3", "namespace": SYSTEM}, "spec": {}}),
    "the operator's lease": lambda c: c.create(
        LEASE, {"metadata": {"name": "kumulus-operator", "namespace": SYSTEM}, "spec": {}}
    ),
    "a node's lease": lambda c: c.create(
        LEASE, {"metadata": {"name": "h1", "namespace": "kube-node-lease"}, "spec": {}}
    ),
    "delete own server": lambda c: c.delete(Server, "server-h1", "demo"),
    "delete own host": lambda c: c.delete(Host, "h1"),
    "delete own lease": lambda c: c.delete(LEASE, "host-h1", SYSTEM),
    "a new server": lambda c: c.create(Server, make_object(Server, "mine")),
    "a claim": lambda c: c.create(AddressClaim, make_object(AddressClaim, "mine")),
    "a secret": lambda c: c.get(SECRET, "any", "demo"),
    "all secrets": lambda c: c.list(SECRET),
    "a config map": lambda c: c.get(CONFIGMAP, "any", "demo"),
    "the config maps beside the authority": lambda c: c.list(CONFIGMAP, SYSTEM),
    "a namespace": lambda c: c.create(NAMESPACE, {"metadata": {"name": "mine"}}),
}


@pytest.mark.parametrize("act", FORBIDDEN)
async def test_an_agent_may_not(connect: Any, world: KubeClient, act: str) -> None:
    """Beyond status and its own finalizer an agent changes nothing, not even of its own host, and reads no Secret."""
    before = await snapshot(world)
    with pytest.raises(Forbidden):
        await FORBIDDEN[act](await connect("agent@h1"))
    assert await snapshot(world) == before


async def test_an_agent_makes_its_host_and_lease(connect: Any, cluster: Any) -> None:
    """A new node's agent needs nobody to introduce it: Host by server-side apply, Lease, and Events."""
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "h4"}}
    cluster.plane.kubectl("create", "-f", "-", stdin=json.dumps(node))
    agent = await connect("agent@h4")
    body = {"metadata": {"name": "h4"}, "spec": {}}
    host = await agent.apply(Host, body, manager="kumulus-agent")
    again = await agent.apply(Host, body, manager="kumulus-agent")
    assert host["metadata"]["resourceVersion"] == again["metadata"]["resourceVersion"]
    await agent.create(LEASE, {"metadata": {"name": "host-h4", "namespace": SYSTEM}, "spec": {"holderIdentity": "h4"}})
    event = {
        "metadata": {"name": "h4.1", "namespace": "default"},
        "eventTime": "2026-11-21T00:00:00.000000Z",
        "reportingController": "kumulus.dev/agent",
        "reportingInstance": "h4",
        "reason": "Test",
        "action": "Test",
        "type": "Normal",
        "regarding": {"apiVersion": "kumulus.dev/v1alpha1", "kind": "Host", "name": "h4"},
    }
    await agent.create(EVENT, event)


@pytest.mark.parametrize(
    "node",
    ["ip-10-0-0-1.eu-west.compute.internal", ".".join(["n" * 63] * 3 + ["n" * 61])],
    ids=["with-domain", "longest"],
)
async def test_an_agent_of_a_node_with_a_long_name_lives(connect: Any, cluster: Any, node: str) -> None:
    """A Node may be called by its full name: its agent makes Host, Lease and Event, and no Lease of another."""
    body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}}
    cluster.plane.kubectl("create", "-f", "-", stdin=json.dumps(body))
    agent = await connect(f"agent@{node}")
    host = await agent.apply(Host, {"metadata": {"name": node}, "spec": {}}, manager="kumulus-agent")
    await Heartbeat(agent, node).beat()
    await Heartbeat(agent, node).beat()
    assert await EventRecorder(agent, "kumulus.dev/agent").event(host, "Test", "of a long name")
    with pytest.raises(Forbidden):
        await Heartbeat(agent, f"x{node[1:]}").beat()


async def test_an_agent_takes_and_gives_up_a_port(connect: Any, world: KubeClient) -> None:
    """A port is wired by one host at a time; only the one that has it lets it go."""
    first, second = await connect("agent@h1"), await connect("agent@h2")
    await fresh(world, Port, make_object(Port, "port-moving"))
    await _apply_status(first, Port, "port-moving", {"host": "h1", "wired": True})
    with pytest.raises(Forbidden):
        await _apply_status(second, Port, "port-moving", {"host": "h2", "wired": True})
    await _apply_status(first, Port, "port-moving", {"host": "h1", "wired": False})
    await _apply_status(second, Port, "port-moving", {"host": "h2", "wired": True})


@pytest.mark.parametrize(("kind", "status"), [(Server, None), (Volume, None), (Port, {"host": "h1", "wired": True})])
async def test_the_right_agent_lets_go(connect: Any, world: KubeClient, kind: type[Kind], status: Object) -> None:
    """Of a deleted object the finalizer is taken off by the agent that holds it, and by no other agent."""
    restorer, name = await connect(RESTORER), "leaving"
    body = make_object(kind, name) if kind is Port else make_assigned(kind, name, "h1")
    made = await fresh(restorer, kind, body, status)
    await restorer.delete(kind, name, "demo")
    uid = made["metadata"]["uid"]
    with pytest.raises(Forbidden):
        await (await connect("agent@h2")).remove_finalizer(kind, name, FINALIZER, "demo", uid=uid)
    await (await connect("agent@h1")).remove_finalizer(kind, name, FINALIZER, "demo", uid=uid)
    assert await world.get(kind, name, "demo") is None


async def test_a_port_that_was_never_wired_can_be_let_go(connect: Any, world: KubeClient) -> None:
    """An agent that gives up before wiring does not hang on a deleted port, and cannot touch one that stays."""
    agent = await connect("agent@h1")
    made = await fresh(world, Port, make_object(Port, "port-unwired"))
    uid = made["metadata"]["uid"]
    with pytest.raises(Forbidden, match="only what is being deleted"):
        await agent.remove_finalizer(Port, "port-unwired", FINALIZER, "demo", uid=uid)
    await world.delete(Port, "port-unwired", "demo")
    await agent.remove_finalizer(Port, "port-unwired", FINALIZER, "demo", uid=uid)
    assert await world.get(Port, "port-unwired", "demo") is None


async def test_a_migration_target_reports_but_does_not_let_go(connect: Any, world: KubeClient) -> None:
    """Both ends of a migration write status; the finalizer is the holder's."""
    restorer, target = await connect(RESTORER), await connect("agent@h2")
    body = make_assigned(Server, "migrating", "h1")
    body["spec"]["assignment"]["target"] = "h2"
    made = await restorer.create(Server, body)
    await _apply_status(target, Server, "migrating", {"powerState": "Paused"})
    await restorer.delete(Server, "migrating", "demo")
    with pytest.raises(Forbidden, match="not assigned to host h2"):
        await target.remove_finalizer(Server, "migrating", FINALIZER, "demo", uid=made["metadata"]["uid"])


async def test_import_host_is_the_operators(connect: Any, world: KubeClient) -> None:
    """Which host imports an image is decided once, for all: an administrator's hand is refused as well."""
    with pytest.raises(Forbidden, match=r"status\.importHost"):
        await world.patch_merge(Image, "image-h1", {"status": {"importHost": "h2"}}, "demo", subresource="status")
