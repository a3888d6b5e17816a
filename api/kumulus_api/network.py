"""Network and its endpoints (Neutron's network with its subnets)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

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
from kumulus_api.provider import Provider


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


class Subnet(Model):
    """A range of addresses of a network (Neutron's subnet)."""

    name: Name
    cidr: CIDRText
    gateway: IPAddressText | None = None
    """Told to guests as their default route. No address is reserved for it unless it is given."""
    pools: Annotated[list[AllocationPool], Field(max_length=16)] = Field(default_factory=list)
    """Where automatic addresses are taken from; the whole subnet if empty."""
    dns_servers: Annotated[list[IPAddressText], Field(max_length=3)] = Field(default_factory=list)
    """Where the network's own DNS server forwards names that it does not know; a provider network's guests ask them
    themselves."""
    enable_dhcp: bool = Field(default=True, alias="enableDHCP")
    """Whether guests are given their addresses by DHCP (Neutron: `enable_dhcp`). Without it a provider network's own
    server is asked, which must give each MAC the address that its Port has."""

    model_config = validated(
        Rule(
            "isCIDR(self.cidr) && cidr(self.cidr).ip().family() == 4",
            "cidr is not an IPv4 network such as 10.0.0.0/24",
            ".cidr",
        ),
        Rule(
            "!isCIDR(self.cidr) || cidr(self.cidr) == cidr(self.cidr).masked()",
            "cidr has bits set behind its prefix",
            ".cidr",
        ),
        Rule(
            "!isCIDR(self.cidr) || (cidr(self.cidr).prefixLength() >= 8 && cidr(self.cidr).prefixLength() <= 29)",
            "cidr's prefix is between /8 and /29",
            ".cidr",
        ),
        Rule(
            "!isCIDR(self.cidr) || cidr(self.cidr).ip().isGlobalUnicast()",
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
    )


class NetworkSpec(Model):
    """What the network is made of."""

    type: NetworkType = NetworkType.OVERLAY
    provider: Provider | None = None
    """Where a network of type Provider is. It cannot change."""
    subnets: Annotated[list[Subnet], Field(min_length=1, max_length=1, json_schema_extra=list_map("name"))]

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
            "oldSelf.subnets.all(o, self.subnets.exists(s, s.name == o.name && s.cidr == o.cidr))",
            "a subnet's cidr cannot change, and a subnet cannot be removed: servers have addresses in it",
            ".subnets",
        ),
    )


class NetworkStatus(Status):
    """What the operator decided."""

    vni: Annotated[int, Field(ge=1, le=16777215)] | None = None
    """The network's number, held by a NetworkIDClaim: of an overlay the VXLAN network identifier (RFC 7348)."""


class NetworkReason(StrEnum):
    """Reasons of a Network's Ready condition."""

    ALLOCATED = "Allocated"
    POOLS_INVALID = "PoolsInvalid"
    GATEWAY_INVALID = "GatewayInvalid"
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
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
        rules=(
            Rule(
                "self.metadata.name.size() <= 63 && !self.metadata.name.contains('.')",
                "a network's name labels its endpoints: at most 63 characters, no dots",
            ),
        ),
    )

    spec: NetworkSpec
    status: NetworkStatus | None = None


class Endpoint(Model):
    """A port of the network and the host that it is on."""

    port: ObjectName
    mac: MACAddress
    addresses: Annotated[list[IPAddressText], Field(max_length=16)]
    host: HostName
    tunnel_address: IPAddressText
    hostname: Name
    """The name that the network's DNS answers for."""


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
