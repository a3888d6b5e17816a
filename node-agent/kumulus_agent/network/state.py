"""What a network should be on this host, and what is there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, collapse_addresses
from typing import Literal

from kumulus_agent.network import names
from kumulus_agent.network.groups import GroupKey, Groups
from kumulus_agent.network.rules import FirewallState
from kumulus_agent.network.taken import Taken
from kumulus_api.addresses import link_local

MAC = re.compile(r"[0-9a-f][02468ace](:[0-9a-f]{2}){5}")
"""A unicast MAC address in lower case, as the kernel prints it."""
INTERFACE = re.compile(r"[a-z][a-z0-9]{1,14}")
DOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
HOSTNAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
IPv6Mode = Literal["SLAAC", "DHCPv6Stateful", "DHCPv6Stateless"]
"""How guests come by their addresses of a subnet, as in the API."""
Neighbour = tuple[str, str]
"""A MAC of the network and the tunnel address of the host that it is on."""


def _check(pattern: re.Pattern[str], value: str, what: str) -> None:
    if not pattern.fullmatch(value):
        raise ValueError(f"{value!r} is not {what}")


@dataclass(frozen=True)
class SubnetDesired:
    """A subnet, and what the network's DHCP server tells its guests.

    Attributes:
        cidr: the subnet.
        service_address: the DHCP and DNS server's own address in it, reserved, the same on every host.
        gateway: the guests' default route, if any.
        dns_servers: where names that the network does not know are asked for.
        routes: further routes: destination and next hop.
        served: guests are told of it; else they learn their addresses elsewhere.
        mode: of a served IPv6 subnet.
    """

    cidr: IPv4Network | IPv6Network
    service_address: IPv4Address | IPv6Address
    gateway: IPv4Address | IPv6Address | None = None
    dns_servers: tuple[IPv4Address | IPv6Address, ...] = ()
    routes: tuple[tuple[IPv4Network | IPv6Network, IPv4Address | IPv6Address], ...] = ()
    served: bool = True
    mode: IPv6Mode | None = None

    def __post_init__(self) -> None:
        if self.service_address not in self.cidr:
            raise ValueError(f"service address {self.service_address} is not in {self.cidr}")
        if (self.mode is not None) != (self.served and isinstance(self.cidr, IPv6Network)):
            raise ValueError(f"subnet {self.cidr} and mode {self.mode} do not go together")


@dataclass(frozen=True)
class AddressPair:
    """Addresses that a port may use besides its own; `mac` is the port's own if it is empty."""

    addresses: IPv4Network | IPv6Network
    mac: str = ""

    def __post_init__(self) -> None:
        if self.mac:
            _check(MAC, self.mac, "a unicast MAC address in lower case")


@dataclass(frozen=True)
class Rates:
    """The most that a port takes and sends, in kbit/s; 0 is as much as comes.

    Attributes:
        ingress: towards the guest.
        egress: from the guest.
        burst: so many kbit may pass at once; 0 is chosen by the rate.
        egress_burst: the same from the guest, where that is another number.
        ingress_peak: as fast as this, in kbit/s, a burst is sent; 0 is as fast as can be.
        egress_peak: the same from the guest.
    """

    ingress: int = 0
    egress: int = 0
    burst: int = 0
    egress_burst: int | None = None
    ingress_peak: int = 0
    egress_peak: int = 0


