"""Network and its endpoints (Neutron's network with its subnets)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from kumulus_api.address_pair import AddressPair
from kumulus_api.base import (
    CIDRText,
    Column,
    Definition,
    HostName,
    IPAddressText,
    Kind,
    LocalReference,
    MACAddress,
    Model,
    Name,
    ObjectName,
    Rule,
    Status,
    list_map,
    validated,
)
from kumulus_api.peering import NetworkAssignment, Peering
from kumulus_api.provider import Provider

DNS_DOMAIN = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$"


class NetworkType(StrEnum):
    """How the network's frames travel between hosts."""

    OVERLAY = "Overlay"
    """In VXLAN between the hosts."""
    PROVIDER = "Provider"
    """Over a physical network that hosts reach by an interface; for administrators."""


class AllocationPool(Model):
    """A range of addresses to give out, both ends included."""

    start: IPAddressText
    end: IPAddressText


class IPv6Mode(StrEnum):
    """How servers come by their addresses of an IPv6 subnet (Neutron: `ipv6_address_mode` and `ipv6_ra_mode`)."""

    SLAAC = "SLAAC"
    """They make them of the prefix and their MAC (RFC 4862); other settings come with router advertisements."""
    STATEFUL = "DHCPv6Stateful"
    """They are given them by DHCPv6."""
    STATELESS = "DHCPv6Stateless"
    """They make them as with SLAAC, and ask DHCPv6 for other settings."""


class HostRoute(Model):
    """A route that servers are told (Neutron: `host_routes`)."""

    destination: CIDRText
    next_hop: IPAddressText
    """An address in the subnet."""

    model_config = validated(
        Rule(
            "isCIDR(self.destination) && cidr(self.destination) == cidr(self.destination).masked()",
            "destination is not a network such as 192.0.2.0/24",
            ".destination",
        ),
        Rule("isIP(self.nextHop)", "nextHop is not an IP address", ".nextHop"),
    )


_V4 = "!isCIDR(self.cidr) || cidr(self.cidr).ip().family() == 6"
_V6 = "!isCIDR(self.cidr) || cidr(self.cidr).ip().family() == 4"


class Subnet(Model):
    """A range of addresses of a network (Neutron's subnet)."""

    name: Name
    cidr: CIDRText
    gateway: IPAddressText | None = None
    """Told to servers as their default route; without it they are told none. In an IPv6 subnet the router at that
    address tells of itself. No address is reserved for it unless it is given."""
    pools: Annotated[list[AllocationPool], Field(max_length=16)] = Field(default_factory=list)
    """Where automatic addresses are taken from; the whole subnet if empty."""
    dns_servers: Annotated[list[IPAddressText], Field(max_length=3)] = Field(default_factory=list)
    """Where the network's own DNS server forwards names that it does not know; a provider network's guests ask them
    themselves."""
    routes: Annotated[list[HostRoute], Field(max_length=20)] = Field(default_factory=list)
    """Routes beside the default one, of an IPv4 subnet: DHCPv6 has no word for them."""
    enable_dhcp: bool = Field(default=True, alias="enableDHCP")
    """Whether guests are given their addresses by DHCP (Neutron: `enable_dhcp`). Without it a provider network's own
    server is asked, which must give each MAC the address that its Port has."""
    ipv6_mode: IPv6Mode | None = Field(default=None, alias="ipv6Mode")
    """Of an IPv6 subnet. Without it guests learn their addresses elsewhere: from a router outside the cloud, or by
    hand."""

    model_config = validated(
        Rule("isCIDR(self.cidr)", "cidr is not a network such as 10.0.0.0/24 or 2001:db8::/64", ".cidr"),
        Rule(
            "!isCIDR(self.cidr) || cidr(self.cidr) == cidr(self.cidr).masked()",
            "cidr has bits set behind its prefix",
            ".cidr",
        ),
        Rule(
            f"{_V4} || (cidr(self.cidr).prefixLength() >= 8 && cidr(self.cidr).prefixLength() <= 29)",
            "cidr's prefix is between /8 and /29, or /48 and /125 for IPv6",
            ".cidr",
        ),
        Rule(
            f"{_V6} || (cidr(self.cidr).prefixLength() >= 48 && cidr(self.cidr).prefixLength() <= 125)",
            "cidr's prefix is between /8 and /29, or /48 and /125 for IPv6",
            ".cidr",
        ),
        Rule(
            f"({_V4} || cidr(self.cidr).ip().isGlobalUnicast())"
            f" && ({_V6} || cidr('2000::/3').containsCIDR(cidr(self.cidr))"
            " || cidr('fc00::/7').containsCIDR(cidr(self.cidr)))",
            "cidr is a range that no guest can use (loopback, link-local, multicast or unspecified addresses)",
            ".cidr",
        ),
        Rule(
            "!has(self.gateway) || (isIP(self.gateway) && isCIDR(self.cidr)"
            " && cidr(self.cidr).containsIP(self.gateway))",
            "gateway is not an address inside cidr",
            ".gateway",
        ),
        Rule(
            "!isCIDR(self.cidr) || self.pools.all(p, isIP(p.start) && isIP(p.end)"
            " && cidr(self.cidr).containsIP(p.start) && cidr(self.cidr).containsIP(p.end))",
            "a pool lies outside cidr",
            ".pools",
        ),
        Rule(
            "self.dnsServers.all(s, isIP(s))",
            "a DNS server is not an IP address",
            ".dnsServers",
        ),
        Rule(
            "!isCIDR(self.cidr) || self.routes.all(r, isIP(r.nextHop) && cidr(self.cidr).containsIP(r.nextHop))",
            "a route's nextHop lies outside cidr",
            ".routes",
        ),
        Rule(
            f"{_V6} || self.routes.size() == 0", "routes are for IPv4 subnets: a router tells of IPv6 ones", ".routes"
        ),
        Rule(
            "!isCIDR(self.cidr) || self.routes.all(r, isCIDR(r.destination) && cidr(r.destination).ip().family() == 4)",
            "a route's destination is not an IPv4 network",
            ".routes",
        ),
        Rule(f"{_V4} || !has(self.ipv6Mode)", "ipv6Mode is for IPv6 subnets", ".ipv6Mode"),
        Rule(
            "!has(self.ipv6Mode) || !isCIDR(self.cidr) || (self.ipv6Mode == 'DHCPv6Stateful'"
            " ? cidr(self.cidr).prefixLength() >= 64 : cidr(self.cidr).prefixLength() == 64)",
            "SLAAC and DHCPv6Stateless need a prefix of /64, DHCPv6Stateful one of /64 to /125",
            ".cidr",
        ),
        Rule(
            "!has(self.ipv6Mode) || self.ipv6Mode == 'DHCPv6Stateful' || self.pools.size() == 0",
            "addresses of SLAAC and DHCPv6Stateless follow from the MAC, not from pools",
            ".pools",
        ),
        Rule("!has(self.ipv6Mode) || self.enableDHCP", "ipv6Mode needs enableDHCP", ".ipv6Mode"),
    )


