"""Take in what was seen of VPN connections, and have those looked at that something else concerns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kumulus_api import VPNConnection
from kumulus_operator.waiting import quota

if TYPE_CHECKING:
    from kumulus_operator.cloud import Cloud


def take_vpn_connection(cloud: Cloud, former: VPNConnection | None, new: VPNConnection | None) -> None:
    """Take in a VPN connection."""
    item = new or former
    if item is None:
        return
    cloud.queues.vpn_connections.add(item.key)
    if _networks(former) != _networks(new):
        cloud.queues.routers.add((item.key[0], item.spec.router.name))
    if new is None:
        cloud.counted_vpn_connections.withdraw(item.key)
        cloud.wake(quota(item.key[0]))
    elif new.spec.assignment is not None:
        cloud.counted_vpn_connections.admit(item.key, admitted=True)
    if (former and former.spec) != (new and new.spec):
        cloud.wake(("VPNConnection", *item.key))


def _networks(connection: VPNConnection | None) -> tuple[list[str], list[str]] | None:
    """Give those that are asked for, and those that hosts know of."""
    if connection is None or connection.deleting:
        return None
    given = connection.spec.assignment
    return connection.spec.peer_cidrs, given.peer_cidrs if given is not None else []
