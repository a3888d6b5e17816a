"""Reconcile a FirewallGroup: say where it is in force; its rules come to hosts by the assignments of routers."""

from __future__ import annotations

from datetime import UTC, datetime

from kumulus_operator.cloud import Cloud
from kumulus_operator.firewall_groups.plan import find, firewall_status
from kumulus_operator.views import Key


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
        group = cloud.firewall_groups.get(*key)
        if group is None or group.deleting:
            return
        found = find(group, lambda name: cloud.routers.get(key[0], name))
        if found.due:
            return
        await cloud.tell(group, firewall_status(group, found, datetime.now(UTC)), found.faults)