class NetworkSpec(Model):
    """What the network is made of."""

    type: NetworkType = NetworkType.OVERLAY
    provider: Provider | None = None
    """Where a network of type Provider is. It cannot change."""
    external: bool = False
    """Routers lead out over it, and floating addresses are taken from it (Neutron: `router:external`); for
    administrators."""
    mtu: Annotated[int, Field(ge=576, le=65485)] | None = None
    """Bytes of a packet in an overlay network, told to guests: what the hosts' underlay carries, less 50, if it is not
    given; never more. A provider network has its own."""
    dns_domain: Annotated[str, Field(max_length=253, pattern=DNS_DOMAIN)] | None = None
    """Behind the names of servers in it; told to them as the domain that they are in (Neutron: `dns_domain`)."""
    dns_zone: LocalReference | None = None
    """A DNSZone of the same namespace, in which servers on this network have names that the world can ask for (Neutron
    with Designate)."""
    routed_prefixes: Annotated[list[CIDRText], Field(max_length=64)] = Field(default_factory=list)
    """Of an external network: IPv6 ranges that the world outside routes to its routers. Subnets within them go out, and
    are reached, as they are; other IPv6 stays inside, or is translated (Neutron: an address scope)."""
    peering: Peering | None = None
    """With the Kubernetes cluster that runs the cloud: off unless it is asked for and the Project is granted it."""
    subnets: Annotated[list[Subnet], Field(min_length=1, max_length=16, json_schema_extra=list_map("name"))]
    assignment: NetworkAssignment | None = None
    """Written by the operator only."""

    model_config = validated(
        Rule("self.type == oldSelf.type", "type cannot change", ".type"),
        Rule(
            "(self.type == 'Provider') == has(self.provider)",
            "a network of type Provider says where it is, and no other does",
            ".provider",
        ),
        Rule(
            "!has(self.provider) || !has(oldSelf.provider) || self.provider == oldSelf.provider",
            "provider cannot change: servers are connected to it",
            ".provider",
        ),
        Rule(
            "self.routedPrefixes.all(p, isCIDR(p) && cidr(p).ip().family() == 6 && cidr(p) == cidr(p).masked())",
            "a routed prefix is not an IPv6 network such as 2001:db8:100::/48",
            ".routedPrefixes",
        ),
        Rule(
            "self.routedPrefixes.size() == 0 || self.external",
            "routedPrefixes are for external networks",
            ".routedPrefixes",
        ),
        Rule(
            "!has(self.peering) || (!has(self.provider) && !self.external)",
            "peering is for a project's own networks: not for external ones, nor for those of type Provider",
            ".peering",
        ),
        Rule("!has(self.mtu) || !has(self.provider)", "a provider network's mtu is in provider", ".mtu"),
        Rule(
            "!has(self.mtu) || self.mtu >= 1280 || self.subnets.all(s, !s.cidr.contains(':'))",
            "IPv6 needs an mtu of 1280 at least",
            ".mtu",
        ),
        Rule(
            "self.subnets.all(a, self.subnets.all(b, a.name == b.name || !isCIDR(a.cidr) || !isCIDR(b.cidr)"
            " || !cidr(a.cidr).containsCIDR(b.cidr)))",
            "two subnets overlap",
            ".subnets",
        ),
        Rule(
            "oldSelf.subnets.all(o, self.subnets.all(s, s.name != o.name || (s.cidr == o.cidr"
            " && has(s.ipv6Mode) == has(o.ipv6Mode) && (!has(s.ipv6Mode) || s.ipv6Mode == o.ipv6Mode))))",
            "a subnet's cidr and ipv6Mode cannot change: make another subnet",
            ".subnets",
        ),
    )


