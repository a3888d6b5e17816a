"""What is inside the namespace of a load balancer: links, addresses, routes. What is so already is not disturbed."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from ipaddress import ip_interface
from socket import AF_INET, AF_INET6
from typing import Any

from kumulus_agent.load_balancers.pair import LINK, OWN_LINK, TABLE
from kumulus_agent.network import link, namespace
from kumulus_agent.network.errors import netlink_errors
from kumulus_agent.network.netlink import AsyncIPRoute
from kumulus_agent.routers.pair import Pair

_NO_DUPLICATE_DETECTION = 2
_ONLINK = 4
_NUD_PERMANENT = 0x80


@dataclass(frozen=True)
class Own:
    """The standby's own port: the end at the bridge, MAC, and addresses with the prefix lengths of their subnets."""

    tap: str
    mac: str
    addresses: tuple[str, ...]


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
        pair: this host as one of two of which one has the addresses; None if they are here for good.
        own: by which members are reached besides.
    """

    balancer_id: str
    tap: str
    vni: int
    mac: str
    addresses: tuple[str, ...]
    next_hops: tuple[str, ...]
    mtu: int
    pair: Pair | None = None
    own: Own | None = None

    @property
    def ipv6(self) -> bool:
        """Whether it has an address of IPv6."""
        return any(":" in address for address in self.addresses)


async def configure(name: str, inner: AsyncIPRoute, place: Place) -> None:
    """Have links, addresses and routes be as they should.

    Raises:
        NetworkError: the kernel refused.
    """
    with netlink_errors(f"configure the addresses {', '.join(place.addresses)} of a load balancer"):
        await inner.link("set", index=await link.present(inner, "lo"), state="up")
        number = await link.present(inner, LINK)
        if place.ipv6:
            # Both hosts have the MAC, so neither has its link-local address: who waits sends nothing by it.
            namespace.choose_link_local(name, LINK, wanted=place.pair is None)
        await inner.link("set", index=number, state="up", mtu=place.mtu)
        if place.pair is None:
            await _address(inner, number, place.addresses)
            await _lead(inner, number, place.next_hops)
        else:
            await _share(inner, number, place)
            await _meet(inner, place.pair)
        if place.own is not None:
            number = await link.present(inner, OWN_LINK)
            await inner.link("set", index=number, state="up", mtu=place.mtu)
            await _address(inner, number, place.own.addresses)
            await _lead(inner, number, place.next_hops)


async def _address(inner: AsyncIPRoute, number: int, addresses: Iterable[str]) -> None:
    """Give a link its addresses, and no others."""
    await _take_back(inner, number, {item.partition("/")[0] for item in addresses})
    for text in addresses:
        address, length = text.split("/")
        flags: dict[str, Any] = {"flags": _NO_DUPLICATE_DETECTION} if ":" in address else {}
        await inner.addr("replace", index=number, address=address, prefixlen=int(length), **flags)


async def _take_back(inner: AsyncIPRoute, number: int, kept: Collection[str], *, single: bool = False) -> None:
    """Take a link's addresses away, but for the kernel's own; where another decides of `single` ones, not those."""
    for family, whole in ((AF_INET, 32), (AF_INET6, 128)):
        for message in [item async for item in await inner.get_addr(family=family, index=number)]:
            address = str(message.get_attr("IFA_ADDRESS"))
            length = int(message["prefixlen"])
            if address in kept or (single and length == whole) or (not single and ip_interface(address).is_link_local):
                continue
            await inner.addr("del", index=number, address=address, prefixlen=length, family=family)


async def _lead(inner: AsyncIPRoute, number: int, hops: Iterable[str]) -> None:
    for hop in hops:
        everywhere, family = _everywhere(hop)
        await inner.route("replace", dst=everywhere, gateway=hop, oif=number, family=family)


async def _share(inner: AsyncIPRoute, number: int, place: Place) -> None:
    """Leave the addresses to who decides of them, and have the routes that are used where they are."""
    await _take_back(inner, number, (), single=True)
    for subnet in {ip_interface(item).network for item in place.addresses}:
        family = int(AF_INET6 if subnet.version == 6 else AF_INET)
        scope = {} if subnet.version == 6 else {"scope": "link"}
        await inner.route("replace", dst=str(subnet), oif=number, table=TABLE, family=family, **scope)
    for hop in place.next_hops:
        everywhere, family = _everywhere(hop)
        way = {"gateway": hop, "oif": number, "flags": _ONLINK}
        await inner.route("replace", dst=everywhere, table=TABLE, family=family, **way)


async def _meet(inner: AsyncIPRoute, pair: Pair) -> None:
    """Note where the other host is."""
    number = await link.present(inner, pair.link)
    for neighbour in pair.neighbours():
        if ":" in neighbour.address:
            noted = {"lladdr": neighbour.mac, "state": _NUD_PERMANENT}
            await inner.neigh("replace", family=AF_INET6, ifindex=number, dst=neighbour.address, **noted)


def _everywhere(hop: str) -> tuple[str, int]:
    return ("::/0", int(AF_INET6)) if ":" in hop else ("0.0.0.0/0", int(AF_INET))
