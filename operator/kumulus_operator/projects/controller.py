"""Reconcile a Project: its namespace, its roles, its status."""

from __future__ import annotations

from datetime import UTC, datetime

from kumulus_api import IN_USE, Project, SecurityGroup
from kumulus_api.security_group import DEFAULT_GROUP
from kumulus_api.tenancy import ProjectReason
from kumulus_operator.bodies import MANAGER
from kumulus_operator.cloud import Cloud
from kumulus_operator.projects.plan import (
    BOOT_DATA,
    ROLES,
    bindings,
    content_text,
    namespace_body,
    namespace_fault,
    project_status,
    same_binding,
)
from kumulus_operator.security_groups.plan import default_group
from kumulus_operator.views import Key
from kumulus_runtime.errors import AlreadyExists, Forbidden, NotFound
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
        if project is None:
            return None
        if project.deleting:
            await self._let_go(project)
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
            if self._cloud.security_groups.get(name, DEFAULT_GROUP) is None and not await self._make_default(name):
                return None
        await self._write_status(project, fault)
        return None

    async def _write_status(self, project: Project, fault: tuple[ProjectReason, str] | None) -> None:
        status = project_status(project, fault, datetime.now(UTC))
        if status is not None:
            await self._cloud.write_status(project, status)

    async def _let_go(self, project: Project) -> None:
        """Remove the finalizer of a project that is empty, or never had its namespace; else say what is in it."""
        cloud, name = self._cloud, project.metadata.name
        if IN_USE not in project.metadata.finalizers:
            return
        if namespace_fault(project, await cloud.client.get(NAMESPACE, name)) is None:
            ports = [port for port in cloud.ports.in_namespace(name) if not port.metadata.owner_references]
            views = (
                *(cloud.servers, cloud.volume_snapshots, cloud.volumes, cloud.images, cloud.networks),
                cloud.volume_backups,
                *(cloud.routers, cloud.floating_ips, cloud.load_balancers, cloud.dns_zones, cloud.vpn_connections),
            )
            content = {view.kind.__name__: [item.metadata.name for item in view.in_namespace(name)] for view in views}
            held = content_text(content | {"Port": [port.metadata.name for port in ports]})
            if held is not None:
                message = f"deletion: {held}; transient: the project goes when they are deleted"
                await self._write_status(project, (ProjectReason.NOT_EMPTY, message))
                return
        await cloud.client.remove_finalizer(Project, name, IN_USE, uid=project.metadata.uid)

    async def _make_default(self, namespace: str) -> bool:
        """Make the group of ports that name none; False if the namespace is just going."""
        client = self._cloud.client
        try:
            body = await client.create(SecurityGroup, default_group(namespace))
        except AlreadyExists:
            return True  # The watch shows it.
        except (Forbidden, NotFound):
            live = await client.get(NAMESPACE, namespace)
            if live is not None and not live["metadata"].get("deletionTimestamp"):
                raise
            return False
        self._cloud.take(SecurityGroup, body)
        return True

    async def _roles(self, project: Project) -> None:
        client, settings = self._cloud.client, self._cloud.settings
        wanted = bindings(project, (settings.system_namespace, settings.service_account))
        found = {item["metadata"]["name"]: item for item in (await client.list(ROLEBINDING, project.metadata.name))[0]}
        for name in (BOOT_DATA, *(f"kumulus-{role}" for role in ROLES)):
            if name not in wanted:
                if name in found:
                    await client.delete(ROLEBINDING, name, project.metadata.name)
            elif name not in found or not same_binding(found[name], wanted[name]):
                if name in found and found[name]["roleRef"] != wanted[name]["roleRef"]:
                    await client.delete(ROLEBINDING, name, project.metadata.name)  # roleRef cannot be changed
                await client.apply(ROLEBINDING, wanted[name], manager=MANAGER)
