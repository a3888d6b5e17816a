"""The namespace by which a host's pods reach a network's servers: a port of the network, with an address of its own."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from socket import AF_INET
from typing import Protocol

from kumulus_agent.network import link, namespace
from kumulus_agent.network.errors import netlink_errors
from kumulus_agent.network.netlink import AsyncIPRoute
from kumulus_agent.peering.state import PORT
from kumulus_agent.routers.announce import announce


class Bridges(Protocol):
    """What of the datapath is needed."""

    @property
    def namespace(self) -> str:
        """Give the name of the namespace of bridges."""

    async def plug(self, name: str, vni: int) -> bool:
        """Bring a link to the bridge of a network."""


@dataclass(frozen=True)
class PodsPlace:
    """Where pods come from, as the network sees them: addresses have the prefix length of their subnets."""

    namespace: str
    vni: int
    tap: str
    mac: str
    addresses: tuple[str, ...]
    mtu: int


async def ensure(datapath: Bridges, place: PodsPlace) -> bool:
    """Have the namespace as a port of the network, whose rules are here already; False if it was one.

    Raises:
        NetworkError: the kernel refused.
    """
    await namespace.ensure(place.namespace)
    async with AsyncExitStack() as stack:
        outer, inner = [
            await stack.enter_async_context(AsyncIPRoute(fileno=namespace.netlink_socket(name), groups=0))
            for name in (datapath.namespace, place.namespace)
        ]
        with netlink_errors(f"join {place.namespace} to network {place.vni}"):
            anew = not await _joined(inner, place)
            if anew:
                namespace.configure_peering(place.namespace)
                await link.absent(outer, place.tap)
                peer = {"ifname": PORT, "address": place.mac, "mtu": place.mtu, "net_ns_fd": place.namespace}
                await outer.link("add", ifname=place.tap, kind="veth", mtu=place.mtu, peer=peer)
            await _configure(inner, place)
    await datapath.plug(place.tap, place.vni)
    if anew:
        # Another may have had the addresses before.
        await announce(place.namespace, PORT, place.mac, (text.partition("/")[0] for text in place.addresses))
    return anew


async def _joined(inner: AsyncIPRoute, place: PodsPlace) -> bool:
    if await link.index(inner, PORT) is None:
        return False
    (message,) = await inner.link("get", ifname=PORT)
    return bool(message.get_attr("IFLA_ADDRESS") == place.mac)


async def _configure(inner: AsyncIPRoute, place: PodsPlace) -> None:
    await inner.link("set", index=await link.present(inner, "lo"), state="up")
    number = await link.present(inner, PORT)
    found = {
        f"{item.get_attr('IFA_LOCAL')}/{item['prefixlen']}"
        async for item in await inner.get_addr(family=AF_INET, index=number)
    }
    for text in found - set(place.addresses):
        address, length = text.split("/")
        await inner.addr("del", index=number, address=address, prefixlen=int(length))
    for text in place.addresses:
        if text not in found:
            address, length = text.split("/")
            await inner.addr("replace", index=number, address=address, prefixlen=int(length))
    await inner.link("set", index=number, mtu=place.mtu, state="up")
