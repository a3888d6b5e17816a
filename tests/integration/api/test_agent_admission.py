"""What the admission policies let a node agent do, against a real API server: its own host's part and no more."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from kumulus_api import (
    FINALIZER,
    AddressClaim,
    Host,
    Image,
    Kind,
    Port,
    Server,
    Volume,
    VolumeSnapshot,
)
from kumulus_api.testing import PORT_ID, make_assigned, make_object
from kumulus_lab.testing.objects import Object, fresh, status_body
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.errors import Forbidden
from kumulus_runtime.events import EventRecorder
from kumulus_runtime.lease import Heartbeat
from kumulus_runtime.resources import CONFIGMAP, EVENT, LEASE, NAMESPACE, SECRET

SYSTEM = "kumulus-system"
RESTORER = "restorer/system:masters/kumulus:restorers"
OWNER = {"apiVersion": "kumulus.dev/v1alpha1", "kind": "Server", "name": "web", "uid": PORT_ID}


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
        await fresh(restorer, Port, make_assigned(Port, f"port-{host}", host))
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
        if item["metadata"].get("namespace") != "kube-system"  # the API server renews a Lease of its own there
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
    "an unassigned port": lambda c: _apply_status(c, Port, "port-nowhere", {"host": "h1", "wired": True}),
    "own port for another host": lambda c: _apply_status(c, Port, "port-h1", {"host": "h2", "wired": True}),
    "own port's assignment": lambda c: c.patch_merge(Port, "port-h1", {"spec": {"assignment": {"host": "h2"}}}, "demo"),
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


async def test_a_port_goes_with_its_server(connect: Any, world: KubeClient) -> None:
    """A port that was wired on one host is spoken for by another alone once it is bound there."""
    operator, first, second = await connect("operator"), await connect("agent@h1"), await connect("agent@h2")
    await fresh(await connect(RESTORER), Port, make_assigned(Port, "port-moving", "h1"))
    await _apply_status(first, Port, "port-moving", {"host": "h1", "wired": True})
    await operator.patch_merge(Port, "port-moving", {"spec": {"assignment": {"host": "h2"}}}, "demo")
    with pytest.raises(Forbidden, match="not assigned to host h1"):
        await _apply_status(first, Port, "port-moving", {"host": "h1", "wired": False})
    await _apply_status(second, Port, "port-moving", {"host": "h2", "wired": True})


@pytest.mark.parametrize("kind", [Server, Volume, VolumeSnapshot, Port])
async def test_the_right_agent_lets_go(connect: Any, world: KubeClient, kind: type[Kind]) -> None:
    """Only of a deleted object the finalizer is taken off by the agent of its host, and by no other agent."""
    restorer, name = await connect(RESTORER), "leaving"
    made = await fresh(restorer, kind, make_assigned(kind, name, "h1"))
    uid = made["metadata"]["uid"]
    own, other = await connect("agent@h1"), await connect("agent@h2")
    with pytest.raises(Forbidden, match="only what is being deleted"):
        await own.remove_finalizer(kind, name, FINALIZER, "demo", uid=uid)
    await restorer.delete(kind, name, "demo")
    with pytest.raises(Forbidden):
        await other.remove_finalizer(kind, name, FINALIZER, "demo", uid=uid)
    await own.remove_finalizer(kind, name, FINALIZER, "demo", uid=uid)
    assert await world.get(kind, name, "demo") is None


async def test_a_port_of_no_host_is_not_let_go(connect: Any, world: KubeClient) -> None:
    """A deleted port that no server has used is the operator's to let go, and no agent's."""
    made = await fresh(world, Port, make_object(Port, "port-unused"))
    uid = made["metadata"]["uid"]
    await world.delete(Port, "port-unused", "demo")
    with pytest.raises(Forbidden, match="not assigned to host h1"):
        await (await connect("agent@h1")).remove_finalizer(Port, "port-unused", FINALIZER, "demo", uid=uid)
    await (await connect("operator")).remove_finalizer(Port, "port-unused", FINALIZER, "demo", uid=uid)
    assert await world.get(Port, "port-unused", "demo") is None


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
