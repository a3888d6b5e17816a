"""Who may open the cluster to a network: the chart's policies and roles, judged by a real API server."""

from __future__ import annotations

from typing import Any

import pytest

from kumulus_api import Network, Project
from kumulus_api.testing import make_object
from kumulus_runtime.errors import Forbidden

ASSIGNMENT = {"fromPods": True, "subnets": ["10.0.0.0/8"], "services": ["10.96.0.0/16"]}


async def test_a_tenant_asks_and_neither_grants_nor_decides(connect: Any, cluster: Any) -> None:
    """A member of a project may ask for peering; the grant is in a Project, the decision is the operator's."""
    bind = ["create", "rolebinding", "peers", "--clusterrole=kumulus-project-admin", "--group=peers", "-n", "demo"]
    cluster.plane.kubectl(*bind)
    tenant, admin, operator = await connect("carol/peers"), await connect("admin"), await connect("operator")
    body = make_object(Network, "asking")
    body["spec"]["peering"] = {"fromPods": True, "toServices": True}
    await tenant.create(Network, body)
    with pytest.raises(Forbidden):
        await tenant.patch_merge(Project, "demo", {"spec": {"peering": {"toServices": True}}})
    for client in (tenant, admin, await connect("agent@h1")):
        with pytest.raises(Forbidden):
            await client.patch_merge(Network, "asking", {"spec": {"assignment": ASSIGNMENT}}, "demo")
    made = make_object(Network, "decided")
    made["spec"]["assignment"] = ASSIGNMENT
    with pytest.raises(Forbidden, match=r"spec\.assignment is written by the operator only"):
        await tenant.create(Network, made)
    await operator.patch_merge(Network, "asking", {"spec": {"assignment": ASSIGNMENT}}, "demo")
    # Who asks may still change what he asks for.
    await tenant.patch_merge(Network, "asking", {"spec": {"peering": {"fromPods": False}}}, "demo")
    with pytest.raises(Forbidden, match=r"spec\.assignment is written by the operator only"):
        await tenant.patch_merge(Network, "asking", {"spec": {"assignment": None}}, "demo")
