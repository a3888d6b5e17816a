"""Router: joins subnets, and leads to an external network (Neutron's router)."""

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
    MACAddress,
    Model,
    Name,
    ObjectName,
    Reference,
    Rule,
    Status,
    UUIDText,
    list_map,
    ruled,
    validated,
    whole,
)
from kumulus_api.firewall_group import AssignedFirewall


class RouterInterface(Model):
    """A subnet that the router serves (Neutron's router interface)."""

    name: Name
    network: Reference
    subnet: Name | None = None
    """The first subnet of the network if it is not given."""
    address: IPAddressText | None = None
    """The router's own address there: the subnet's gateway if it is not given."""

    model_config = validated(
        Rule("!has(self.address) || isIP(self.address)", "address is not an IP address", ".address"),
    )


class ExternalGateway(Model):
    """The way out: an external network (Neutron's external gateway)."""

    network: Reference
    address: IPAddressText | None = None
    """The router's address there; a free one if it is not given."""
    snat: bool = Field(default=True, alias="enableSNAT")
    """Whether servers without a floating address go out under the router's (Neutron: `enable_snat`); of IPv4."""
    snat_ipv6: bool = Field(default=False, alias="enableSNATIPv6")
    """Whether IPv6 goes out under the router's address that the external network does not route to its routers
    (`routedPrefixes`). Else that stays inside; what is routed goes out as it is in any case."""

    model_config = validated(
        Rule("!has(self.address) || isIP(self.address)", "address is not an IP address", ".address"),
    )


class StaticRoute(Model):
    """Where packets for a range of addresses go (Neutron: `routes`)."""

    destination: CIDRText
    next_hop: IPAddressText
    """An address in a subnet of the router."""

    model_config = validated(
        Rule("isCIDR(self.destination)", "destination is not a network such as 192.0.2.0/24", ".destination"),
        Rule("isIP(self.nextHop)", "nextHop is not an IP address", ".nextHop"),
    )


class AssignedInterface(Model):
    """An interface as the operator has decided it."""

    name: Name
    network: ObjectName
    network_namespace: Name
    vni: Annotated[int, Field(ge=1, le=16777215)]
    mac: MACAddress
    """The same on all hosts."""
    addresses: Annotated[list[CIDRText], Field(min_length=1, max_length=16)]
    """The router's addresses there, each with the prefix length of its subnet."""


class AssignedStandby(Model):
    """The host that leads out when the gateway's host is heard of no more."""

    host: HostName
    tunnel_address: IPAddressText
    """Where the other hosts reach it."""


class AssignedTakeover(Model):
    """How a gateway goes over to another host without the API; its hosts have MACs of their own outside."""

    priority: Annotated[int, Field(ge=1, le=253)]
    """Of the gateway's host in VRRP (RFC 5798); the standby's is one more. It grows when the hosts change, so that of
    two that led out apart the one stays that did so last."""
    standby: AssignedStandby | None = None
    """None while no other host can lead out."""


class AssignedGateway(Model):
    """The way out as the operator has decided it."""

    network: ObjectName
    network_namespace: Name
    vni: Annotated[int, Field(ge=1, le=16777215)]
    mac: MACAddress
    addresses: Annotated[list[CIDRText], Field(min_length=1, max_length=16)]
    next_hops: Annotated[list[IPAddressText], Field(max_length=2)] = Field(default_factory=list)
    """The external subnet's own gateways, one for each family."""
    snat: bool = Field(alias="enableSNAT")
    snat_ipv6: bool = Field(default=False, alias="enableSNATIPv6")
    routed: Annotated[list[CIDRText], Field(max_length=64)] = Field(default_factory=list)
    """IPv6 subnets of its interfaces that go out, and are reached from outside, as they are: the external network
    routes them to its routers, and no other router leads to them."""
    host: HostName
    """The host that has `addresses`: what has no floating address leaves there, unless the standby has taken over."""
    tunnel_address: IPAddressText
    """Where the other hosts reach it."""
    takeover: AssignedTakeover | None = None
    """None where the gateway moves by the API alone."""