@dataclass(frozen=True)
class PortDesired:
    """A port whose guest is on this host.

    Attributes:
        tap: the tap's name (names.tap).
        mac: the guest's MAC, lower case.
        addresses: the addresses that the guest may use; DHCP gives it the first of IPv4, and all of IPv6.
        instance_id: the guest.
        hostname: the name that DHCP gives and DNS answers for.
        groups: its security groups; None for a port that takes and makes every connection.
        pairs: what it may use besides its own MAC and addresses.
        secured: whether what the guest sends is looked at; without that there are no groups and no pairs.
        rates: the most that it takes and sends.
        dns_name: a name of its own that DNS answers for besides the hostname.
        shared: another host has it too, and one of them speaks: the network's frames say which.
    """

    tap: str
    mac: str
    addresses: tuple[IPv4Address | IPv6Address, ...]
    instance_id: str
    hostname: str = ""
    groups: frozenset[GroupKey] | None = None
    pairs: frozenset[AddressPair] = frozenset()
    secured: bool = True
    rates: Rates | None = None
    dns_name: str = ""
    shared: bool = False

    def __post_init__(self) -> None:
        if not self.secured and (self.pairs or self.groups is not None):
            raise ValueError(f"port {self.tap} without port security has groups or address pairs")
        _check(INTERFACE, self.tap, "an interface name of lower-case letters and digits, at most 15")
        _check(MAC, self.mac, "a unicast MAC address in lower case")
        for name in (self.hostname, self.dns_name):
            if name:
                _check(HOSTNAME, name, "a DNS label")

    @property
    def sources6(self) -> tuple[IPv6Address, ...]:
        """The addresses that its IPv6 packets come from: its own and its link-local one; none without IPv6."""
        own = tuple(address for address in self.addresses if isinstance(address, IPv6Address))
        paired = any(pair.addresses.version == 6 for pair in self.pairs)
        return (*own, link_local(self.mac)) if own or paired else ()

    @property
    def sources(self) -> tuple[IPv4Address | IPv6Address, ...]:
        """The addresses that its packets come from."""
        return (*(address for address in self.addresses if isinstance(address, IPv4Address)), *self.sources6)

    @property
    def macs(self) -> frozenset[str]:
        """The MACs that its frames come from."""
        return frozenset({self.mac, *(pair.mac for pair in self.pairs if pair.mac)})

    @property
    def ranges(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """What it may use besides, with the link-local addresses of MACs that go with IPv6; none overlaps another."""
        four = [pair.addresses for pair in self.pairs if isinstance(pair.addresses, IPv4Network)]
        six = [(pair.addresses, pair.mac) for pair in self.pairs if isinstance(pair.addresses, IPv6Network)]
        local = [IPv6Network(link_local(mac)) for _, mac in six if mac]
        return (*collapse_addresses(four), *collapse_addresses([*(addresses for addresses, _ in six), *local]))

    @property
    def lenient(self) -> bool:
        """Whether it may use more than its own."""
        return bool(self.pairs) or not self.secured


@dataclass(frozen=True)
class RouterPort:
    """The bridge's end of the link to a router's namespace.

    Attributes:
        name: the interface's (names.router_link).
        mac: the router's there, lower case.
        distributed: every host that carries the network has the same, and none hears of the others'.
        central: this host alone has it for all of the network, or one other in its place.
    """

    name: str
    mac: str
    distributed: bool = True
    central: bool = False

    def __post_init__(self) -> None:
        _check(INTERFACE, self.name, "an interface name of lower-case letters and digits, at most 15")
        _check(MAC, self.mac, "a unicast MAC address in lower case")


@dataclass(frozen=True)
class HostRecord:
    """A name that the network's DNS server answers for."""

    name: str
    address: IPv4Address | IPv6Address

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
        vni: the network's number, 1 … 2^24 - 1, and 0 of the hosts' own; the VXLAN network identifier of an overlay.
        mtu: bytes of a guest's packet: in an overlay the underlay's less 50.
        underlay_address: this host's tunnel address.
        peers: tunnel addresses of the other hosts that carry the network.
        neighbours: where the network's ports on other hosts are.
        ports: the network's ports on this host.
        subnets: its subnets.
        records: the names of all the network's ports, on whatever host.
        domain: appended to guests' names, if any.
        provider: it is a network outside the cloud: there is no VXLAN.
        uplink: how a provider network is reached; None if it is not reached from here.
        groups: the security groups of its ports here, and those that these speak of.
        routers: links to the namespaces of routers, which the routers' own plan makes.
        transits: on which other host routers' gateways are reached through this network.
        taken: where they, and ports that two hosts share, may be instead, as this host has heard.
        centred: a router of the network is centralised on another host, which advertises it.
        services: where Services of the cluster are that its servers reach by the network's own servers' address.
    """

    vni: int
    mtu: int
    underlay_address: str
    peers: frozenset[str] = frozenset()
    neighbours: frozenset[Neighbour] = frozenset()
    ports: tuple[PortDesired, ...] = ()
    subnets: tuple[SubnetDesired, ...] = ()
    records: tuple[HostRecord, ...] = ()
    domain: str = ""
    provider: bool = False
    uplink: Uplink | None = None
    groups: Groups = field(default_factory=dict)
    routers: tuple[RouterPort, ...] = ()
    transits: frozenset[Neighbour] = frozenset()
    taken: frozenset[Neighbour] = frozenset()
    centred: bool = False
    services: tuple[IPv4Network, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.vni < 1 << 24:
            raise ValueError(f"VNI {self.vni} is not within 0 and {(1 << 24) - 1}")
        for mac, _ in self.neighbours:
            _check(MAC, mac, "a unicast MAC address in lower case")
        if self.domain:
            _check(DOMAIN, self.domain, "a DNS domain")

    @property
    def served(self) -> tuple[SubnetDesired, ...]:
        """The subnets that guests are told of."""
        return tuple(subnet for subnet in self.subnets if subnet.served)

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
    def outward(self) -> str | None:
        """The bridge's port towards other hosts."""
        return self.uplink_port if self.provider else self.vxlan

    @property
    def service_link(self) -> str | None:
        """The bridge's end of the link to the DHCP server; None if no port here needs one."""
        return names.service_link(self.vni) if self.served and self.ports else None


@dataclass(frozen=True)
class Link:
    """An interface of the datapath namespace as netlink tells it.

    Attributes:
        kind: bridge, vxlan, veth, tun, …
        master: the bridge that it is a port of.
        vni: of a VXLAN device.
        local: tunnel address of a VXLAN device.
        alias: what was noted on the interface by us.
        discipline: of its queue (tc).
    """

    name: str
    kind: str
    mtu: int
    up: bool
    master: str | None = None
    vni: int | None = None
    local: str | None = None
    alias: str = ""
    discipline: str = ""


@dataclass(frozen=True)
class Bucket:
    """How fast an interface may send: bytes in a second, bytes at once, and how many of these in a second (0: any)."""

    rate: int
    burst: int
    peak: int = 0


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
        buckets: of the interfaces that have a rate.
        redirected: the interfaces of which all that they receive is led through another one.
        forwards: per port of a bridge, the MACs that the bridge knows to be behind it for good.
    """

    links: Mapping[str, Link] = field(default_factory=dict)
    flood: Mapping[str, frozenset[str]] = field(default_factory=dict)
    neighbours: Mapping[str, frozenset[Neighbour]] = field(default_factory=dict)
    firewall: FirewallState = field(default_factory=FirewallState)
    interfaces: Mapping[str, HostInterface] = field(default_factory=dict)
    buckets: Mapping[str, Bucket] = field(default_factory=dict)
    redirected: frozenset[str] = frozenset()
    forwards: Mapping[str, frozenset[str]] = field(default_factory=dict)

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
