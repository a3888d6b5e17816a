"""The namespace of a network's DHCP and DNS server, and the veth that joins it to the bridge."""

from __future__ import annotations

import array
import fcntl
import socket
import struct
from dataclasses import dataclass
from socket import AF_INET, AF_INET6

from kumulus_agent.network import link, metadata_link, namespace
from kumulus_agent.network.errors import netlink_errors
from kumulus_agent.network.netlink import AsyncIPRoute

INNER = "eth0"
SIOCETHTOOL = 0x8946
ETHTOOL_STXCSUM = 0x17


@dataclass(frozen=True)
class ServiceLink:
    """The link: bridge's end, the server's namespace, MAC, addresses with prefix, gateways, MTU, and a note."""

    name: str
    namespace: str
    mac: str
    addresses: tuple[str, ...]
    gateways: tuple[str, ...]
    mtu: int
    note: str


async def ensure(datapath: AsyncIPRoute, wanted: ServiceLink) -> None:
    """Make namespace and link anew; the note is written last, so that a half-made link is seen."""
    await namespace.ensure(wanted.namespace)
    if any(":" in address for address in wanted.addresses):
        namespace.enable_ipv6(wanted.namespace)
    else:
        namespace.disable_ipv6(wanted.namespace)
    namespace.configure_services(wanted.namespace)
    await link.absent(datapath, wanted.name)
    peer = {"ifname": INNER, "address": wanted.mac, "mtu": wanted.mtu, "net_ns_fd": wanted.namespace}
    with netlink_errors(f"make the veth {wanted.name} to namespace {wanted.namespace}"):
        await datapath.link("add", ifname=wanted.name, kind="veth", mtu=wanted.mtu, peer=peer)
        async with AsyncIPRoute(fileno=namespace.netlink_socket(wanted.namespace), groups=0) as inner:
            await _configure(inner, wanted)
            await metadata_link.ensure(inner, wanted.namespace, INNER)
        _compute_checksums(wanted.namespace)
        await datapath.link("set", index=await link.present(datapath, wanted.name), IFLA_IFALIAS=wanted.note)


async def _configure(inner: AsyncIPRoute, wanted: ServiceLink) -> None:
    number = await link.present(inner, INNER)
    await inner.link("set", index=await link.present(inner, "lo"), state="up")
    for text in wanted.addresses:
        address, prefix = text.split("/")
        await inner.addr("add", index=number, address=address, prefixlen=int(prefix))
    await inner.link("set", index=number, state="up")
    for gateway in wanted.gateways:
        default, family = ("::/0", AF_INET6) if ":" in gateway else ("0.0.0.0/0", AF_INET)
        await inner.route("replace", dst=default, gateway=gateway, family=family)


def _compute_checksums(name: str) -> None:
    """Let the kernel fill in UDP checksums: DHCP clients read raw packets and drop those without."""
    with namespace.within(name, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as handle:
        value = array.array("B", struct.pack("II", ETHTOOL_STXCSUM, 0))
        request = struct.pack("16sP", INNER.encode(), value.buffer_info()[0])
        fcntl.ioctl(handle, SIOCETHTOOL, request)
