"""Which firewall groups name which routers, as far as the watches have shown it, and what is looked at for that."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from kumulus_api import FirewallGroup
from kumulus_operator.firewall_groups.plan import admitted_before
from kumulus_operator.views import Key, reindex
from kumulus_operator.waiting import Waiters, quota

if TYPE_CHECKING:
    from kumulus_operator.cloud import Cloud


class Guards:
    """Index of firewall groups."""

    def __init__(self) -> None:
        self.naming: defaultdict[Key, set[Key]] = defaultdict(set)
        """Those whose spec names a router."""
        self.waiters = Waiters()


def take_firewall_group(cloud: Cloud, former: FirewallGroup | None, new: FirewallGroup | None) -> None:
    """Take in a firewall group: routers have its rules in their assignments."""
    item = new or former
    if item is None:
        return
    cloud.queues.firewall_groups.add(item.key)
    was, now = routers_of(former), routers_of(new)
    reindex(cloud.guards.naming, item.key, was, now)
    if former is None or new is None or former.spec != new.spec:
        for router in was | now:
            cloud.queues.routers.add(router)
    if new is None:
        cloud.counted_firewall_groups.withdraw(item.key)
        cloud.wake(quota(item.key[0]))
    elif admitted_before(new):
        cloud.counted_firewall_groups.admit(item.key, admitted=True)


def router_changed(cloud: Cloud, router: Key) -> None:
    """Have the firewall groups looked at that name a router, which is another now."""
    for group in cloud.guards.naming.get(router, ()):
        cloud.queues.firewall_groups.add(group)


def groups_on(cloud: Cloud, router: Key) -> list[FirewallGroup]:
    """Give the firewall groups that name a router and are admitted; what it has was."""
    found = (cloud.firewall_groups.get(*key) for key in cloud.guards.naming.get(router, ()))
    groups = [group for group in found if group is not None]
    return [item for item in groups if item.key in cloud.counted_firewall_groups or is_on(cloud, router, item)]


def is_on(cloud: Cloud, router: Key, group: FirewallGroup) -> bool:
    """Whether a router has been given a group."""
    found = cloud.routers.get(*router)
    given = found.spec.assignment if found is not None else None
    return given is not None and any(item.group == group.metadata.name for item in given.firewalls)


def routers_of(group: FirewallGroup | None) -> set[Key]:
    """Give the routers that a group names."""
    return {(group.key[0], item.name) for item in group.spec.routers} if group is not None else set()
