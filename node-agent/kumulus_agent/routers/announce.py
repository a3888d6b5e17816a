"""Gratuitous ARP: tells a network that an address has a MAC, and where that is now."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address
from struct import pack

from kumulus_agent.network.namespace import within

_ARP = 0x0806
_IPV4 = 0x0800
_REQUEST, _REPLY = 1, 2
_BROADCAST = b"\xff" * 6


def frames(mac: str, address: str) -> tuple[bytes, bytes]:
    """Give the two forms (RFC 5227, RFC 5944): some take heed of the one only, some of the other."""
    own, number = bytes.fromhex(mac.replace(":", "")), IPv4Address(address).packed
    header = _BROADCAST + own + pack("!H", _ARP)
    request = pack("!HHBBH", 1, _IPV4, 6, 4, _REQUEST) + own + number + bytes(6) + number
    reply = pack("!HHBBH", 1, _IPV4, 6, 4, _REPLY) + own + number + own + number
    return header + request, header + reply


def announce(namespace: str, link: str, mac: str, address: str) -> None:
    """Send them from a link of the namespace.

    Raises:
        OSError: the link is gone or down.
    """

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as packets:
            packets.bind((link, 0))
            for frame in frames(mac, address):
                packets.send(frame)

    within(namespace, send)
