"""Who may do what in a project, and where a project may be."""

from __future__ import annotations

from typing import Any

import pytest

from kumulus_api import Project
from kumulus_lab.testing.site import Site
from kumulus_runtime.resources import NAMESPACE, ROLEBINDING

RBAC = "rbac.authorization.k8s.io"
ALICE = {"kind": "User", "name": "alice"}
TEAM = {"kind": "Group", "name": "team"}
BOT = {"kind": "ServiceAccount", "name": "bot", "namespace": "ci"}


def _assigned(role: str, *subjects: dict[str, str]) -> dict[str, Any]:
    return {"role": role, "subjects": list(subjects)}


async def _bindings(site: Site) -> dict[str, list[str]]:
    """Give the subjects' names by role, the operator's own binding apart."""
    items, _ = await site.client.list(ROLEBINDING, site.name)
    roles = {item["roleRef"]["name"]: item for item in items if item["metadata"]["name"] != "kumulus-boot-data"}
    return {
        name.removeprefix("kumulus-project-"): [subject["name"] for subject in item.get("subjects", [])]
        for name, item in roles.items()
    }


async def _become(site: Site, wanted: dict[str, list[str]]) -> None:
    """Watch the bindings until they are as wanted."""
    async for event, _ in site.client.watch(ROLEBINDING, namespace=site.name):
        if event != "BOOKMARK" and await _bindings(site) == wanted:
            return


@pytest.mark.timeout(120)
async def test_roles_follow_the_project(site: Site) -> None:
    """Subjects that are added, moved between roles or taken out lose and gain exactly that; a removed role goes."""
    roles = [_assigned("admin", ALICE), _assigned("member", TEAM, BOT)]
    await site.client.create(Project, {"metadata": {"name": site.name}, "spec": {"roles": roles}})
    await site.condition(Project, site.name, "Ready", "True")
    assert await _bindings(site) == {"admin": ["alice"], "member": ["team", "bot"]}
    member = await site.client.get(ROLEBINDING, "kumulus-member", site.name)
    assert member is not None
    assert member["subjects"] == [TEAM | {"apiGroup": RBAC}, BOT]
    roles = [_assigned("member", TEAM), _assigned("reader", ALICE, BOT)]
    await site.client.patch_merge(Project, site.name, {"spec": {"roles": roles}})
    await _become(site, {"member": ["team"], "reader": ["alice", "bot"]})
    await site.client.patch_merge(Project, site.name, {"spec": {"roles": [_assigned("reader")]}})
    await _become(site, {})


@pytest.mark.timeout(120)
async def test_roles_that_somebody_changed_are_put_right(site: Site) -> None:
    """A binding that was widened, deleted or led to another role is as the project says again."""
    spec = {"roles": [_assigned("reader", ALICE)]}
    await site.client.create(Project, {"metadata": {"name": site.name}, "spec": spec})
    await site.condition(Project, site.name, "Ready", "True")
    wider = {"subjects": [{"kind": "User", "name": name, "apiGroup": RBAC} for name in ("alice", "mallory")]}
    await site.client.patch_merge(ROLEBINDING, "kumulus-reader", wider, site.name)
    await _become(site, {"reader": ["alice"]})
    for name in ("kumulus-reader", "kumulus-boot-data"):
        await site.client.delete(ROLEBINDING, name, site.name)
    await _become(site, {"reader": ["alice"]})


@pytest.mark.parametrize("name", ["default", "kube-system", "kube-mine", "kumulus-system", "kumulus-mine"])
async def test_reserved_namespaces_are_refused(site: Site, name: str) -> None:
    """No project takes a namespace of Kubernetes or of Kumulus, whether it is there or not, nor changes it."""
    before = await site.client.get(NAMESPACE, name)
    await site.client.create(Project, {"metadata": {"name": name}, "spec": {"roles": [_assigned("admin", ALICE)]}})
    refusal = await site.condition(Project, name, "Ready", "False", "NamespaceReserved")
    assert refusal["message"] == (
        f"namespace: {name} is reserved (default, kube-*, kumulus-*); permanent: choose another name"
    )
    assert await site.client.get(NAMESPACE, name) == before
    bound = {item["metadata"]["name"] for item in (await site.client.list(ROLEBINDING, name))[0]}
    assert not bound & {"kumulus-admin", "kumulus-boot-data"}
    await site.client.delete(Project, name)


async def test_a_foreign_namespace_is_taken_when_it_is_gone(site: Site) -> None:
    """A namespace that was there is left alone; a project whose namespace was deleted by hand makes it anew."""
    await site.client.create(NAMESPACE, {"metadata": {"name": site.name, "labels": {"owner": "others"}}})
    before = await site.client.get(NAMESPACE, site.name)
    await site.client.create(Project, {"metadata": {"name": site.name}, "spec": {"roles": [_assigned("admin", ALICE)]}})
    await site.condition(Project, site.name, "Ready", "False", "NamespaceForeign")
    assert await site.client.get(NAMESPACE, site.name) == before
    assert await _bindings(site) == {}
