"""Who may write what: the chart's policies and roles, judged by a real API server with real tokens."""

from __future__ import annotations

from typing import Any

import pytest

from kumulus_api import (
    FINALIZER,
    IN_USE,
    AddressClaim,
    DNSZoneClaim,
    FloatingIP,
    Host,
    Image,
    Kind,
    Network,
    NetworkEndpoints,
    NetworkIDClaim,
    Port,
    Project,
    Router,
    Server,
    Volume,
    VolumeSnapshot,
)
from kumulus_api.testing import PORT_ID, make_assigned, make_object
from kumulus_lab.testing.objects import Object, status_body
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.errors import Forbidden

RESTORER = "restorer/system:masters/kumulus:restorers"
OWNER = {"apiVersion": "kumulus.dev/v1alpha1", "kind": "Server", "name": "web", "uid": PORT_ID}


# --- finalizers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "finalizer"),
    [
        *((kind, FINALIZER) for kind in (Server, Volume, VolumeSnapshot, Port)),
        *((kind, IN_USE) for kind in (Network, Router, FloatingIP, Project)),
    ],
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
    (VolumeSnapshot, make_assigned(VolumeSnapshot, "deed-snapshot", "h1")),
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


@pytest.mark.parametrize("kind", [AddressClaim, NetworkIDClaim, DNSZoneClaim, NetworkEndpoints])
async def test_claims_and_endpoints_are_the_operators(connect: Any, kind: type[Kind]) -> None:
    """A claim that anybody could make would be anybody's lock; a false endpoint would draw frames to a host."""
    admin, operator = await connect("admin"), await connect("operator")
    body = make_object(kind, "claim")
    with pytest.raises(Forbidden, match="written by the operator only"):
        await admin.create(kind, body)
    await operator.create(kind, body)
    namespace = body["metadata"].get("namespace")
    change = {"endpoints": []} if kind is NetworkEndpoints else {"claimRef": {"name": "other"}}
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