class NetworkStatus(Status):
    """What the operator decided."""

    vni: Annotated[int, Field(ge=1, le=16777215)] | None = None
    """The network's number, held by a NetworkIDClaim: of an overlay the VXLAN network identifier (RFC 7348)."""
    subnets_in_use: Annotated[list[Name], Field(max_length=16)] = Field(default_factory=list)
    """Subnets of which addresses are held: these cannot be removed."""


class NetworkReason(StrEnum):
    """Reasons of a Network's Ready condition."""

    ALLOCATED = "Allocated"
    POOLS_INVALID = "PoolsInvalid"
    GATEWAY_INVALID = "GatewayInvalid"
    SUBNETS_OVERLAP = "SubnetsOverlap"
    SEGMENT_IN_USE = "SegmentInUse"
    """Another Network has the segment of the physical network."""
    POOL_EXHAUSTED = "NetworkIDsExhausted"
    IN_USE = "InUse"


class Network(Kind):
    """A layer-2 network with its addresses (Neutron's network and subnets)."""

    definition: ClassVar = Definition(
        plural="networks",
        short_names=("knet",),
        columns=(
            Column("Ready", ".status.conditions[?(@.type=='Ready')].status"),
            Column("Type", ".spec.type"),
            Column("CIDR", ".spec.subnets[0].cidr"),
            Column("VNI", ".status.vni", "integer"),
            Column("Physical", ".spec.provider.physicalNetwork", priority=1),
            Column("External", ".spec.external", "boolean", priority=1),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
        selectable=(".spec.assignment.fromPods",),
        rules=(
            Rule(
                "self.metadata.name.size() <= 63 && !self.metadata.name.contains('.')",
                "a network's name labels its endpoints: at most 63 characters, no dots",
            ),
            Rule(
                "oldSelf.spec.subnets.all(o, self.spec.subnets.exists(s, s.name == o.name) || !has(oldSelf.status)"
                " || !has(oldSelf.status.subnetsInUse) || !(o.name in oldSelf.status.subnetsInUse))",
                "a subnet of which addresses are held cannot be removed: delete its servers and ports first",
                ".spec",
            ),
        ),
    )

    spec: NetworkSpec
    status: NetworkStatus | None = None


MemberOf = Annotated[
    str, Field(max_length=127, pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?/)?[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
]
"""A security group: its name, or namespace and name."""


class Endpoint(Model):
    """A port of the network and the host that it is on."""

    port: ObjectName
    mac: MACAddress
    addresses: Annotated[list[IPAddressText], Field(max_length=16)]
    host: HostName
    tunnel_address: IPAddressText
    standby_tunnel_address: IPAddressText | None = None
    """Where the port may be instead: its two hosts decide by themselves, and the others hear of it by its frames."""
    hostname: Name
    """The name that the network's DNS answers for."""
    groups: Annotated[list[MemberOf], Field(max_length=16)] = Field(default_factory=list)
    """The security groups that the port is a member of: by name, with `namespace/` in front for a port of another
    namespace than the network's."""
    dns_name: Name | None = None
    """Another one, of the port itself."""
    pairs: Annotated[list[AddressPair], Field(max_length=10)] = Field(default_factory=list)
    """What the port may use besides its MAC and addresses."""


class NetworkEndpointsSpec(Model):
    """A slice of at most 100 ports."""

    network: LocalReference
    vni: Annotated[int, Field(ge=1, le=16777215)]
    # Atomic: the operator alone writes it; as a map of owned fields each write costs the API server twice as much.
    endpoints: Annotated[list[Endpoint], Field(max_length=100)] = Field(default_factory=list)


NETWORK_LABEL = "kumulus.dev/network"
"""On NetworkEndpoints: the name of their Network."""


class NetworkEndpoints(Kind):
    """Where a network's ports are, for the hosts that carry it. Written by the operator, as EndpointSlices are."""

    definition: ClassVar = Definition(
        plural="networkendpoints",
        columns=(
            Column("Network", ".spec.network.name"),
            Column("VNI", ".spec.vni", "integer"),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
        selectable=(".spec.network.name",),
        in_all=False,
    )

    spec: NetworkEndpointsSpec
