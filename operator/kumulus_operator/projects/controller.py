"""Reconcile a Project: its namespace, its roles, its status."""

from __future__ import annotations

from datetime import UTC, datetime

from kumulus_api import Project
from kumulus_operator.bodies import MANAGER, identity
from kumulus_operator.cloud import Cloud
from kumulus_operator.projects.plan import (
    ROLES,
    namespace_body,
    namespace_fault,
    project_status,
    role_binding,
    same_binding,
)
from kumulus_operator.views import Key
from kumulus_runtime.errors import AlreadyExists, Conflict, NotFound
from kumulus_runtime.resources import NAMESPACE, ROLEBINDING


class ProjectController:
    """Makes namespaces and roles of projects.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    async def reconcile(self, key: Key) -> float | None:
        """Bring one project to its desired state."""
        client = self._cloud.client
        project = self._cloud.projects.get(*key)
        if project is None or project.deleting:
            return None
        name = project.metadata.name
        namespace = await client.get(NAMESPACE, name)
        fault = namespace_fault(project, namespace)
        if fault is None:
            if namespace is None:
                try:
                    namespace = await client.create(NAMESPACE, namespace_body(project))
                except AlreadyExists:
                    return 0.1
            if namespace["metadata"].get("deletionTimestamp"):
                return None  # What it holds goes first; the watch on namespaces tells when it is gone.
            await self._roles(project)
        status = project_status(project, fault, datetime.now(UTC))
        if status is not None:
            try:
                body = await client.apply_status(Project, identity(project) | {"status": status}, manager=MANAGER)
            except (NotFound, Conflict):
                return None
            self._cloud.take(Project, body)
        return None

    async def _roles(self, project: Project) -> None:
        client = self._cloud.client
        wanted = {item.role.value: role_binding(project, item) for item in project.spec.roles if item.subjects}
        bindings, _ = await client.list(ROLEBINDING, project.metadata.name)
        found = {item["metadata"]["name"]: item for item in bindings}
        for role in ROLES:
            name = f"kumulus-{role}"
            if role not in wanted:
                if name in found:
                    await client.delete(ROLEBINDING, name, project.metadata.name)
            elif name not in found or not same_binding(found[name], wanted[role]):
                if name in found and found[name]["roleRef"] != wanted[role]["roleRef"]:
                    await client.delete(ROLEBINDING, name, project.metadata.name)  # roleRef cannot be changed
                await client.apply(ROLEBINDING, wanted[role], manager=MANAGER)
