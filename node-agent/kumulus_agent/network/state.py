"""What a network should be on this host, and what is there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from kumulus_agent.network import names
from kumulus_agent.network.rules import FirewallState
from kumulus_agent.network.taken import Taken

MAC = re.compile(r"[0-9a-f][02468ace](:[0-9a-f]{2}){5}")
"""A unicast MAC address in lower case, as the kernel prints it."""
INTERFACE = re.compile(r"[a-z][a-z0-9]{1,14}")
HOSTNAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
Neighbour = tuple[str, str]
"""A MAC of the network and the tunnel address of the host that it is on."""


def _check(pattern: re.Pattern[str], value: str, what: str) -> None:
    if not pattern.fullmatch(value):
        raise ValueError(f"{value!r} is not {what}")


@dataclass(frozen=True)
class SubnetDesired:
    """What the network's DHCP server tells its guests.

    Attributes:
        cidr: the subnet.
        service_address: the DHCP and DNS server's own address in it, reserved, the same on every host.
        gateway: the guests' default route, if any.
        dns_servers: where names that the network does not know are asked for.
        routes: further routes: destination and next hop.
        domain: appended to guests' names, if any.
        forwards: the network's DNS server asks others for what it does not know; else guests are told these themselves.
    """

    cidr: IPv4Network
    service_address: IPv4Address
    gateway: IPv4Address | None = None
    dns_servers: tuple[IPv4Address, ...] = ()
    routes: tuple[tuple[IPv4Network, IPv4Address], ...] = ()
    domain: str = ""
    forwards: bool = True

    def __post_init__(self) -> None:
        if self.service_address not in self.cidr:
            raise ValueError(f"service address {self.service_address} is not in {self.cidr}")


@dataclass(frozen=True)
class PortDesired:
    """A port whose guest is on this host.

    Attributes:
        tap: the tap's name (names.tap).
        mac: the guest's MAC, lower case.
        addresses: the addresses that the guest may use; DHCP gives it the first.
        instance_id: the guest.
        hostname: the name that DHCP gives and DNS answers for.
    """

    tap: str
    mac: str
    addresses: tuple[IPv4Address, ...]
    instance_id: str
    hostname: str = ""

    def __post_init__(self) -> None:
        _check(INTERFACE, self.tap, "an interface name of lower-case letters and digits, at most 15")
        _check(MAC, self.mac, "a unicast MAC address in lower case")
        if self.hostname:
            _check(HOSTNAME, self.hostname, "a DNS label")


@dataclass(frozen=True)
class HostRecord:
    """A name that the network's DNS server answers for."""

    name: str
    address: IPv4Address

    def __post_init__(self) -> None:
        _check(HOSTNAME, self.name, "a DNS label")


@dataclass(frozen=True)
class Uplink:
    """Where a provider network leaves the host.

    Attributes:
        interface: the host's, which leads to the physical network.
        vlan: the VLAN's number; None for frames without a tag, for which the interface is taken whole.
    """

    interface: str
    vlan: int | None = None


