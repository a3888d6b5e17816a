"""Port: a network interface of a server (Neutron's port)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from kumulus_api.base import (
    Column,
    Definition,
    HostName,
    IPAddressText,
    Kind,
    MACAddress,
    Model,
    Reference,
    Rule,
    Status,
    UUIDText,
    ruled,
    validated,
    whole,
)


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
    assignment: PortAssignment | None = None
    """Written by the operator only."""

    model_config = validated(
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
