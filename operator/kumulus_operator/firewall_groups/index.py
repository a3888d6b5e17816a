"""Which firewall groups name which routers, as far as the watches have shown it, and what is looked at for that."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from kumulus_api import FirewallGroup
from kumulus_operator.views import Key, reindex

if TYPE_CHECKING:
    from kumulus_operator.cloud import Cloud


class Guards:
    """Index of firewall groups."""

    def __init__(self) -> None:
        self.naming: defaultdict[Key, set[Key]] = defaultdict(set)
        """Those whose spec names a router."""


def take_firewall_group(cloud: Cloud, former: FirewallGroup | None, new: FirewallGroup | None) -> None:
    """Take in a firewall group: routers have its rules in their assignments."""
    item = new or former
    if item is None:
        return
    cloud.queues.firewall_groups.add(item.key)
    was, now = _routers(former), _routers(new)
    reindex(cloud.guards.naming, item.key, was, now)
    if former is None or new is None or former.spec != new.spec:
        for router in was | now:
            cloud.queues.routers.add(router)


def router_changed(cloud: Cloud, router: Key) -> None:
    """Have the firewall groups looked at that name a router, which is another now."""
    for group in cloud.guards.naming.get(router, ()):
        cloud.queues.firewall_groups.add(group)


def groups_on(cloud: Cloud, router: Key) -> list[FirewallGroup]:
    """Give the firewall groups that name a router."""
    found = (cloud.firewall_groups.get(*key) for key in cloud.guards.naming.get(router, ()))
    return [group for group in found if group is not None]


def _routers(group: FirewallGroup | None) -> set[Key]:
    return {(group.key[0], item.name) for item in group.spec.routers} if group is not None else set()
