"""What the operator's ServiceAccount may read of tenants."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kumulus_api import DNSRecord, DNSZone, DNSZoneClaim, Project
from kumulus_api.testing import make_object
from kumulus_operator.projects.plan import boot_data_binding
from kumulus_runtime.errors import ApiError, Forbidden
from kumulus_runtime.resources import CONFIGMAP, NAMESPACE, POD, ROLEBINDING, SECRET

SYSTEM = "kumulus-system"


async def test_the_operator_reads_secrets_of_projects_only(connect: Any, admin: Any) -> None:
    """Secrets can be read where the operator has bound itself to the role for boot data, and nowhere else."""
    operator = await connect("operator")
    await admin.create(NAMESPACE, {"metadata": {"name": "tenant"}})
    for namespace in (SYSTEM, "demo", "tenant"):
        with pytest.raises(Forbidden):
            await operator.get(SECRET, "any", namespace)
    with pytest.raises(Forbidden):
        await operator.list(SECRET)
    project = Project.model_validate(make_object(Project, "tenant"))
    await operator.apply(ROLEBINDING, boot_data_binding(project, (SYSTEM, "kumulus-operator")), manager="test")
    async with asyncio.timeout(20):
        # The authorizer learns of the binding by its own watch.
        async for event, _ in operator.watch_metadata(SECRET, namespace="tenant"):
            assert event == "SYNCED"
            break
    assert await operator.get(SECRET, "any", "tenant") is None
    with pytest.raises(Forbidden):
        await operator.get(SECRET, "any", "demo")

    def secret(name: str, kind: str) -> dict[str, Any]:
        return {"metadata": {"name": name, "namespace": "tenant"}, "type": kind, "data": {"key": "aw=="}}

    await operator.create(SECRET, secret("volume-key-1", "kumulus.dev/volume-key"))
    await admin.create(SECRET, secret("of-a-tenant", "Opaque"))
    await admin.create(SECRET, secret("volume-key-of-a-tenant", "Opaque"))
    for name, kind in (("another", "kumulus.dev/volume-key"), ("volume-key-2", "Opaque")):
        with pytest.raises(Forbidden, match="keys of volumes only"):
            await operator.create(SECRET, secret(name, kind))
    for name in ("of-a-tenant", "volume-key-of-a-tenant"):
        with pytest.raises(Forbidden, match="keys of volumes only"):
            await operator.delete(SECRET, name, "tenant")
    with pytest.raises(Forbidden):
        await operator.patch_merge(SECRET, "of-a-tenant", {"data": {"key": "bA=="}}, "tenant")
    await operator.delete(SECRET, "volume-key-1", "tenant")


async def test_the_operator_writes_zone_files_and_no_other_configmap(connect: Any, admin: Any) -> None:
    """It makes and changes the ConfigMaps of zone files and reads them; those of others it leaves alone."""
    operator = await connect("operator")
    patch = {"data": {"example.test.zone": "text"}}
    body = {"metadata": {"name": "kumulus-zones-0", "namespace": SYSTEM, "labels": {"kumulus.dev/zones": "true"}}}
    await operator.create(CONFIGMAP, body)
    await operator.patch_merge(CONFIGMAP, "kumulus-zones-0", patch, SYSTEM)
    async with asyncio.timeout(20):
        async for event, found in operator.watch(CONFIGMAP, namespace=SYSTEM, label_selector="kumulus.dev/zones=true"):
            if event == "ADDED":
                assert found["data"] == patch["data"]
            if event == "SYNCED":
                break
    await admin.create(CONFIGMAP, {"metadata": {"name": "kumulus-dns-of-others", "namespace": SYSTEM}})
    for name in ("kumulus-dns-of-others", "kumulus-dns"):
        with pytest.raises(Forbidden):
            await operator.patch_merge(CONFIGMAP, name, patch, SYSTEM)
    with pytest.raises(Forbidden):
        await operator.list(CONFIGMAP, "demo")


async def test_members_of_a_project_make_zones(connect: Any, cluster: Any) -> None:
    """Members make zones and records, readers see them, and neither writes what became of them or claims a domain."""
    for role in ("member", "reader"):
        bind = ["create", "rolebinding", f"zones-{role}", f"--clusterrole=kumulus-project-{role}", f"--group=z{role}"]
        cluster.plane.kubectl(*bind, "-n", "demo")
    member, reader = await connect("erin/zmember"), await connect("frank/zreader")
    await member.create(DNSZone, make_object(DNSZone, "mine"))
    await member.create(DNSRecord, make_object(DNSRecord, "mine"))
    assert await reader.get(DNSRecord, "mine", "demo") is not None
    for kind in (DNSZone, DNSRecord):
        with pytest.raises(Forbidden):
            await reader.create(kind, make_object(kind, "theirs"))
        status = {"metadata": {"name": "mine", "namespace": "demo"}, "status": {"observedGeneration": 1}}
        with pytest.raises(Forbidden):
            await member.apply_status(kind, status, manager="test")
    with pytest.raises(Forbidden):
        await member.create(DNSZoneClaim, make_object(DNSZoneClaim, "example.test"))


async def test_the_operator_changes_one_annotation_of_pods(connect: Any, admin: Any) -> None:
    """It tells name servers that zone files have changed, and gives no pod another image, label or owner."""
    operator = await connect("operator")
    spec = {"containers": [{"name": "dns", "image": "good"}]}
    metadata = {"name": "pod", "namespace": SYSTEM, "labels": {"a": "b"}, "annotations": {"c": "d"}}
    await admin.create(POD, {"metadata": metadata, "spec": spec})
    for patch in (
        {"spec": {"containers": [{"name": "dns", "image": "evil"}]}},
        {"metadata": {"labels": {"a": "c"}}},
        {"metadata": {"annotations": {"c": "e"}}},
        {"metadata": {"annotations": {"c": None}}},
        {"metadata": {"annotations": {"other": "e"}}},
        {"metadata": {"finalizers": ["example.test/stay"]}},
    ):
        with pytest.raises(ApiError, match="nothing of pods but the annotation"):
            await operator.patch_merge(POD, "pod", patch, SYSTEM)
    for value in ("1", "2"):
        await operator.patch_merge(POD, "pod", {"metadata": {"annotations": {"kumulus.dev/zones": value}}}, SYSTEM)
    for verb in (operator.delete(POD, "pod", SYSTEM), operator.create(POD, {"metadata": metadata, "spec": spec})):
        with pytest.raises(Forbidden):
            await verb
    with pytest.raises(Forbidden):
        await operator.list(POD, "demo")
    await admin.delete(POD, "pod", SYSTEM)
