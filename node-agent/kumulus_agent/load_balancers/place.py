"""The namespace of a load balancer, joined to its network's bridge by a port as servers' are."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from socket import AF_INET, AF_INET6
from typing import Any, Protocol

from kumulus_agent.load_balancers.haproxy import digits
from kumulus_agent.network import link, namespace
from kumulus_agent.network.errors import NetworkError, netlink_errors
from kumulus_agent.network.names import TAP_DIGITS
from kumulus_agent.network.netlink import AsyncIPRoute
from kumulus_agent.routers.announce import announce

INNER = "eth0"
_NO_DUPLICATE_DETECTION = 2


class Bridges(Protocol):
    """What of the datapath is needed."""

    @property
    def namespace(self) -> str: ...  # noqa: D102
    async def plug(self, name: str, vni: int) -> bool: ...  # noqa: D102
    async def unplug(self, name: str) -> bool: ...  # noqa: D102


@dataclass(frozen=True)
class Place:
    """Where a load balancer is.

    Attributes:
        balancer_id: which.
        tap: the bridge's end of its link.
        vni: of its network.
        mac: of its port.
        addresses: with the prefix lengths of their subnets.
        next_hops: where all else is reached, one for each family.
        mtu: bytes.
    """

    balancer_id: str
    tap: str
    vni: int
    mac: str
    addresses: tuple[str, ...]
    next_hops: tuple[str, ...]
    mtu: int


class Places:
    """The namespaces of this host's load balancers.

    Args:
        datapath: where the bridges are.
        prefix: of their names.
    """

    def __init__(self, datapath: Bridges, prefix: str = "kl-") -> None:
        self._datapath = datapath
        self._prefix = prefix

    def path(self, balancer_id: str) -> Path:
        """Give the file that stands for a load balancer's namespace."""
        return namespace.path(self._name(balancer_id))

    async def ensure(self, place: Place) -> bool:
        """Have the namespace, its link and addresses; the network with its rules is here already. False if they were.

        Raises:
            NetworkError: the kernel refused.
        """
        name = self._name(place.balancer_id)
        if await namespace.ensure(name):
            namespace.configure_balancer(name, ipv6=any(":" in address for address in place.addresses))
        async with self._open(self._datapath.namespace) as outer, self._open(name) as inner:
            made = await link.index(inner, INNER) is None
            if made:
                await self._join(outer, name, place)
            await _configure(inner, place)
        await self._datapath.plug(place.tap, place.vni)
        if made:
            await self._announce(name, place)
        return made

    async def _join(self, outer: AsyncIPRoute, name: str, place: Place) -> None:
        await link.absent(outer, place.tap)
        peer = {"ifname": INNER, "address": place.mac, "mtu": place.mtu, "net_ns_fd": name}
        with netlink_errors(f"make the veth {place.tap} to namespace {name}"):
            await outer.link("add", ifname=place.tap, kind="veth", mtu=place.mtu, peer=peer)

    async def _announce(self, name: str, place: Place) -> None:
        """Tell the network where the addresses are now: on another host they were elsewhere before."""
        for text in place.addresses:
            address = text.partition("/")[0]
            if ":" not in address:
                try:
                    await asyncio.to_thread(announce, name, INNER, place.mac, address)
                except OSError as error:
                    raise NetworkError(f"asked to announce {address} by {place.tap}: {error}") from error

    async def remove(self, balancer_id: str) -> bool:
        """Remove the namespace and its link; False if it was not here."""
        return await namespace.absent(self._name(balancer_id))

    async def sweep(self, kept: Collection[str]) -> None:
        """Remove all but those of these load balancers."""
        names = {self._name(balancer_id) for balancer_id in kept}
        size = len(self._prefix) + TAP_DIGITS
        found = await asyncio.to_thread(lambda: sorted(namespace.DIRECTORY.glob(f"{self._prefix}*")))
        for file in found:
            if len(file.name) == size and file.name not in names:
                await namespace.absent(file.name)

    def _name(self, balancer_id: str) -> str:
        return self._prefix + digits(balancer_id)

    def _open(self, name: str) -> AsyncIPRoute:
        return AsyncIPRoute(fileno=namespace.netlink_socket(name), groups=0)


async def _configure(inner: AsyncIPRoute, place: Place) -> None:
    """Set all that is inside; what is so already is not disturbed by being set again."""
    with netlink_errors(f"configure the addresses {', '.join(place.addresses)} of a load balancer"):
        number = await link.present(inner, INNER)
        await inner.link("set", index=await link.present(inner, "lo"), state="up")
        await inner.link("set", index=number, state="up", mtu=place.mtu)
        for text in place.addresses:
            address, length = text.split("/")
            flags: dict[str, Any] = {"flags": _NO_DUPLICATE_DETECTION} if ":" in address else {}
            await inner.addr("replace", index=number, address=address, prefixlen=int(length), **flags)
        for hop in place.next_hops:
            everywhere, family = ("::/0", AF_INET6) if ":" in hop else ("0.0.0.0/0", AF_INET)
            await inner.route("replace", dst=everywhere, gateway=hop, family=family)
