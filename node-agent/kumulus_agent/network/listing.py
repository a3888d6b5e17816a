"""What the kernel lists of a namespace: its interfaces, and the forwarding entries of its bridges and VXLAN devices.

pyroute2 decodes every attribute of every interface, most of a millisecond for each; of a host with a thousand ports we
look at a few attributes, many times. The layout is that of rtnetlink(7), <linux/if_link.h> and <linux/neighbour.h>.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from socket import inet_ntop
from typing import Final

from kumulus_agent.network.namespace import within

Attributes = dict[int, memoryview]

_HEADER: Final = struct.Struct("=IHHII")
_LINK: Final = struct.Struct("=BxHiII")
_NEIGHBOUR: Final = struct.Struct("=BxHiHBB")
_ATTRIBUTE: Final = struct.Struct("=HH")
_RTM_GETLINK, _RTM_GETNEIGH, _DONE, _ERROR = 18, 30, 3, 2
_REQUEST_DUMP: Final = 0x301
_INTERRUPTED: Final = 0x10
"""NLM_F_DUMP_INTR: something changed while the kernel was listing, and may be missing."""
_TYPE: Final = 0x3FFF
_EXT_MASK: Final = struct.pack("=HHI", 8, 29, 8)
"""IFLA_EXT_MASK of RTEXT_FILTER_SKIP_STATS: nobody asks for counters here."""
_BUFFER: Final = 1 << 18
_UP: Final = 1

_IFLA_IFNAME, _IFLA_MTU, _IFLA_QDISC, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_IFALIAS = 3, 4, 6, 10, 18, 20
_INFO_KIND, _INFO_DATA = 1, 2
_VXLAN_ID, _VXLAN_LOCAL = 1, 4
_NDA_DST, _NDA_LLADDR = 1, 2


@dataclass(frozen=True, slots=True)
class ListedLink:
    """An interface; `vni` and `local` of a VXLAN device, `master` the index of the bridge that it is a port of."""

    index: int
    name: str
    up: bool
    mtu: int
    kind: str
    master: int
    alias: str
    discipline: str
    vni: int | None
    local: str | None


@dataclass(frozen=True, slots=True)
class ListedEntry:
    """A forwarding entry: behind the interface of that index is the MAC, and if it is one of VXLAN, at `peer`."""

    index: int
    mac: str
    peer: str | None
    flags: int


def listed(namespace: str) -> tuple[list[ListedLink], list[ListedEntry]]:
    """List a namespace's interfaces and forwarding entries; blocks while the kernel writes them.

    Raises:
        OSError: there is no such namespace, or the kernel refused.
    """
    kind = (socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    with within(namespace, lambda: socket.socket(*kind)) as route:
        route.bind((0, 0))
        links = _dump(route, _RTM_GETLINK, _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + _EXT_MASK)
        entries = _dump(route, _RTM_GETNEIGH, _NEIGHBOUR.pack(socket.AF_BRIDGE, 0, 0, 0, 0, 0))
        return [_link(body) for body in links], [_entry(body) for body in entries]


def _dump(route: socket.socket, kind: int, request: bytes) -> list[memoryview]:
    """Give the bodies of a complete list."""
    while True:
        route.send(_HEADER.pack(_HEADER.size + len(request), kind, _REQUEST_DUMP, 1, 0) + request)
        found, whole = _answers(route)
        if whole:
            return found


def _answers(route: socket.socket) -> tuple[list[memoryview], bool]:
    found: list[memoryview] = []
    whole = True
    while True:
        for kind, flags, body in messages(route.recv(_BUFFER)):
            whole = whole and not flags & _INTERRUPTED
            if kind == _DONE:
                return found, whole
            if kind == _ERROR:
                code = -struct.unpack_from("=i", body)[0]
                raise OSError(code, f"the kernel did not list: {errno.errorcode.get(code, code)}: {os.strerror(code)}")
            found.append(body)


def messages(received: bytes) -> Iterator[tuple[int, int, memoryview]]:
    """Give kind, flags and body of each message of a datagram of netlink(7)."""
    data = memoryview(received)
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, flags, _, _ = _HEADER.unpack_from(data, at)
        yield kind, flags, data[at + _HEADER.size : at + length]
        at += max(_HEADER.size, -(-length // 4) * 4)


def name_of_link(body: memoryview) -> str:
    """Give the interface's name that a message about a link tells; empty if it tells none."""
    name = dict(_attributes(body, _LINK.size)).get(_IFLA_IFNAME, b"")
    return bytes(name).rstrip(b"\0").decode(errors="replace")


def _attributes(data: memoryview, at: int = 0) -> Iterator[tuple[int, memoryview]]:
    end = len(data)
    while at + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < 4:
            return
        yield kind & _TYPE, data[at + 4 : at + length]
        at += -(-length // 4) * 4


def _link(body: memoryview) -> ListedLink:
    _, _, index, flags, _ = _LINK.unpack_from(body)
    found = dict(_attributes(body, _LINK.size))
    info = dict(_attributes(found[_IFLA_LINKINFO])) if _IFLA_LINKINFO in found else {}
    kind = _text(info, _INFO_KIND)
    data = dict(_attributes(info[_INFO_DATA])) if kind == "vxlan" and _INFO_DATA in info else {}
    return ListedLink(
        index,
        _text(found, _IFLA_IFNAME),
        bool(flags & _UP),
        _number(found, _IFLA_MTU) or 0,
        kind,
        _number(found, _IFLA_MASTER) or 0,
        _text(found, _IFLA_IFALIAS),
        _text(found, _IFLA_QDISC),
        _number(data, _VXLAN_ID),
        inet_ntop(socket.AF_INET, data[_VXLAN_LOCAL]) if _VXLAN_LOCAL in data else None,
    )


def _entry(body: memoryview) -> ListedEntry:
    _, _, index, _, flags, _ = _NEIGHBOUR.unpack_from(body)
    found = dict(_attributes(body, _NEIGHBOUR.size))
    peer = found.get(_NDA_DST)
    family = socket.AF_INET if peer is not None and len(peer) == 4 else socket.AF_INET6
    mac = bytes(found.get(_NDA_LLADDR, b"")).hex(":")
    return ListedEntry(index, mac, inet_ntop(family, peer) if peer is not None else None, flags)


def _text(found: Attributes, kind: int) -> str:
    return bytes(found[kind]).rstrip(b"\0").decode() if kind in found else ""


def _number(found: Attributes, kind: int) -> int | None:
    return int(struct.unpack_from("=I", found[kind])[0]) if kind in found else None
