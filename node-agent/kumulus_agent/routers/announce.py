"""Gratuitous ARP and its like in IPv6: tell a network that an address has a MAC, and where that is now."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from struct import pack

from kumulus_agent.network.errors import NetworkError
from kumulus_agent.network.namespace import within

_ARP = 0x0806
_IPV4 = 0x0800
_REQUEST, _REPLY = 1, 2
_BROADCAST = b"\xff" * 6
_IPV6 = 0x86DD
_ICMPV6, _ADVERTISEMENT, _TARGET_MAC = 58, 136, 2
_ROUTER_OVERRIDES = 0xA0000000
_HOPS = 255
# MAX_NEIGHBOR_ADVERTISEMENT and RETRANS_TIMER (RFC 4861, 10), and as often by ARP.
_TIMES, _SECONDS_BETWEEN = 3, 1.0
_ALL_NODES, _ALL_NODES_MAC = IPv6Address("ff02::1"), bytes.fromhex("333300000001")


def frames(mac: str, address: str) -> tuple[bytes, ...]:
    """Give the frames that tell all of an address: an IPv6 neighbour advertisement, or both forms of ARP."""
    found = ip_address(address)
    return (advertisement(mac, found),) if isinstance(found, IPv6Address) else gratuitous(mac, address)


def advertisement(mac: str, address: IPv6Address) -> bytes:
    """Give the neighbour advertisement that nobody has asked for (RFC 4861, 7.2.6), from the address itself."""
    own = bytes.fromhex(mac.replace(":", ""))
    option = pack("!BB", _TARGET_MAC, 1) + own
    body = pack("!I", _ROUTER_OVERRIDES) + address.packed + option
    size = 4 + len(body)
    covered = address.packed + _ALL_NODES.packed + pack("!II", size, _ICMPV6)
    checked = checksum(covered + pack("!BBH", _ADVERTISEMENT, 0, 0) + body)
    header = pack("!IHBB", 6 << 28, size, _ICMPV6, _HOPS) + address.packed + _ALL_NODES.packed
    return _ALL_NODES_MAC + own + pack("!H", _IPV6) + header + pack("!BBH", _ADVERTISEMENT, 0, checked) + body


def checksum(data: bytes) -> int:
    """Give the Internet checksum (RFC 1071)."""
    total = sum(int.from_bytes(data[place : place + 2]) for place in range(0, len(data), 2))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def gratuitous(mac: str, address: str) -> tuple[bytes, bytes]:
    """Give the two forms (RFC 5227, RFC 5944): some take heed of the one only, some of the other."""
    own, number = bytes.fromhex(mac.replace(":", "")), IPv4Address(address).packed
    header = _BROADCAST + own + pack("!H", _ARP)
    request = pack("!HHBBH", 1, _IPV4, 6, 4, _REQUEST) + own + number + bytes(6) + number
    reply = pack("!HHBBH", 1, _IPV4, 6, 4, _REPLY) + own + number + own + number
    return header + request, header + reply


async def announce(namespace: str, link: str, mac: str, addresses: Iterable[str]) -> None:
    """Tell the network of a link of the namespace whose addresses are there now: at once, and twice more.

    What the host that had an address before said last may arrive after the first. Those that have left the namespace
    by then are not told of again.

    Raises:
        NetworkError: the link is gone or down.
    """
    told = tuple(addresses)
    if not told:
        return
    try:
        await asyncio.to_thread(_send, namespace, link, mac, told)
    except OSError as error:
        raise NetworkError(f"asked to announce {', '.join(told)} by {link} of {namespace}: {error}") from error
    _repeat(partial(_send, namespace, link, mac, told, held=True), _TIMES - 1)


def _repeat(send: partial[None], times: int) -> None:
    loop = asyncio.get_running_loop()

    def sent(done: asyncio.Future[None]) -> None:
        # Without its link or namespace an address is no longer here, and nothing is left to tell.
        if not done.cancelled() and done.exception() is None and times > 1:
            _repeat(send, times - 1)

    def again() -> None:
        with suppress(RuntimeError):  # the agent ends, and its threads have ended
            loop.run_in_executor(None, send).add_done_callback(sent)

    loop.call_later(_SECONDS_BETWEEN, again)


def _send(namespace: str, link: str, mac: str, addresses: Iterable[str], *, held: bool = False) -> None:
    """Send what tells of addresses; of those alone that the namespace has, if `held`."""

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as packets:
            packets.bind((link, 0))
            for address in filter(_held, addresses) if held else addresses:
                for frame in frames(mac, address):
                    packets.send(frame)

    within(namespace, send)


def _held(address: str) -> bool:
    """Tell whether the namespace that the thread is in has the address: no other can be bound to."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as bound:
        try:
            bound.bind((address, 0))
        except OSError:
            return False
    return True