@dataclass(frozen=True)
class NetworkDesired:
    """A network as it should be on this host.

    Attributes:
        vni: the network's number, 1 … 2^24 - 1; the VXLAN network identifier of an overlay.
        mtu: bytes of a guest's packet: in an overlay the underlay's less 50.
        underlay_address: this host's tunnel address.
        peers: tunnel addresses of the other hosts that carry the network.
        neighbours: where the network's ports on other hosts are.
        ports: the network's ports on this host.
        subnet: DHCP and DNS for the ports; None for a network without.
        records: the names of all the network's ports, on whatever host.
        provider: it is a network outside the cloud: there is no VXLAN.
        uplink: how a provider network is reached; None if it is not reached from here.
    """

    vni: int
    mtu: int
    underlay_address: str
    peers: frozenset[str] = frozenset()
    neighbours: frozenset[Neighbour] = frozenset()
    ports: tuple[PortDesired, ...] = ()
    subnet: SubnetDesired | None = None
    records: tuple[HostRecord, ...] = ()
    provider: bool = False
    uplink: Uplink | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.vni < 1 << 24:
            raise ValueError(f"VNI {self.vni} is not within 1 and {(1 << 24) - 1}")
        for mac, _ in self.neighbours:
            _check(MAC, mac, "a unicast MAC address in lower case")

    @property
    def bridge(self) -> str:
        """The bridge's name."""
        return names.bridge(self.vni)

    @property
    def vxlan(self) -> str:
        """The VXLAN device's name; a provider network has none, and only its number is noted under it."""
        return names.vxlan(self.vni)

    @property
    def uplink_port(self) -> str | None:
        """The bridge's port towards the physical network."""
        if self.uplink is None:
            return None
        return self.uplink.interface if self.uplink.vlan is None else names.vlan(self.vni)

    @property
    def service_link(self) -> str | None:
        """The bridge's end of the link to the DHCP server; None if no port here needs one."""
        return names.service_link(self.vni) if self.subnet and self.ports else None


@dataclass(frozen=True)
class Link:
    """An interface of the datapath namespace as netlink tells it.

    Attributes:
        kind: bridge, vxlan, veth, tun, …
        master: the bridge that it is a port of.
        vni: of a VXLAN device.
        local: tunnel address of a VXLAN device.
        alias: what was noted on the interface by us.
    """

    name: str
    kind: str
    mtu: int
    up: bool
    master: str | None = None
    vni: int | None = None
    local: str | None = None
    alias: str = ""


@dataclass(frozen=True)
class HostInterface:
    """An interface that is mapped to a physical network.

    Attributes:
        mtu: bytes.
        alias: as it is, or was before it was taken.
        used: what the host itself uses it for, as in "it has the address 192.0.2.1"; empty if it does not.
        taken: it is in the datapath's namespace.
    """

    name: str
    mtu: int
    up: bool
    alias: str = ""
    used: str = ""
    taken: bool = False


@dataclass(frozen=True)
class Observed:
    """The datapath namespace as it is.

    Attributes:
        links: interfaces by name.
        flood: per VXLAN device, the tunnel addresses that unknown and broadcast frames go to.
        neighbours: per VXLAN device, the MACs noted by us (not those that it has learned).
        firewall: the rules.
        interfaces: those of the host that were asked for, wherever they are now.
    """

    links: Mapping[str, Link] = field(default_factory=dict)
    flood: Mapping[str, frozenset[str]] = field(default_factory=dict)
    neighbours: Mapping[str, frozenset[Neighbour]] = field(default_factory=dict)
    firewall: FirewallState = field(default_factory=FirewallState)
    interfaces: Mapping[str, HostInterface] = field(default_factory=dict)

    def networks(self) -> frozenset[int]:
        """The VNIs of the networks of which something is here."""
        prefixes, kinds = ("kb", "kx", "kv", "ku"), {"bridge", "vxlan", "veth", "vlan"}
        made = {
            int(name[2:], 16)
            for name, link in self.links.items()
            if name.startswith(prefixes) and len(name) == 8 and link.kind in kinds
        }
        return frozenset(made | {taken.vni for taken in map(self.taken, self.links) if taken is not None})

    def taken(self, name: str) -> Taken | None:
        """What is noted on an interface of the host that is here; None on any other."""
        link = self.links.get(name)
        return Taken.read(link.alias) if link is not None else None

    def taken_by(self, vni: int) -> dict[str, Taken]:
        """The interfaces of the host that are here for a network."""
        found = {name: self.taken(name) for name in sorted(self.links)}
        return {name: taken for name, taken in found.items() if taken is not None and taken.vni == vni}

    def ports_of(self, bridge: str) -> frozenset[str]:
        """The interfaces that are ports of `bridge`."""
        return frozenset(name for name, link in self.links.items() if link.master == bridge)
