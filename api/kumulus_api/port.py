"""Port: a network interface of a server (Neutron's port)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from kumulus_api.address_pair import AddressPair, outside_servers
from kumulus_api.base import (
    Column,
    Definition,
    HostName,
    IPAddressText,
    Kind,
    MACAddress,
    Model,
    Name,
    Reference,
    Rule,
    Status,
    UUIDText,
    ruled,
    validated,
    whole,
)
from kumulus_api.security_group import GroupReferences


class PortAssignment(Model):
    """What the operator decided for the port."""

    model_config = whole(
        Rule(
            "self.portID == oldSelf.portID && self.mac == oldSelf.mac && self.addresses == oldSelf.addresses",
            "a port keeps its identity, its MAC and its addresses",
        )
    )

    port_id: UUIDText = Field(alias="portID")
    """The port's identity; its address claims name it."""
    mac: MACAddress
    addresses: Annotated[list[IPAddressText], Field(min_length=1, max_length=16)]
    host: HostName | None = None
    """The host of the server that uses the port, or that used it last; only its agent speaks for the port."""


Rate = Annotated[int, Field(ge=64, le=32_000_000)]
"""Thousands of bits in a second, all that goes over the cable counted."""


class PortQoS(Model):
    """The most that the port takes and sends (Neutron's rules of type bandwidth limit)."""

    ingress_kbps: Rate | None = None
    """Towards the guest; without it as much as comes."""
    egress_kbps: Rate | None = None
    """From the guest; without it as much as it sends."""
    burst_kbits: Annotated[int, Field(ge=64, le=32_000_000)] | None = None
    """So much may pass at once, in either direction; without it what passes in a tenth of a second, and at least
    64 KiB."""

    model_config = validated(
        Rule("has(self.ingressKbps) || has(self.egressKbps)", "qos gives ingressKbps or egressKbps or both"),
    )


class PortSpec(Model):
    """The network, and what the user fixes; what is left open the operator decides."""

    network: Annotated[
        Reference, Field(json_schema_extra=ruled(Rule("self == oldSelf", "network cannot change: make another port")))
    ]
    mac: MACAddress | None = None
    addresses: Annotated[
        list[IPAddressText],
        Field(
            max_length=16,
            json_schema_extra=ruled(
                Rule("self == oldSelf", "addresses cannot change: make another port"),
                Rule("self.all(a, isIP(a))", "an address is not an IP address"),
            ),
        ),
    ] = Field(default_factory=list)
    security_groups: GroupReferences = Field(default_factory=list)
    """Which connections it takes and makes: those that any of these groups lets through. Without any it is in the
    project's group `default`. A change is applied at once, to connections that exist too. Those of a port that was made
    for a server are the server's to say."""
    dns_name: Name | None = None
    """A name that the network's DNS answers for besides the server's, and that DHCP tells the guest for this port."""
    port_security_enabled: bool = True
    """Whether the guest is held to the port's addresses and groups. Without it the guest sends as whom it likes within
    its network, takes every connection, and is in no group."""
    allowed_address_pairs: Annotated[list[AddressPair], Field(max_length=10)] = Field(default_factory=list)
    """What the guest may use besides the port's own MAC and addresses: an address that moves between two servers
    (VRRP), or what lies behind a server that routes."""
    qos: PortQoS | None = Field(default=None, alias="qos")
    """How fast the port may be. A change is applied at once."""
    assignment: PortAssignment | None = None
    """Written by the operator only."""

    model_config = validated(
        Rule(
            "!has(self.allowedAddressPairs) || self.allowedAddressPairs.size() == 0"
            " || !has(self.portSecurityEnabled) || self.portSecurityEnabled",
            "a port without port security has no allowedAddressPairs: it may send as whom it likes",
            ".allowedAddressPairs",
        ),
        Rule(
            "!has(self.securityGroups) || self.securityGroups.size() == 0"
            " || !has(self.portSecurityEnabled) || self.portSecurityEnabled",
            "a port without port security is in no securityGroups: it takes every connection",
            ".securityGroups",
        ),
        Rule(f"!has(self.mac) || {outside_servers('self.mac')}", "mac is kept for the networks' own servers", ".mac"),
        Rule(
            "has(self.mac) ? has(oldSelf.mac) && self.mac == oldSelf.mac : !has(oldSelf.mac)",
            "mac cannot change: make another port",
            ".mac",
        ),
        Rule(
            "has(self.assignment) || !has(oldSelf.assignment)",
            "a port keeps its identity, its MAC and its addresses",
            ".assignment",
        ),
    )


class PortConditionType(StrEnum):
    """Conditions of a Port beside Ready."""

    BANDWIDTH_LIMITED = "BandwidthLimited"
    """Whether the port is as slow as its `qos` says; only of a port that has one and whose server runs."""


class PortReason(StrEnum):
    """Reasons of a Port's BandwidthLimited condition."""

    APPLIED = "Applied"
    KERNEL_LACKS = "KernelLacksQueueing"


class PortStatus(Status):
    """What the agent found."""

    wired: bool | None = None
    """Whether the interface is connected to its network on `host`."""
    host: HostName | None = None


class Port(Kind):
    """A network interface: network, MAC and addresses (Neutron's port)."""

    definition: ClassVar = Definition(
        plural="ports",
        short_names=("kport",),
        columns=(
            Column("Network", ".spec.network.name"),
            Column("MAC", ".spec.assignment.mac"),
            Column("Address", ".spec.assignment.addresses[0]"),
            Column("Wired", ".status.wired", "boolean"),
            Column("Host", ".status.host", priority=1),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
        selectable=(".spec.assignment.host",),
        rules=(
            Rule(
                "self.metadata.name.size() <= 127",
                "a port's name, with its project before it, names an endpoint of its network: at most 127 characters",
            ),
        ),
    )

    spec: PortSpec
    status: PortStatus | None = None
