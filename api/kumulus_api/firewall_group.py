"""FirewallGroup: what passes the interfaces of routers (Neutron's firewall group, FWaaS v2)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from kumulus_api.base import (
    CIDRText,
    Column,
    Definition,
    HostName,
    Kind,
    Model,
    Name,
    ObjectName,
    Rule,
    Status,
    list_map,
    validated,
)
from kumulus_api.security_group import Protocol

PortNumber = Annotated[int, Field(ge=1, le=65535)]


class FirewallAction(StrEnum):
    """What becomes of a connection that a rule is about."""

    ALLOW = "Allow"
    DENY = "Deny"
    """Its packets are dropped."""
    REJECT = "Reject"
    """Its packets are dropped, and the sender is told so."""


class FirewallRule(Model):
    """What becomes of connections. A field that is not given restricts nothing; of several rules the first decides."""

    name: Name
    description: Annotated[str, Field(max_length=255)] | None = None
    enabled: bool = True
    """A rule that is not enabled is passed over."""
    action: FirewallAction = FirewallAction.DENY
    protocol: Protocol | None = None
    """ICMP is ICMPv6 between IPv6 addresses."""
    source_cidr: CIDRText | None = Field(default=None, alias="sourceCIDR")
    """Who begins the connection; with a CIDR the rule is about its family alone, without any about both."""
    destination_cidr: CIDRText | None = Field(default=None, alias="destinationCIDR")
    source_port: PortNumber | None = None
    """The first one, if `sourceEndPort` is given."""
    source_end_port: PortNumber | None = None
    destination_port: PortNumber | None = None
    """The first one, if `destinationEndPort` is given."""
    destination_end_port: PortNumber | None = None

    model_config = validated(
        Rule(
            "!(has(self.sourcePort) || has(self.destinationPort)) || (has(self.protocol) && self.protocol != 'ICMP')",
            "ports need protocol TCP, UDP, SCTP, DCCP or UDPLite",
            ".protocol",
        ),
        Rule(
            "(!has(self.sourceEndPort) || (has(self.sourcePort) && self.sourcePort <= self.sourceEndPort))"
            " && (!has(self.destinationEndPort)"
            " || (has(self.destinationPort) && self.destinationPort <= self.destinationEndPort))",
            "an end port needs a port that is not above it",
        ),
        Rule(
            "(!has(self.sourceCIDR) || (isCIDR(self.sourceCIDR)"
            " && cidr(self.sourceCIDR) == cidr(self.sourceCIDR).masked()))"
            " && (!has(self.destinationCIDR) || (isCIDR(self.destinationCIDR)"
            " && cidr(self.destinationCIDR) == cidr(self.destinationCIDR).masked()))",
            "a CIDR is a range of addresses such as 192.0.2.0/24, without bits behind its prefix",
        ),
        Rule(
            "!has(self.sourceCIDR) || !has(self.destinationCIDR)"
            " || !isCIDR(self.sourceCIDR) || !isCIDR(self.destinationCIDR)"
            " || cidr(self.sourceCIDR).ip().family() == cidr(self.destinationCIDR).ip().family()",
            "sourceCIDR and destinationCIDR are of one family",
            ".destinationCIDR",
        ),
    )


FirewallRules = Annotated[list[FirewallRule], Field(max_length=100, json_schema_extra=list_map("name"))]


class GuardedRouter(Model):
    """A Router of the project, and which of its interfaces the group is on."""

    name: ObjectName
    interfaces: Annotated[list[Name], Field(max_length=64, json_schema_extra={"x-kubernetes-list-type": "set"})] = (
        Field(default_factory=list)
    )
    """By their names in the Router's spec; all that it has if none is given."""


class FirewallGroupSpec(Model):
    """Rules in their order, and where they are in force. What no rule is about is denied; answers always pass."""

    description: Annotated[str, Field(max_length=1024)] = ""
    admin_state: Literal["Up", "Down"] = "Up"
    """Down denies everything, as Neutron's firewall groups do."""
    ingress_rules: FirewallRules = Field(default_factory=list)
    """Of connections that a router passes on into the network of an interface."""
    egress_rules: FirewallRules = Field(default_factory=list)
    """Of connections that come to a router from the network of an interface."""
    routers: Annotated[list[GuardedRouter], Field(max_length=16, json_schema_extra=list_map("name"))] = Field(
        default_factory=list
    )


class AssignedFirewallRule(Model):
    """A rule as the operator has decided it."""

    name: Name
    action: FirewallAction
    protocol: Protocol | None = None
    ip_version: Literal[4, 6] | None = None
    source_cidr: CIDRText | None = Field(default=None, alias="sourceCIDR")
    destination_cidr: CIDRText | None = Field(default=None, alias="destinationCIDR")
    source_ports: Annotated[list[PortNumber], Field(max_length=2)] = Field(default_factory=list)
    """The first and the last one."""
    destination_ports: Annotated[list[PortNumber], Field(max_length=2)] = Field(default_factory=list)


class AssignedFirewall(Model):
    """A FirewallGroup on a Router, as the operator has decided it: what it allows not, is denied."""

    group: Name
    interfaces: Annotated[list[Name], Field(min_length=1, max_length=64)]
    ingress: Annotated[list[AssignedFirewallRule], Field(max_length=100)] = Field(default_factory=list)
    egress: Annotated[list[AssignedFirewallRule], Field(max_length=100)] = Field(default_factory=list)


class FirewallGroupReason(StrEnum):
    """Reasons of a FirewallGroup's Ready condition."""

    IN_FORCE = "InForce"
    INACTIVE = "Inactive"
    """It names no router."""
    DOWN = "Down"
    """It is in force, and denies everything."""
    ROUTER_NOT_FOUND = "RouterNotFound"
    INTERFACE_NOT_FOUND = "InterfaceNotFound"
    INTERFACE_IN_USE = "InterfaceInUse"
    """Another group is on that interface already."""
    ROUTER_NOT_READY = "RouterNotReady"
    """The router has no identity or no such interface yet."""
    NO_GATEWAY = "NoGateway"
    """The router leads out nowhere, so that no host is there to judge on: it routes nothing."""
    QUOTA_EXCEEDED = "QuotaExceeded"
    """It is on no router."""


class FirewallPlace(Model):
    """Where a group is in force."""

    router: ObjectName
    interfaces: Annotated[list[Name], Field(max_length=64)]
    host: HostName | None = None
    """The router's gateway host, on which all its packets are judged."""
    standby: HostName | None = None
    """The host that judges them when the gateway is taken over."""


class FirewallGroupStatus(Status):
    """What became of it; conditions."""

    places: Annotated[list[FirewallPlace], Field(max_length=16)] = Field(default_factory=list)


class FirewallGroup(Kind):
    """Rules for what passes the interfaces of routers, which are centralised by it (Neutron's firewall group)."""

    definition: ClassVar = Definition(
        plural="firewallgroups",
        short_names=("kfwg",),
        columns=(
            Column("Ready", ".status.conditions[?(@.type=='Ready')].status"),
            Column("Reason", ".status.conditions[?(@.type=='Ready')].reason"),
            Column("Routers", ".status.places[*].router"),
            Column("Hosts", ".status.places[*].host", priority=1),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
        rules=(
            Rule(
                "self.metadata.name.size() <= 63 && !self.metadata.name.contains('.')",
                "a firewall group's name stands in the routers' rules: at most 63 characters, no dots",
            ),
        ),
    )

    spec: FirewallGroupSpec = Field(default_factory=FirewallGroupSpec)
    status: FirewallGroupStatus | None = None
