"""Which groups ports are in, and what a SecurityGroup is told (pure)."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any

from kumulus_api import Port, SecurityGroup, Server
from kumulus_api.base import LocalReference
from kumulus_api.security_group import DEFAULT_GROUP, EtherType, SecurityGroupReason, SecurityGroupRule
from kumulus_api.server_assignment import AssignedPort
from kumulus_api.server_status import ScheduledReason
from kumulus_operator.bodies import counted
from kumulus_operator.refusal import refuse
from kumulus_operator.views import Key, View
from kumulus_operator.waiting import Need
from kumulus_runtime.conditions import get_condition, set_condition

Fault = tuple[SecurityGroupReason, str]


def names_of(references: Iterable[LocalReference] | None) -> tuple[str, ...]:
    """Give the groups that are named, each once and in order: the project's default if none is."""
    return tuple(sorted({item.name for item in references or ()})) or (DEFAULT_GROUP,)


def groups_of(port: Port) -> frozenset[Key]:
    """Give namespace and name of the groups that a port says it is in."""
    return frozenset((port.key[0], name) for name in names_of(port.spec.security_groups))


def wanted_groups(server: Server, given: AssignedPort, port: Port | None) -> tuple[str, ...]:
    """Give the groups that one of a placed server's ports shall be in.

    Args:
        server: says it of the ports that are made for it.
        given: the port as it was given to the server.
        port: as it is; None if it is not there.
    """
    interface = next((item for item in server.spec.networks or () if item.name == given.name), None)
    if interface is not None and interface.port is not None:
        return names_of(port.spec.security_groups) if port is not None else given_groups(given)
    return names_of(interface.security_groups if interface is not None else None)


def given_groups(given: AssignedPort) -> tuple[str, ...]:
    """Give the groups of a port as they stand in the assignment."""
    return tuple(given.security_groups or (DEFAULT_GROUP,))


def references(names: Collection[str]) -> list[dict[str, str]]:
    """Give groups as a spec names them: nothing for the default alone."""
    return [{"name": name} for name in names] if tuple(names) != (DEFAULT_GROUP,) else []


def require(namespace: str, names: Iterable[str], known: View[SecurityGroup]) -> None:
    """Have all of the groups there and admitted, and of one kind; the default always is, as the operator makes it.

    Raises:
        Refused: one is absent, or beyond its project's quota, or some are stateful and others are not.
    """
    names = tuple(names)
    for name in names:
        group, need = known.get(namespace, name), need_of(namespace, name)
        if name == DEFAULT_GROUP:
            continue
        if group is None or group.deleting:
            message = f"reference: security group {name} was not found; transient: goes on when it is made"
            raise refuse(ScheduledReason.SECURITY_GROUP_NOT_FOUND, message, need)
        if not admitted_before(group):
            message = f"quota: security group {name} is not admitted; transient: goes on when the quota allows it"
            raise refuse(ScheduledReason.SECURITY_GROUP_NOT_READY, message, need)
    stateless = [name for name in names if (group := known.get(namespace, name)) and not group.spec.stateful]
    if stateless and len(stateless) < len(names):
        others = ", ".join(sorted(set(names) - set(stateless)))
        message = (
            f"securityGroups: {', '.join(stateless)} is stateless and {others} is not, and a port's groups are of one"
            " kind; transient: name groups of one kind"
        )
        raise refuse(ScheduledReason.SECURITY_GROUP_CONFLICT, message, need_of(namespace, stateless[0]))


def need_of(namespace: str, name: str) -> Need:
    """Give the need for a group."""
    return ("SecurityGroup", namespace, name)


def default_group(namespace: str) -> dict[str, Any]:
    """Give the group that a project begins with, as in Neutron: all may go out, and its members reach each other."""
    members = [
        SecurityGroupRule(ether_type=family, remote_group=LocalReference(name=DEFAULT_GROUP)).dump()
        for family in EtherType
    ]
    spec = {"description": "of the ports that name no group", "ingress": members}
    return {"metadata": {"name": DEFAULT_GROUP, "namespace": namespace}, "spec": spec}


def rules_in(group: SecurityGroup) -> int:
    """Give how many rules a group has."""
    return len(group.spec.ingress) + len(group.spec.egress)


def remote_groups(group: SecurityGroup) -> frozenset[Key]:
    """Give namespace and name of the groups whose members its rules let through."""
    named = (rule.remote_group for rule in (*group.spec.ingress, *group.spec.egress))
    return frozenset((group.key[0], remote.name) for remote in named if remote is not None)


def admitted_before(group: SecurityGroup) -> bool:
    """Give whether a group was counted against the quota."""
    conditions = group.status.dump()["conditions"] if group.status is not None else []
    ready = get_condition(conditions, "Ready")
    return ready is not None and ready["reason"] != SecurityGroupReason.QUOTA_EXCEEDED


def fault_of(excess: str | None, missing: Collection[str]) -> Fault | None:
    """Say what is wrong with a group, or None.

    Args:
        excess: by what it exceeds the quota, or None.
        missing: names of the groups that its rules speak of and that are not there.
    """
    if excess is not None:
        text = f"quota: {excess}; transient: admitted when groups or rules are deleted or the quota is raised"
        return SecurityGroupReason.QUOTA_EXCEEDED, text
    if missing:
        names = ", ".join(sorted(missing))
        text = f"reference: rules speak of {names}, not found; transient: they let nobody through until it is made"
        return SecurityGroupReason.REMOTE_GROUP_NOT_FOUND, text
    return None


def in_use(ports: Collection[str]) -> Fault:
    """Say which ports keep a group that is to be deleted."""
    verb = "is" if len(ports) == 1 else "are"
    text = f"deletion: {counted('port', ports)} {verb} in it; transient: the group goes when they have left it"
    return SecurityGroupReason.IN_USE, text


def group_status(group: SecurityGroup, fault: Fault | None, now: datetime) -> dict[str, Any] | None:
    """Give the status to write, or None if it says so already."""
    found = group.status.dump() if group.status is not None else {}
    reason, message = fault if fault is not None else (SecurityGroupReason.ADMITTED, "")
    conditions = set_condition(
        found.get("conditions", []), "Ready", fault is None, reason, message, group.metadata.generation, now
    )
    wanted = {"observedGeneration": group.metadata.generation, "conditions": conditions}
    return None if wanted == found else wanted
