"""Who has an address that several ports may use: the guests themselves are asked, as no table of a host knows it.

One question of ARP (RFC 826) or neighbour discovery (RFC 4861), as any neighbour puts it, is sent to a port's guest
alone, from the MAC of the network's own servers. It tells no address of a sender in IPv4 (RFC 5227), so nobody learns
anything by it.
"""

from __future__ import annotations

import socket
import time
from ipaddress import IPv4Address, IPv6Address
from struct import pack

from kumulus_agent.network.namespace import within
from kumulus_agent.routers.announce import checksum
from kumulus_api.addresses import link_local

SECONDS = 0.5
"""A guest on this host that has not answered then has not the address."""
_EVERY = 3
"""ETH_P_ALL: frames of a bridge's port are seen before the bridge takes them."""
_ARP, _IPV6 = b"\x08\x06", b"\x86\xdd"
_ARP_TO_IPV4 = pack("!HHBB", 1, 0x0800, 6, 4)
_REQUEST, _REPLY = b"\x00\x01", b"\x00\x02"
_ICMPV6, _SOLICIT, _ADVERTISE, _SOURCE_MAC, _HOPS = 58, 135, 136, 1, 255
_NODES = int(IPv6Address("ff02::1:ff00:0"))
_FROM, _IPV6_HEADER = 14, 40


def question(mac: str, address: IPv4Address | IPv6Address) -> bytes:
    """Give the frame that asks who has an address."""
    own = bytes.fromhex(mac.replace(":", ""))
    if isinstance(address, IPv4Address):
        return b"\xff" * 6 + own + _ARP + _ARP_TO_IPV4 + _REQUEST + own + bytes(10) + address.packed
    source, group = link_local(mac), IPv6Address(_NODES | int(address) & 0xFFFFFF)
    body = bytes(4) + address.packed + bytes((_SOURCE_MAC, 1)) + own
    size = 4 + len(body)
    covered = source.packed + group.packed + pack("!II", size, _ICMPV6)
    checked = checksum(covered + pack("!BBH", _SOLICIT, 0, 0) + body)
    header = pack("!IHBB", 6 << 28, size, _ICMPV6, _HOPS) + source.packed + group.packed
    return b"\x33\x33" + group.packed[-4:] + own + _IPV6 + header + pack("!BBH", _SOLICIT, 0, checked) + body


def answering(frame: bytes, address: IPv4Address | IPv6Address) -> str:
    """Give the MAC of who says in a frame that the address is his; "" if the frame says nothing of it."""
    kind, rest = frame[12:_FROM], frame[_FROM:]
    if kind == _ARP and isinstance(address, IPv4Address):
        said = rest[:6] == _ARP_TO_IPV4 and rest[6:8] == _REPLY and rest[14:18] == address.packed
    elif kind == _IPV6 and isinstance(address, IPv6Address):
        body = rest[_IPV6_HEADER:]
        said = rest[6:7] == bytes((_ICMPV6,)) and body[:1] == bytes((_ADVERTISE,)) and body[8:24] == address.packed
    else:
        said = False
    return frame[6:12].hex(":") if said else ""


def ask(namespace: str, link: str, mac: str, address: IPv4Address | IPv6Address) -> str:
    """Ask who is behind a bridge's port; give the MAC that has the address, or "".

    Raises:
        OSError: the link is gone or down.
    """

    def asked() -> str:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_EVERY)) as packets:
            packets.bind((link, _EVERY))
            packets.send(question(mac, address))
            end = time.monotonic() + SECONDS
            while (left := end - time.monotonic()) > 0:
                packets.settimeout(left)
                try:
                    found = answering(packets.recv(2048), address)
                except TimeoutError:
                    break
                if found:
                    return found
        return ""

    return within(namespace, asked)
