"""Plan a Project's namespace, roles and status (pure)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from kumulus_api import PROJECT_LABEL, PUBLIC_NAMESPACE, Project
from kumulus_api.quantities import format_quantity
from kumulus_api.tenancy import ProjectReason, Quota, QuotaShown, QuotaUsage, RoleAssignment, Subject, SubjectKind
from kumulus_operator.bodies import counted, owner_reference
from kumulus_operator.ledger.plan import Usage
from kumulus_runtime.conditions import set_condition

_RBAC = "rbac.authorization.k8s.io"
ROLES = ("admin", "member", "reader")
BOOT_DATA = "kumulus-boot-data"
"""The ClusterRole that lets the operator read user data, and the binding of it in a project's namespace."""


def reserved(name: str) -> bool:
    """Give whether a namespace of this name may not become a project."""
    return name == "default" or name.startswith(("kube-", "kumulus-"))


def namespace_fault(project: Project, namespace: dict[str, Any] | None) -> tuple[ProjectReason, str] | None:
    """Say why a project cannot have the namespace of its name, or None."""
    name = project.metadata.name
    if reserved(name) and name != PUBLIC_NAMESPACE:
        text = f"namespace: {name} is reserved (default, kube-*, kumulus-*); permanent: choose another name"
        return ProjectReason.NAMESPACE_RESERVED, text
    if namespace is not None and namespace["metadata"].get("labels", {}).get(PROJECT_LABEL) != name:
        text = (
            f"namespace: {name} exists and was not made for this project, so it is left alone; "
            "transient: goes on when that namespace is deleted"
        )
        return ProjectReason.NAMESPACE_FOREIGN, text
    return None


def namespace_body(project: Project) -> dict[str, Any]:
    """Give the namespace of a project."""
    name = project.metadata.name
    owner = owner_reference(project)
    return {"metadata": {"name": name, "labels": {PROJECT_LABEL: name}, "ownerReferences": [owner]}}


def role_binding(project: Project, assignment: RoleAssignment) -> dict[str, Any]:
    """Give the RoleBinding for one role of a project."""
    name = project.metadata.name
    role = assignment.role.value
    return {
        "metadata": {"name": f"kumulus-{role}", "namespace": name, "labels": {PROJECT_LABEL: name}},
        "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": f"kumulus-project-{role}"},
        "subjects": [_subject(item) for item in assignment.subjects],
    }


def boot_data_binding(project: Project, operator: tuple[str, str]) -> dict[str, Any]:
    """Give the RoleBinding by which the operator reads the user data of servers: in projects and nowhere else.

    Args:
        project: whose namespace it is in.
        operator: namespace and name of the operator's ServiceAccount.
    """
    namespace, account = operator
    return {
        "metadata": {
            "name": BOOT_DATA,
            "namespace": project.metadata.name,
            "labels": {PROJECT_LABEL: project.metadata.name},
        },
        "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": BOOT_DATA},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
    }


def bindings(project: Project, operator: tuple[str, str]) -> dict[str, dict[str, Any]]:
    """Give all RoleBindings of a project by their names; see `boot_data_binding`."""
    roles = [role_binding(project, item) for item in project.spec.roles if item.subjects]
    return {item["metadata"]["name"]: item for item in (boot_data_binding(project, operator), *roles)}


def _subject(subject: Subject) -> dict[str, Any]:
    if subject.kind is SubjectKind.SERVICE_ACCOUNT:
        return {"kind": subject.kind.value, "name": subject.name, "namespace": subject.namespace}
    return {"kind": subject.kind.value, "name": subject.name, "apiGroup": _RBAC}


def same_binding(found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Give whether a RoleBinding is as it should be."""
    roles = found.get("roleRef"), found.get("subjects") or []
    return roles == (wanted["roleRef"], wanted["subjects"])


def content_text(content: Mapping[str, Collection[str]]) -> str | None:
    """Say what is in a project, given names by kind, or None if it is empty."""
    parts = [counted(kind.lower(), names) for kind, names in content.items() if names]
    return f"{', '.join(parts)} {'is' if sum(map(len, content.values())) == 1 else 'are'} in it" if parts else None


def project_status(project: Project, fault: tuple[ProjectReason, str] | None, now: datetime) -> dict[str, Any] | None:
    """Give the status to write, but for the usage, or None if it says so already."""
    found = project.status.dump() if project.status else {}
    found = {name: value for name, value in found.items() if name not in ("usage", "quota")}
    generation = project.metadata.generation
    reason, message = fault if fault is not None else (ProjectReason.NAMESPACE_READY, "namespace and roles are there")
    conditions = set_condition(found.get("conditions", []), "Ready", fault is None, reason, message, generation, now)
    wanted: dict[str, Any] = {"observedGeneration": generation, "conditions": conditions}
    if fault is None:
        wanted["namespace"] = project.metadata.name
    return None if wanted == found else wanted


def usage_status(project: Project, usage: Usage) -> dict[str, Any] | None:
    """Give used amounts and limits as they are shown, or None if the status says so already."""
    limits = project.spec.quota
    used = QuotaUsage(
        servers=usage.servers,
        vcpus=int(usage.vcpus),
        memory=format_quantity(int(usage.memory)),
        dns_zones=usage.dns_zones,
        volumes=usage.volumes,
        gigabytes=-(-usage.volume_bytes // 2**30),
        snapshots=usage.snapshots,
        backups=usage.backups,
        backup_gigabytes=-(-usage.backup_bytes // 2**30),
        images=usage.images,
        image_gigabytes=-(-usage.image_bytes // 2**30),
        ports=usage.ports,
        security_groups=usage.groups,
        security_group_rules=usage.group_rules,
        routers=usage.routers,
        floatingIPs=usage.floating_ips,
        load_balancers=usage.load_balancers,
        firewall_groups=usage.firewall_groups,
        vpn_connections=usage.vpn_connections,
    )
    status = project.status
    shown = _shown(used, limits)
    if status is not None and (status.usage, status.quota) == (used, shown):
        return None
    return {"usage": used.dump(), "quota": shown.dump()}


def _shown(used: QuotaUsage, limits: Quota) -> QuotaShown:
    """Give each as `used/limit`, with `-` for no limit."""
    names = QuotaUsage.model_fields
    limit = {name: getattr(limits, name) for name in names}
    shown = {name: f"{getattr(used, name)}/{'-' if limit[name] is None else limit[name]}" for name in names}
    return QuotaShown.model_validate(shown)
