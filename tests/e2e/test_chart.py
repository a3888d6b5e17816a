"""`helm test` in the lab: a real Server, and nothing of it left."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from kumulus_api import AddressClaim, Flavor, NetworkIDClaim, Project, Server
from kumulus_lab import builds
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing.cloud import Cloud
from kumulus_runtime.api_client import NAMESPACE, Resource

NAME = "helm-test-"
HOOKS = (
    Resource("", "v1", "pods", "Pod", True),
    Resource("", "v1", "serviceaccounts", "ServiceAccount", True),
    Resource("", "v1", "configmaps", "ConfigMap", True),
    Resource("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", False),
    Resource("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", False),
)


async def helm(lab: LabSettings, version: str, *arguments: str) -> str:
    """Run Helm on the lab and give what it printed; it must succeed."""
    argv = [builds.program(lab, version), f"--kubeconfig={lab.kubeconfig}", "--namespace=kumulus-system", *arguments]
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(240):
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


def files_of_instances(lab: LabSettings) -> set[Path]:
    """The folders of instances on all hosts."""
    return {path for host in lab.host_specs for path in (host.directory / "kumulus" / "instances").glob("*")}


async def names(cloud: Cloud, kind: Any) -> set[str]:
    """Names of all objects of a kind."""
    objects, _ = await cloud.client.list(kind)
    return {body["metadata"]["name"] for body in objects}


async def test_helm_test_makes_a_server_and_leaves_nothing(cloud: Cloud, lab: LabSettings) -> None:
    """`helm test` succeeds with both versions of Helm; its Server, its project, its rights and its claims are gone."""
    before = files_of_instances(lab)
    claims = {kind: await names(cloud, kind) for kind in (AddressClaim, NetworkIDClaim)}
    for version in ("helm3", "helm4"):
        assert "Succeeded" in await helm(lab, version, "test", "kumulus", "--timeout=200s")
        for name in await names(cloud, NAMESPACE):
            if name.startswith(NAME):
                await cloud.gone(NAMESPACE, name, seconds=60)
        for kind in (Project, Flavor, Server):
            assert not {name for name in await names(cloud, kind) if name.startswith(NAME)}, version
        for hook in HOOKS:
            assert "kumulus-test" not in await names(cloud, hook), version
        assert files_of_instances(lab) <= before, version
    # Claims are given back after a quarantine.
    for kind, known in claims.items():
        for name in await names(cloud, kind) - known:
            await cloud.gone(kind, name, seconds=120)
