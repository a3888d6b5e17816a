"""The namespace of a load balancer, joined to its network's bridge by a port as servers' are."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Protocol

from kumulus_agent.load_balancers.haproxy import digits
from kumulus_agent.load_balancers.inside import Own, Place, configure
from kumulus_agent.load_balancers.pair import LINK, OWN_LINK
from kumulus_agent.network import link, names, namespace
from kumulus_agent.network.errors import netlink_errors
from kumulus_agent.network.names import TAP_DIGITS
from kumulus_agent.network.netlink import AsyncIPRoute
from kumulus_agent.routers.announce import announce
from kumulus_agent.routers.pair import NETWORK
from kumulus_agent.routers.paths import create_join
from kumulus_agent.routers.state import Join

__all__ = ["Own", "Place", "Places"]


class Bridges(Protocol):
    """What of the datapath is needed."""

    @property
    def namespace(self) -> str: ...
    async def plug(self, name: str, vni: int) -> bool: ...
    async def unplug(self, name: str) -> bool: ...


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
        """Have the namespace, its links and addresses; the network with its rules is here already. False if they were.

        Raises:
            NetworkError: the kernel refused.
        """
        name = self._name(place.balancer_id)
        await namespace.ensure(name)
        async with self._open(self._datapath.namespace) as outer, self._open(name) as inner:
            missing = [item for item in _links(place) if await link.index(inner, item) is None]
            between = names.router_link(place.balancer_id, "pair")
            if missing and await link.index(inner, between) is None:  # without IPv6 it would be heard no more
                namespace.configure_balancer(name, ipv6=place.ipv6)
            for item in missing:
                await self._join(outer, inner, item, place)
            if place.own is None:
                await link.absent(inner, OWN_LINK)
            if place.pair is None:
                await link.absent(inner, between)
            await configure(name, inner, place)
        await self._datapath.plug(place.tap, place.vni)
        if place.own is not None:
            await self._datapath.plug(place.own.tap, place.vni)
        if LINK in missing and place.pair is None:
            await announce(name, LINK, place.mac, _four(place.addresses))
        if OWN_LINK in missing and place.own is not None:
            await announce(name, OWN_LINK, place.own.mac, _four(place.own.addresses))
        return bool(missing)

    async def _join(self, outer: AsyncIPRoute, inner: AsyncIPRoute, item: str, place: Place) -> None:
        name = self._name(place.balancer_id)
        if place.pair is not None and item == place.pair.link:
            await link.absent(outer, item)
            join = Join(item, names.bridge(NETWORK), place.pair.port().mac, place.mtu)
            await create_join(name, outer, inner, join)
            namespace.enable_ipv6_on(name, item)
            return
        tap, mac = (place.own.tap, place.own.mac) if item == OWN_LINK and place.own else (place.tap, place.mac)
        await link.absent(outer, tap)
        peer = {"ifname": item, "address": mac, "mtu": place.mtu, "net_ns_fd": name}
        with netlink_errors(f"make the veth {tap} to namespace {name}"):
            await outer.link("add", ifname=tap, kind="veth", mtu=place.mtu, peer=peer)

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


def _links(place: Place) -> Iterator[str]:
    """Give the names of the links inside."""
    yield LINK
    if place.own is not None:
        yield OWN_LINK
    if place.pair is not None:
        yield place.pair.link


def _four(addresses: Iterable[str]) -> Iterator[str]:
    """Give those of IPv4, which on another host were elsewhere before."""
    return (text.partition("/")[0] for text in addresses if ":" not in text)
