"""Reconcile a SecurityGroup: count it, say what is wrong with it, let it go when no port is in it."""

from __future__ import annotations

from datetime import UTC, datetime

from kumulus_api import IN_USE, SecurityGroup
from kumulus_api.security_group import DEFAULT_GROUP
from kumulus_operator.cloud import Cloud
from kumulus_operator.security_groups.plan import (
    Fault,
    admitted_before,
    fault_of,
    group_status,
    in_use,
    remote_groups,
    rules_in,
)
from kumulus_operator.views import Key
from kumulus_operator.waiting import quota


class SecurityGroupController:
    """Admits security groups and lets them go; what they let through is for the agents.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    async def reconcile(self, key: Key) -> None:
        """Bring one group to its desired state."""
        cloud = self._cloud
        cloud.group_waiters.forget(key)
        group = cloud.security_groups.get(*key)
        if group is None:
            return
        if group.deleting:
            await self._let_go(group)
            return
        counted = admitted_before(group) or key[1] == DEFAULT_GROUP
        excess = cloud.group_book.admit(key, rules_in(group), counted=counted)
        if excess is not None:
            cloud.group_waiters.wait(key, {quota(key[0])})
        missing = {
            name for namespace, name in remote_groups(group) if cloud.security_groups.get(namespace, name) is None
        }
        await self._write(group, fault_of(excess, missing))

    async def _let_go(self, group: SecurityGroup) -> None:
        """Remove the finalizer of a group that no port is in, else say which are."""
        cloud, metadata = self._cloud, group.metadata
        if IN_USE not in metadata.finalizers:
            return
        ports = [name for _, name in cloud.users_of_group.get(group.key, ())]
        if ports:
            await self._write(group, in_use(ports))
            return
        name, namespace = metadata.name, metadata.namespace
        await cloud.client.remove_finalizer(SecurityGroup, name, IN_USE, namespace, uid=metadata.uid)

    async def _write(self, group: SecurityGroup, fault: Fault | None) -> None:
        status = group_status(group, fault, datetime.now(UTC))
        if status is not None:
            await self._cloud.write_status(group, status)
