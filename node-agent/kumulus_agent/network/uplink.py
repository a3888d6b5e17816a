"""A host's interface that leads to a physical network: taken into the datapath whole, and given back as it was.

What it was is noted on the interface itself, in the same request that moves it: there is no moment at which an agent
that dies would leave an interface of which nobody knows whose it is.
"""

from __future__ import annotations

from kumulus_agent.network import link
from kumulus_agent.network.errors import NetlinkFailed, netlink_errors
from kumulus_agent.network.netlink import AsyncIPRoute

OWN_NAMESPACE = "/proc/self/ns/net"
_IFF_UP = 1


async def take(host: AsyncIPRoute, name: str, namespace: str, note: str) -> None:
    """Move the host's interface to the datapath's namespace, with a note of how it was."""
    with netlink_errors(f"take {name} into namespace {namespace}"):
        await host.link("set", index=await link.present(host, name), net_ns_fd=namespace, IFLA_IFALIAS=note)


async def give_back(datapath: AsyncIPRoute, name: str, host_namespace: str | None, *, up: bool, alias: str) -> None:
    """Move the interface back to the host's namespace, with the alias and the state that it had."""
    flags = {"flags": _IFF_UP if up else 0, "change": _IFF_UP}
    with netlink_errors(f"give {name} back to the host"):
        target = host_namespace or OWN_NAMESPACE
        await datapath.link(
            "set", index=await link.present(datapath, name), net_ns_fd=target, IFLA_IFALIAS=alias, **flags
        )


async def ensure_vlan(
    host: AsyncIPRoute, datapath: AsyncIPRoute, namespace: str, vlan: tuple[str, str, int], note: str
) -> None:
    """Make a VLAN device on an interface, the device in the datapath's namespace wherever the interface is.

    Args:
        host: netlink of the host's namespace.
        datapath: netlink of the datapath's.
        namespace: the datapath's name.
        vlan: the device's name, the interface's, and the VLAN's number.
        note: written last, so that a half-made device is seen.
    """
    name, interface, number = vlan
    for where in (host, datapath):
        parent = await link.index(where, interface)
        if parent is None:
            continue
        with netlink_errors(f"make VLAN {number} on {interface}"):
            await where.link("add", ifname=name, kind="vlan", link=parent, vlan_id=number, net_ns_fd=namespace)
            await datapath.link("set", index=await link.present(datapath, name), IFLA_IFALIAS=note)
        return
    raise NetlinkFailed(f"interface {interface} is gone; observe again")
