"""Ethernet frames as bytes, also such as no honest kernel sends, and a socket that sends and hears them."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

BROADCAST = "ff:ff:ff:ff:ff:ff"
ARP, IPV4, VLAN, IPV6 = 0x0806, 0x0800, 0x8100, 0x86DD
_EVERYTHING = 0x0003
_UDP = 17
_ICMPV6 = 58
_FRAGMENT = 44
_MORE_FRAGMENTS = 0x2000


def mac_bytes(mac: str) -> bytes:
    """Give the six bytes of a MAC."""
    return bytes.fromhex(mac.replace(":", ""))


def ethernet(destination: str, source: str, ether_type: int, payload: bytes) -> bytes:
    """Give a frame; `ether_type` below 1536 is a length (IEEE 802.3)."""
    return mac_bytes(destination) + mac_bytes(source) + struct.pack("!H", ether_type) + payload


def arp(source_mac: str, source: IPv4Address, target: IPv4Address, *, operation: int = 1) -> bytes:
    """Give the content of an ARP request (1) or reply (2) (RFC 826)."""
    head = struct.pack("!HHBBH", 1, IPV4, 6, 4, operation)
    return head + mac_bytes(source_mac) + source.packed + bytes(6) + target.packed


def udp(source: int, destination: int, data: bytes) -> bytes:
    """Give a UDP datagram without checksum, which IPv4 allows (RFC 768)."""
    return struct.pack("!HHHH", source, destination, 8 + len(data), 0) + data


def ipv4(source: IPv4Address, destination: IPv4Address, payload: bytes, fragment: tuple[int, int] = (1, 0)) -> bytes:
    """Give a packet that carries UDP.

    Args:
        source: sender.
        destination: receiver.
        payload: what follows the header.
        fragment: identification, and the flags and offset field.
    """
    addresses = source.packed + destination.packed
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), *fragment, 64, _UDP, 0) + addresses
    return head[:10] + struct.pack("!H", _checksum(head)) + head[12:] + payload


def fragments(packet: tuple[IPv4Address, IPv4Address], payload: bytes, identification: int) -> tuple[bytes, bytes]:
    """Give a packet from one address to another in two halves; the first half's length is a multiple of 8."""
    source, destination = packet
    half = len(payload) // 16 * 8
    return (
        ipv4(source, destination, payload[:half], (identification, _MORE_FRAGMENTS)),
        ipv4(source, destination, payload[half:], (identification, half // 8)),
    )


def vlan(ether_type: int, payload: bytes, *, number: int = 7) -> bytes:
    """Give what follows the type 0x8100: tag and inner type (IEEE 802.1Q)."""
    return struct.pack("!HH", number, ether_type) + payload


def ipv6(source: IPv6Address, destination: IPv6Address, payload: bytes, header: int = _UDP) -> bytes:
    """Give a packet whose payload begins with the header of that number (RFC 8200)."""
    return struct.pack("!IHBB", 6 << 28, len(payload), header, 255) + source.packed + destination.packed + payload


def icmpv6(ends: tuple[IPv6Address, IPv6Address], kind: int, body: bytes, first: bytes = b"") -> bytes:
    """Give a packet of ICMPv6 (RFC 4443).

    Args:
        ends: sender and receiver.
        kind: the message's type.
        body: what follows its checksum.
        first: an extension header before it, of destination options.
    """
    source, destination = ends
    message = icmpv6_message(ends, kind, body)
    return ipv6(source, destination, first + message, 60 if first else _ICMPV6)


def icmpv6_message(ends: tuple[IPv6Address, IPv6Address], kind: int, body: bytes) -> bytes:
    """Give a message of ICMPv6 from one address to another."""
    length = 4 + len(body)
    pseudo = ends[0].packed + ends[1].packed + struct.pack("!II", length, _ICMPV6)
    head = struct.pack("!BB", kind, 0)
    padded = pseudo + head + bytes(2) + body + bytes(len(body) % 2)
    return head + struct.pack("!H", _checksum(padded)) + body


def udp6(ends: tuple[IPv6Address, IPv6Address], ports: tuple[int, int], data: bytes) -> bytes:
    """Give a packet of UDP between two addresses and ports."""
    length = 8 + len(data)
    pseudo = ends[0].packed + ends[1].packed + struct.pack("!II", length, _UDP)
    head = struct.pack("!HHH", *ports, length)
    padded = pseudo + head + bytes(2) + data + bytes(len(data) % 2)
    return ipv6(*ends, head + struct.pack("!H", _checksum(padded)) + data)


def fragments6(ends: tuple[IPv6Address, IPv6Address], payload: bytes, header: int, first: int) -> tuple[bytes, bytes]:
    """Give a packet in two fragments, of which the first has so many bytes (a multiple of 8) of the payload."""
    parts = ((payload[:first], 0, 1), (payload[first:], first, 0))
    heads = (struct.pack("!BBHI", header, 0, offset | more, 4711) for _, offset, more in parts)
    one, two = (ipv6(*ends, head + part, _FRAGMENT) for head, (part, *_) in zip(heads, parts, strict=True))
    return one, two


def _checksum(header: bytes) -> int:
    words: tuple[int, ...] = struct.unpack(f"!{len(header) // 2}H", header)
    total = sum(words)
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


@dataclass
class Wire:
    """The end of a cable: it sends frames, and keeps those that it has heard."""

    end: socket.socket
    heard: list[bytes] = field(default_factory=list)

    @classmethod
    def open(cls, within: Callable[[Callable[[], socket.socket]], socket.socket], interface: str = "eth0") -> Wire:
        """Open an interface; `within` calls a function in its network namespace."""
        opened = within(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_EVERYTHING)))
        opened.bind((interface, 0))
        opened.setblocking(False)
        return cls(opened)

    async def send(self, *frames: bytes) -> None:
        """Send frames in order."""
        for frame in frames:
            await asyncio.get_running_loop().sock_sendall(self.end, frame)

    async def until(self, marker: bytes, seconds: float = 5.0) -> list[bytes]:
        """Hear until a frame contains the marker; give all that has been heard.

        Raises:
            TimeoutError: none came.
        """
        async with asyncio.timeout(seconds):
            while not any(marker in frame for frame in self.heard):
                self.heard.append(await asyncio.get_running_loop().sock_recv(self.end, 65536))
        return self.heard

    def has(self, marker: bytes) -> bool:
        """Take what lies in the socket's buffer, and tell whether anything heard contains the marker."""
        while True:
            try:
                self.heard.append(self.end.recv(65536))
            except BlockingIOError:
                return any(marker in frame for frame in self.heard)

    def close(self) -> None:
        """Close the socket."""
        self.end.close()
