"""Take in what was seen of security groups, and of the ports that are in them; see `kumulus_operator.intake`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kumulus_api import Port, SecurityGroup
from kumulus_api.security_group import DEFAULT_GROUP
from kumulus_operator.security_groups.plan import groups_of, need_of, remote_groups
from kumulus_operator.waiting import quota

if TYPE_CHECKING:
    from kumulus_operator.cloud import Cloud


def port_in_groups(cloud: Cloud, former: Port | None, new: Port | None) -> None:
    """Keep which ports are in which group; a changed list of groups concerns the port's server."""
    old = groups_of(former) if former is not None else frozenset()
    now = groups_of(new) if new is not None else frozenset()
    port = (new or former).key  # type: ignore[union-attr]
    for key in old - now:
        cloud.users_of_group[key].discard(port)
        if not cloud.users_of_group[key]:
            del cloud.users_of_group[key]
            group = cloud.security_groups.get(*key)
            if group is not None and group.deleting:
                cloud.queues.security_groups.add(key)
    for key in now - old:
        cloud.users_of_group[key].add(port)
    checked = [item.spec.port_security_enabled for item in (former, new) if item is not None]
    if former is not None and new is not None and (old != now or len(set(checked)) > 1):
        holder = cloud.ledger.held_by(("Port", *port))
        if holder is not None:
            cloud.queues.servers.add((port[0], holder))


def security_group_seen(cloud: Cloud, former: SecurityGroup | None, new: SecurityGroup | None) -> None:
    """Count a group, and wake what waits for it."""
    item = new or former
    if item is None:
        return
    cloud.queues.security_groups.add(item.key)
    cloud.wake(need_of(*item.key))
    if former is None or new is None:
        for other in cloud.security_groups.in_namespace(item.key[0]):
            if item.key in remote_groups(other):
                cloud.queues.security_groups.add(other.key)
    if new is None:
        cloud.group_book.gone(item.key)
        cloud.wake(quota(item.key[0]))
        if item.metadata.name == DEFAULT_GROUP:
            cloud.queues.projects.add(("", item.key[0]))
