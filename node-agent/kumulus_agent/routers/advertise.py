"""Router advertisements (RFC 4861): guests learn their IPv6 default route from the router of their own host.

They say of the router that it is one, and nothing of prefixes and addresses, which the network's DHCP server tells.
They hold for hours, so that guests keep their route while no agent runs.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from struct import pack, unpack

from kumulus_agent.network.namespace import within

_SOLICIT, _ADVERTISE = 133, 134
_ICMP6_FILTER = 1
_ALL_NODES, _ALL_ROUTERS = "ff02::1", "ff02::2"
_LIFETIME = 9000
"""Seconds, the longest that there is."""
_INTERVAL = 600.0
_PAUSE = 0.05
"""Seconds between two answers of a router: what guests ask costs no more than that."""
_HOPS = 255


@dataclass(frozen=True)
class Advertised:
    """A link on which the router is announced: its MAC, and the network's MTU in bytes."""

    mac: str
    mtu: int


def advertisement(link: Advertised, lifetime: int = _LIFETIME) -> bytes:
    """Give the message; its checksum is the kernel's to fill in."""
    mac = bytes.fromhex(link.mac.replace(":", ""))
    header = pack("!BBHBBHII", _ADVERTISE, 0, 0, 64, 0, lifetime, 0, 0)
    return header + pack("!BB6s", 1, 1, mac) + pack("!BBHI", 5, 1, 0, link.mtu)


@dataclass
class _Router:
    packets: socket.socket
    links: dict[int, Advertised] = field(default_factory=dict)
    names: Mapping[str, Advertised] = field(default_factory=dict)


class Advertisers:
    """Announces the routers of this host, by namespace; an open socket keeps a namespace, so `end` comes first."""

    def __init__(self) -> None:
        self._routers: dict[str, _Router] = {}

    def ensure(self, namespace: str, links: Mapping[str, Advertised]) -> None:
        """Announce a router on these links, and on no others, now and when guests ask.

        Raises:
            OSError: the namespace or a link is gone.
        """
        if not links:
            self.end(namespace)
            return
        router = self._routers.get(namespace)
        if router is None:
            router = _Router(within(namespace, _open))
            self._routers[namespace] = router
            self._listen(router)
        found = within(namespace, lambda: {socket.if_nametoindex(name): link for name, link in links.items()})
        for number in found.keys() - router.links.keys():
            # A group that was joined goes with its interface.
            router.packets.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, _group(number))
        router.links, router.names = found, dict(links)
        for number in found:
            _send(router, number)

    def known(self, namespace: str) -> Mapping[str, Advertised]:
        """Give the links on which the router is announced."""
        router = self._routers.get(namespace)
        return router.names if router is not None else {}

    def end(self, namespace: str) -> None:
        """Announce a router no longer."""
        router = self._routers.pop(namespace, None)
        if router is not None:
            for number in router.links:
                _send(router, number, lifetime=0)
            asyncio.get_running_loop().remove_reader(router.packets)
            router.packets.close()

    def close(self) -> None:
        """Say nothing more; guests keep the routes that they have."""
        for router in self._routers.values():
            asyncio.get_running_loop().remove_reader(router.packets)
            router.packets.close()
        self._routers.clear()

    async def keep_announcing(self) -> None:
        """Announce all routers now and then; never returns."""
        while True:
            await asyncio.sleep(_INTERVAL)
            for router in self._routers.values():
                for number in router.links:
                    _send(router, number)

    def _listen(self, router: _Router) -> None:
        if router in self._routers.values() and router.packets.fileno() >= 0:
            asyncio.get_running_loop().add_reader(router.packets, self._asked, router)

    def _asked(self, router: _Router) -> None:
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            number = _heard_on(router.packets)
            if number in router.links:
                _send(router, number)
        loop.remove_reader(router.packets)
        loop.call_later(_PAUSE, self._listen, router)


def _open() -> socket.socket:
    packets = socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMPV6)
    # A bit that is set keeps a type out.
    wanted = bytearray(b"\xff" * 32)
    word, bit = divmod(_SOLICIT, 32)
    wanted[4 * word : 4 * word + 4] = pack("=I", 0xFFFFFFFF & ~(1 << bit))
    packets.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, bytes(wanted))
    packets.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, _HOPS)
    packets.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
    packets.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    return packets


def _group(number: int) -> bytes:
    return socket.inet_pton(socket.AF_INET6, _ALL_ROUTERS) + pack("@I", number)


def _heard_on(packets: socket.socket) -> int:
    """Read one message; give the number of the interface that it came by."""
    _, ancillary, _, _ = packets.recvmsg(256, socket.CMSG_SPACE(20))
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            return int(unpack("@16sI", data[:20])[1])
    return 0


def _send(router: _Router, number: int, lifetime: int = _LIFETIME) -> None:
    # A link that is on its way up or gone has nobody to be told.
    with suppress(OSError):
        router.packets.sendto(advertisement(router.links[number], lifetime), (_ALL_NODES, 0, 0, number))