TUNNELLED = 256
"""So many networks a router may have behind tunnels."""


class RouterAssignment(Model):
    """What the operator decided. It survives a restore from a backup."""

    model_config = whole()

    router_id: Annotated[
        UUIDText, Field(json_schema_extra=ruled(Rule("self == oldSelf", "routerID cannot change")))
    ] = Field(alias="routerID")
    interfaces: Annotated[list[AssignedInterface], Field(max_length=64)] = Field(default_factory=list)
    gateway: AssignedGateway | None = None
    routes: Annotated[list[StaticRoute], Field(max_length=64)] = Field(default_factory=list)
    """Those of the spec whose next hop the router reaches."""
    centralised: bool = False
    """All packets of its networks pass it on its gateway's host; it is on no other, and without a gateway on none."""
    firewalls: Annotated[list[AssignedFirewall], Field(max_length=64)] = Field(default_factory=list)
    """What its interfaces let pass; each is in one of them at most."""
    tunnelled: Annotated[list[CIDRText], Field(max_length=TUNNELLED)] = Field(default_factory=list)
    """Networks behind the peers of VPNConnections: what is sent there goes to the gateway's host, never in clear."""


class RouterSpec(Model):
    """The subnets that are joined, and the way out."""

    description: Annotated[str, Field(max_length=1024)] = ""
    interfaces: Annotated[list[RouterInterface], Field(max_length=64, json_schema_extra=list_map("name"))] = Field(
        default_factory=list
    )
    gateway: ExternalGateway | None = None
    routes: Annotated[list[StaticRoute], Field(max_length=64)] = Field(default_factory=list)
    assignment: RouterAssignment | None = None
    """Written by the operator only."""

    model_config = validated(
        Rule(
            "has(self.assignment) || !has(oldSelf.assignment)",
            "a router keeps its identity",
            ".assignment",
        ),
    )


class RouterReason(StrEnum):
    """Reasons of a Router's Ready condition."""

    ROUTING = "Routing"
    QUOTA_EXCEEDED = "QuotaExceeded"
    NETWORK_NOT_READY = "NetworkNotReady"
    SUBNET_UNKNOWN = "SubnetUnknown"
    NO_GATEWAY_ADDRESS = "NoGatewayAddress"
    """The subnet has no gateway, and the interface says no address."""
    FOREIGN_GATEWAY = "ForeignGateway"
    """The subnet is another project's, whose own routers alone have its gateway address."""
    ADDRESS_INVALID = "AddressInvalid"
    ADDRESSES_EXHAUSTED = "AddressesExhausted"
    ADDRESS_IN_USE = "AddressInUse"
    OVERLAPPING_SUBNETS = "OverlappingSubnets"
    NOT_EXTERNAL = "NotExternal"
    NEXT_HOP_UNREACHABLE = "NextHopUnreachable"
    NO_GATEWAY_HOST = "NoGatewayHost"
    """No Ready host reaches the external network."""
    NO_GATEWAY = "NoGateway"
    """A firewall group is on it, which is judged on its gateway's host, and it has no gateway: it routes nothing."""
    IN_USE = "InUse"
    """Floating addresses need it still."""


class RouterStatus(Status):
    """What became of it; conditions."""


class Router(Kind):
    """Joins subnets, on each host that has servers in them, and leads out on one host (Neutron's router)."""

    definition: ClassVar = Definition(
        plural="routers",
        short_names=("krtr",),
        columns=(
            Column("Ready", ".status.conditions[?(@.type=='Ready')].status"),
            Column("Reason", ".status.conditions[?(@.type=='Ready')].reason"),
            Column("External", ".spec.assignment.gateway.addresses[0]"),
            Column("Gateway-Host", ".spec.assignment.gateway.host", priority=1),
            Column("Standby", ".spec.assignment.gateway.takeover.standby.host", priority=1),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
    )

    spec: RouterSpec
    status: RouterStatus | None = None
