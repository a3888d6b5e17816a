"""Reconcile a FirewallGroup: say where it is in force; its rules come to hosts by the assignments of routers."""

from __future__ import annotations

from datetime import UTC, datetime

from kumulus_api import FirewallGroup
from kumulus_api.firewall_group import FirewallGroupReason
from kumulus_operator.cloud import Cloud
from kumulus_operator.firewall_groups.index import is_on, routers_of
from kumulus_operator.firewall_groups.plan import Findings, admitted_before, find, firewall_status
from kumulus_operator.refusal import Refusal
from kumulus_operator.views import Key
from kumulus_operator.waiting import quota


class FirewallGroupController:
    """Tells of firewall groups.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    async def reconcile(self, key: Key) -> None:
        """Bring the status of one group up to date; a router that is given its rules has it looked at again."""
        cloud = self._cloud
        cloud.guards.waiters.forget(key)
        group = cloud.firewall_groups.get(*key)
        if group is None or group.deleting:
            return
        excess = self._excess(group)
        if excess is not None:
            cloud.guards.waiters.wait(key, excess.needs)
            status = firewall_status(group, Findings(faults=(excess,)), datetime.now(UTC))
            await cloud.tell(group, status, [excess])
            return
        found = find(group, lambda name: cloud.routers.get(key[0], name))
        if found.due:
            return
        await cloud.tell(group, firewall_status(group, found, datetime.now(UTC)), found.faults)

    def _excess(self, group: FirewallGroup) -> Refusal | None:
        """Count a group, and have its routers take it; or say by what it would exceed the quota."""
        cloud, key = self._cloud, group.key
        known = key in cloud.counted_firewall_groups
        before = admitted_before(group) or any(is_on(cloud, router, group) for router in routers_of(group))
        excess = cloud.counted_firewall_groups.admit(key, admitted=before)
        if excess is None:
            if not known:
                for router in routers_of(group):
                    cloud.queues.routers.add(router)
            return None
        message = (
            f"quota: {excess}; it is on no router; transient: admitted when firewall groups are deleted or the quota "
            "is raised"
        )
        return Refusal(FirewallGroupReason.QUOTA_EXCEEDED.value, message, frozenset({quota(key[0])}))
