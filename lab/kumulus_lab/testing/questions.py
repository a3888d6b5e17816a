"""Questions to a network's own DNS server, which answers its guests and nobody else."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

from kumulus_agent.network.namespace import within
from kumulus_api.quantities import service_address
from kumulus_lab.testing.namespaces import Machine
from kumulus_lab.testing.routed import RoutedCloud

_QUESTION = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03own\x00\x00\x01\x00\x01"
"""For the IPv4 address of `own`."""


async def asked(guest: Machine, server: IPv4Address | IPv6Address) -> bool:
    """Tell whether a DNS server answers a guest."""
    with within(guest.namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as packets:
        packets.setblocking(False)
        packets.sendto(_QUESTION, (str(server), 53))
        try:
            async with asyncio.timeout(1.0):
                return bool(await asyncio.get_running_loop().sock_recv(packets, 512))
        except TimeoutError:
            return False


async def answered(cloud: RoutedCloud, beside: str, join: Callable[[str, str], object]) -> tuple[bool, bool]:
    """Tell who is answered by a network's DNS server: a guest of the network, and one that reaches it by a router.

    Args:
        cloud: the hosts.
        beside: another network.
        join: puts a router between two networks.

    Raises:
        RuntimeError: the two guests do not reach each other.
    """
    cloud.network("served", 0x104, "10.0.4.0/24", dhcp=True)
    own = await cloud.boot("own", "a", "served", "10.0.4.11")
    other = await cloud.boot("other", "a", beside, "10.0.1.11")
    join("served", beside)
    await cloud.settled()
    if not await other.reaches(own.address):
        raise RuntimeError(f"{other.address} does not reach {own.address}, so nothing is learned of their server")
    server = service_address("10.0.4.0/24", "10.0.4.1")
    return await asked(own, server), await asked(other, server)
