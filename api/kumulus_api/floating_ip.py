"""FloatingIP: an address of an external network that leads to a port (Neutron's floating IP)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from kumulus_api.base import (
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
    Reference,
    Rule,
    Status,
    UUIDText,
    ruled,
    validated,
    whole,
)


class PortForwarding(Model):
    """One port of the address that leads to one port of a server (Neutron's port forwarding)."""

    protocol: Literal["TCP", "UDP"]
    external_port: Annotated[int, Field(ge=1, le=65535)]
    port: LocalReference
    """The Port that it leads to."""
    address: IPAddressText | None = None
    """Which of the Port's addresses; its first if it is not given."""
    internal_port: Annotated[int, Field(ge=1, le=65535)]


class AssignedForwarding(Model):
    """A port forwarding as the operator has decided it."""

    protocol: Literal["TCP", "UDP"]
    external_port: Annotated[int, Field(ge=1, le=65535)]
    address: IPAddressText
    internal_port: Annotated[int, Field(ge=1, le=65535)]


class FloatingIPAssignment(Model):
    """What the operator decided. It survives a restore from a backup."""

    model_config = whole(
        Rule(
            "self.floatingIPID == oldSelf.floatingIPID && self.address == oldSelf.address && self.mac == oldSelf.mac",
            "a floating IP keeps its identity, its MAC and its address",
        )
    )

    floating_ip_id: UUIDText = Field(alias="floatingIPID")
    """Its identity; its address claim names it."""
    address: IPAddressText
    mac: MACAddress
    """Stands for it among the endpoints of an external overlay; hosts answer for the address with their router's."""
    network: ObjectName
    network_namespace: Name
    vni: Annotated[int, Field(ge=1, le=16777215)]
    router: ObjectName | None = None
    """The Router of its project that leads from the external network to the port."""
    router_id: UUIDText | None = Field(default=None, alias="routerID")
    host: HostName | None = None
    """Where the address is translated: the host of the port's server where that reaches the external network, else the
    router's gateway host; of one with port forwardings always that."""
    standby: HostName | None = None
    """Of one that is translated on the gateway's host: where it is when that is taken over."""
    fixed_address: IPAddressText | None = None
    """What it is translated to; None if it leads nowhere, or if only ports of it lead somewhere."""
    forwardings: Annotated[list[AssignedForwarding], Field(max_length=64)] = Field(default_factory=list)


class FloatingIPSpec(Model):
    """The external network, and where the address leads."""

    description: Annotated[str, Field(max_length=1024)] = ""
    network: Annotated[
        Reference,
        Field(json_schema_extra=ruled(Rule("self == oldSelf", "network cannot change: make another floating IP"))),
    ]
    subnet: Name | None = None
    """The subnet of the external network that the address comes from: an IPv4 one if it is not given."""
    address: IPAddressText | None = None
    """A free one if it is not given."""
    port: LocalReference | None = None
    """The Port that it leads to; it may be changed, while connections of the former end."""
    fixed_address: IPAddressText | None = None
    """Which of the Port's addresses, of the family of this one; its first of that if it is not given."""
    port_forwardings: Annotated[list[PortForwarding], Field(max_length=64)] = Field(default_factory=list)
    assignment: FloatingIPAssignment | None = None
    """Written by the operator only."""

    model_config = validated(
        Rule(
            "has(self.address) ? has(oldSelf.address) && self.address == oldSelf.address : !has(oldSelf.address)",
            "address cannot change: make another floating IP",
            ".address",
        ),
        Rule(
            "has(self.subnet) ? has(oldSelf.subnet) && self.subnet == oldSelf.subnet : !has(oldSelf.subnet)",
            "subnet cannot change: make another floating IP",
            ".subnet",
        ),
        Rule("!has(self.address) || isIP(self.address)", "address is not an IP address", ".address"),
        Rule(
            "!has(self.port) || self.portForwardings.size() == 0",
            "port and portForwardings exclude each other: an address leads to one port, or its ports to several",
            ".portForwardings",
        ),
        Rule("!has(self.fixedAddress) || has(self.port)", "fixedAddress needs a port", ".fixedAddress"),
        Rule(
            "self.portForwardings.all(f, self.portForwardings.filter(g, g.protocol == f.protocol"
            " && g.externalPort == f.externalPort).size() == 1)",
            "two port forwardings have the same protocol and external port",
            ".portForwardings",
        ),
        Rule(
            "has(self.assignment) || !has(oldSelf.assignment)",
            "a floating IP keeps its identity, its MAC and its address",
            ".assignment",
        ),
    )


class FloatingIPReason(StrEnum):
    """Reasons of a FloatingIP's Ready condition."""

    BOUND = "Bound"
    UNBOUND = "Unbound"
    """It has its address and leads nowhere, as nothing was asked for."""
    NETWORK_NOT_READY = "NetworkNotReady"
    NOT_EXTERNAL = "NotExternal"
    SUBNET_UNKNOWN = "SubnetUnknown"
    ADDRESS_INVALID = "AddressInvalid"
    ADDRESS_IN_USE = "AddressInUse"
    ADDRESSES_EXHAUSTED = "AddressesExhausted"
    QUOTA_EXCEEDED = "QuotaExceeded"
    PORT_UNKNOWN = "PortUnknown"
    PORT_IN_USE = "PortInUse"
    """Another floating IP leads to that address of the port."""
    NO_ROUTER = "NoRouter"
    """No Router of the project joins the port's subnet with the external network."""
    NO_HOST = "NoHost"
    """The port is on no host."""


class FloatingIPStatus(Status):
    """What became of it; conditions."""


class FloatingIP(Kind):
    """An address of an external network that leads to a port (Neutron's floating IP)."""

    definition: ClassVar = Definition(
        plural="floatingips",
        short_names=("kfip",),
        columns=(
            Column("Ready", ".status.conditions[?(@.type=='Ready')].status"),
            Column("Reason", ".status.conditions[?(@.type=='Ready')].reason"),
            Column("Address", ".spec.assignment.address"),
            Column("Port", ".spec.port.name"),
            Column("Fixed", ".spec.assignment.fixedAddress"),
            Column("Host", ".spec.assignment.host", priority=1),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
        selectable=(".spec.assignment.host", ".spec.assignment.standby"),
    )

    spec: FloatingIPSpec
    status: FloatingIPStatus | None = None
