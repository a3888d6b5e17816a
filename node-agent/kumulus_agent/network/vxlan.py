"""A network's VXLAN device: its socket in the host's namespace, the device in the datapath's."""

from __future__ import annotations

import errno
from dataclasses import dataclass

from kumulus_agent.network import link
from kumulus_agent.network.errors import netlink_errors
from kumulus_agent.network.netlink import AsyncIPRoute, NetlinkError

PORT = 4789
"""UDP port of VXLAN (RFC 7348)."""
ANY = "00:00:00:00:00:00"
"""The forwarding entry of frames whose destination is unknown or a group."""
AF_BRIDGE = 7
NTF_SELF = 0x02
NTF_MASTER = 0x04
NTF_EXT_LEARNED = 0x10
NTF_STICKY = 0x40
NUD_REACHABLE = 0x02
NUD_NOARP = 0x40


@dataclass(frozen=True)
class Tunnel:
    """A VXLAN device: its identifier, MTU in bytes and the host's tunnel address."""

    name: str
    vni: int
    mtu: int
    local: str


async def ensure(host: AsyncIPRoute, datapath: AsyncIPRoute, namespace: str, tunnel: Tunnel) -> bool:
    """Make the device from the host's namespace directly in the datapath's; False if it was there.

    The kernel keeps the UDP socket where the request was made, so frames leave by the host's own routes.
    """
    if await link.index(datapath, tunnel.name) is not None:
        return False
    with netlink_errors(f"make VXLAN device {tunnel.name}"):
        await host.link(
            "add",
            ifname=tunnel.name,
            kind="vxlan",
            vxlan_id=tunnel.vni,
            vxlan_local=tunnel.local,
            vxlan_port=PORT,
            vxlan_learning=1,
            mtu=tunnel.mtu,
            net_ns_fd=namespace,
        )
    return True


async def ensure_peer(ipr: AsyncIPRoute, name: str, peer: str) -> None:
    """Put the tunnel address on the flood list."""
    with netlink_errors(f"add {peer} to the flood list of {name}"):
        try:
            await ipr.fdb("append", ifindex=await link.present(ipr, name), lladdr=ANY, dst=peer)
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                raise


async def absent_peer(ipr: AsyncIPRoute, name: str, peer: str) -> None:
    """Take the tunnel address off the flood list."""
    with netlink_errors(f"remove {peer} from the flood list of {name}"):
        try:
            await ipr.fdb("del", ifindex=await link.present(ipr, name), lladdr=ANY, dst=peer)
        except NetlinkError as error:
            if error.code != errno.ENOENT:
                raise


async def ensure_neighbour(ipr: AsyncIPRoute, name: str, mac: str, peer: str) -> None:
    """Note where the MAC is.

    As EVPN daemons do, the entry is marked as learned by a control plane: it does not age, and unlike a static one it
    does not make the kernel drop the frames of a guest that has migrated before we have heard of it.
    """
    with netlink_errors(f"note {mac} behind {peer} on {name}"):
        await ipr.neigh(
            "replace",
            family=AF_BRIDGE,
            ifindex=await link.present(ipr, name),
            lladdr=mac,
            dst=peer,
            state=NUD_REACHABLE,
            flags=NTF_SELF | NTF_EXT_LEARNED,
        )


async def absent_neighbour(ipr: AsyncIPRoute, name: str, mac: str) -> None:
    """Forget where the MAC is."""
    await _forget(ipr, name, mac, f"forget {mac} on {name}", NTF_SELF)


async def ensure_forward(ipr: AsyncIPRoute, name: str, mac: str) -> None:
    """Have the bridge of port `name` know for good that the MAC is behind it, whatever frames come from elsewhere."""
    with netlink_errors(f"note {mac} behind {name} in its bridge"):
        await ipr.neigh(
            "replace",
            family=AF_BRIDGE,
            ifindex=await link.present(ipr, name),
            lladdr=mac,
            state=NUD_NOARP,
            flags=NTF_MASTER | NTF_STICKY,
        )


async def absent_forward(ipr: AsyncIPRoute, name: str, mac: str) -> None:
    """Have the bridge of port `name` forget the MAC."""
    await _forget(ipr, name, mac, f"forget {mac} behind {name} in its bridge", NTF_MASTER)


async def _forget(ipr: AsyncIPRoute, name: str, mac: str, what: str, flags: int) -> None:
    """Delete a forwarding entry; absent is success."""
    with netlink_errors(what):
        try:
            await ipr.neigh("del", family=AF_BRIDGE, ifindex=await link.present(ipr, name), lladdr=mac, flags=flags)
        except NetlinkError as error:
            if error.code != errno.ENOENT:
                raise


def is_fixed(flags: int) -> bool:
    """Whether a forwarding entry with these flags is one of `ensure_forward`'s."""
    return bool(flags & NTF_STICKY)


def is_noted(flags: int) -> bool:
    """Whether a forwarding entry with these flags is one of `ensure_neighbour`'s."""
    return bool(flags & NTF_EXT_LEARNED)
