"""A network's bridge: no address, no multicast snooping, no spanning tree."""

from __future__ import annotations

from kumulus_agent.network import link
from kumulus_agent.network.errors import netlink_errors
from kumulus_agent.network.netlink import AsyncIPRoute


async def ensure(ipr: AsyncIPRoute, name: str, mtu: int) -> bool:
    """Make the bridge with that MTU in bytes; False if it was there."""
    if await link.index(ipr, name) is not None:
        return False
    with netlink_errors(f"make bridge {name}"):
        await ipr.link("add", ifname=name, kind="bridge", mtu=mtu, br_mcast_snooping=0, br_stp_state=0)
    return True
