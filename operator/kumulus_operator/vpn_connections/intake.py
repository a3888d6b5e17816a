"""Take in what was seen of VPN connections, and have those looked at that something else concerns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kumulus_api import VPNConnection

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
    if (former and former.spec) != (new and new.spec):
        cloud.wake(("VPNConnection", *item.key))


def _networks(connection: VPNConnection | None) -> list[str] | None:
    if connection is None or connection.deleting or connection.spec.assignment is None:
        return None
    return connection.spec.assignment.peer_cidrs
