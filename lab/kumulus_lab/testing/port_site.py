"""Four ports of one network on two hosts, and their guests."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv4Address
from typing import Any

from kumulus_agent.network.groups import GroupKey, SecurityGroup
from kumulus_agent.network.namespace import within
from kumulus_agent.network.state import NetworkDesired, PortDesired
from kumulus_lab.testing.frames import Wire, ipv4, udp

VNI = 0x3D
A, B, C, D = (IPv4Address(f"10.0.0.{number}") for number in (11, 12, 13, 14))


@dataclass
class PortSite:
    """A and C on the first host, B and D on the second.

    Attributes:
        hosts: the two, as the tests' own fixture makes them.
        guests: by address, as their hosts give them.
        ports: by address.
        groups: of security, by key.
        stack: closes what was opened.
    """

    hosts: tuple[Any, ...]
    guests: dict[IPv4Address, Any]
    ports: dict[IPv4Address, PortDesired]
    groups: dict[GroupKey, SecurityGroup]
    stack: AsyncExitStack

    async def change(self, address: IPv4Address | None = None, **changes: Any) -> list[Any]:
        """Give a port other settings; return the steps that this took on its host."""
        if address is not None:
            self.ports[address] = replace(self.ports[address], **changes)
        done: list[Any] = []
        for host, own in zip(self.hosts, ((A, C), (B, D)), strict=True):
            done += await host.datapath.ensure_network(
                NetworkDesired(
                    VNI,
                    1450,
                    host.address,
                    peers=frozenset(other.address for other in self.hosts),
                    ports=tuple(self.ports[item] for item in own if item in self.ports),
                    groups=self.groups,
                )
            )
        return done

    def wire(self, address: IPv4Address) -> Wire:
        """Open the guest's end of its cable."""
        opened = Wire.open(partial(within, self.guests[address].namespace))
        self.stack.callback(opened.close)
        return opened

    def socket(self, address: IPv4Address, kind: socket.SocketKind) -> socket.socket:
        """Open a socket in a guest."""
        made = within(self.guests[address].namespace, lambda: socket.socket(socket.AF_INET, kind))
        made.setblocking(False)
        self.stack.callback(made.close)
        return made

    def mac(self, address: IPv4Address) -> str:
        """Give a port's MAC."""
        return self.ports[address].mac


def make_port(address: IPv4Address) -> PortDesired:
    """A port whose MAC and interface end with the address's last byte."""
    number = address.packed[-1]
    return PortDesired(f"kt3d{number:02x}0000000", f"02:00:00:00:00:{number:02x}", (address,), f"i{number}")


@asynccontextmanager
async def ports_of(hosts: tuple[Any, ...]) -> AsyncIterator[PortSite]:
    """Four guests of one network on two hosts."""
    async with AsyncExitStack() as stack:
        made = PortSite(hosts, {}, {address: make_port(address) for address in (A, B, C, D)}, {}, stack)
        await made.change()
        for host, own in zip(hosts, ((A, C), (B, D)), strict=True):
            for address in own:
                made.guests[address] = guest = await host.boot(made.ports[address], VNI)
                await guest.configure()
        yield made


def datagram(source: IPv4Address, destination: IPv4Address, data: bytes) -> bytes:
    """A UDP packet from port 4000 to port 4000."""
    return ipv4(source, destination, udp(4000, 4000, data))
