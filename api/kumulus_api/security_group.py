"""SecurityGroup: which connections a port takes and makes (Neutron's security group)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from kumulus_api.base import CIDRText, Column, Definition, Kind, LocalReference, Model, Rule, Status, validated

DEFAULT_GROUP = "default"
"""The group of a project's ports that name none; the operator makes it, and it goes with the project."""

GroupReferences = Annotated[list[LocalReference], Field(max_length=16)]
"""Groups of a port; without any it is in the project's `default`."""


class EtherType(StrEnum):
    """The protocol family that a rule is about."""

    IPV4 = "IPv4"
    IPV6 = "IPv6"


class Protocol(StrEnum):
    """Protocols by name; Neutron's other names are given by IANA's number, in `protocolNumber`."""

    TCP = "TCP"
    UDP = "UDP"
    ICMP = "ICMP"
    SCTP = "SCTP"
    DCCP = "DCCP"
    UDPLITE = "UDPLite"


class SecurityGroupRule(Model):
    """What is let through; a field that is not given restricts nothing."""

    ether_type: EtherType = EtherType.IPV4
    protocol: Protocol | None = None
    """ICMP is ICMPv6 in a rule about IPv6."""
    protocol_number: Annotated[int, Field(ge=0, le=255)] | None = None
    """A protocol without a name here, by IANA's number."""
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Destination port; the first one, if `endPort` is given."""
    end_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    icmp_type: Annotated[int, Field(ge=0, le=255)] | None = None
    icmp_code: Annotated[int, Field(ge=0, le=255)] | None = None
    remote_cidr: CIDRText | None = Field(default=None, alias="remoteCIDR")
    """Where the other end is."""
    remote_group: LocalReference | None = None
    """The other end is a port in this group, of the same project."""
    description: Annotated[str, Field(max_length=255)] | None = None

    model_config = validated(
        Rule(
            "!(has(self.protocol) && has(self.protocolNumber))",
            "protocol and protocolNumber exclude each other",
            ".protocolNumber",
        ),
        Rule(
            "!has(self.port) || (has(self.protocol) && self.protocol != 'ICMP')",
            "port needs protocol TCP, UDP, SCTP, DCCP or UDPLite",
            ".port",
        ),
        Rule(
            "!has(self.endPort) || (has(self.port) && self.port <= self.endPort)",
            "endPort needs a port that is not above it",
            ".endPort",
        ),
        Rule(
            "!has(self.icmpType) || (has(self.protocol) && self.protocol == 'ICMP')",
            "icmpType needs protocol ICMP",
            ".icmpType",
        ),
        Rule("!has(self.icmpCode) || has(self.icmpType)", "icmpCode needs an icmpType", ".icmpCode"),
        Rule(
            "!(has(self.remoteCIDR) && has(self.remoteGroup))",
            "remoteCIDR and remoteGroup exclude each other: make two rules",
            ".remoteGroup",
        ),
        Rule(
            "!has(self.remoteCIDR) || (isCIDR(self.remoteCIDR)"
            " && cidr(self.remoteCIDR).ip().family() == (self.etherType == 'IPv6' ? 6 : 4))",
            "remoteCIDR is not a range of addresses of etherType, such as 192.0.2.0/24",
            ".remoteCIDR",
        ),
        Rule(
            "!has(self.remoteCIDR) || !isCIDR(self.remoteCIDR)"
            " || cidr(self.remoteCIDR) == cidr(self.remoteCIDR).masked()",
            "remoteCIDR has bits set behind its prefix",
            ".remoteCIDR",
        ),
    )


def _everywhere() -> list[SecurityGroupRule]:
    return [SecurityGroupRule(ether_type=family) for family in EtherType]


Rules = Annotated[list[SecurityGroupRule], Field(max_length=200)]


class SecurityGroupSpec(Model):
    """Connections that a port in the group takes and makes; answers to them pass, unless the group is stateless."""

    description: Annotated[str, Field(max_length=1024)] = ""
    ingress: Rules = Field(default_factory=list)
    """Connections to the port; none if it is empty."""
    egress: Rules = Field(default_factory=_everywhere)
    """Connections from the port; all if it is not given."""
    stateful: bool = True
    """Answers to what was let through pass. Of a stateless group (`false`) each packet is judged by the rules alone, so
    answers need rules of their own; only those of the network's own servers (addresses, names, metadata) and neighbour
    discovery pass always. It cannot change, and a port's groups are all stateful, or all stateless."""

    model_config = validated(
        Rule(
            "self.stateful == oldSelf.stateful",
            "stateful cannot change, as ports in the group rely on it: make another group",
            ".stateful",
        ),
    )


class SecurityGroupReason(StrEnum):
    """Reasons of a SecurityGroup's Ready condition."""

    ADMITTED = "Admitted"
    QUOTA_EXCEEDED = "QuotaExceeded"
    REMOTE_GROUP_NOT_FOUND = "RemoteGroupNotFound"
    """A rule lets members of a group through that is not there: nobody, until it is made."""
    IN_USE = "InUse"


class SecurityGroup(Kind):
    """Rules for the ports that name it; a port may have several, and is let through by any (Neutron's)."""

    definition: ClassVar = Definition(
        plural="securitygroups",
        short_names=("ksg",),
        columns=(
            Column("Ready", ".status.conditions[?(@.type=='Ready')].status"),
            Column("Reason", ".status.conditions[?(@.type=='Ready')].reason"),
            Column("Description", ".spec.description"),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
        rules=(
            Rule(
                "self.metadata.name.size() <= 63 && !self.metadata.name.contains('.')",
                "a security group's name stands beside its members' addresses: at most 63 characters, no dots",
            ),
        ),
    )

    spec: SecurityGroupSpec = Field(default_factory=SecurityGroupSpec)
    status: Status | None = None
