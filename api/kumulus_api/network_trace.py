"""NetworkTrace: why a packet passes or is dropped, hop by hop, from what the kernels of its hosts have now."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

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
    ObjectName,
    Rule,
    Status,
    Timestamp,
    validated,
)


class TraceProtocol(StrEnum):
    """What the packet carries."""

    TCP = "TCP"
    UDP = "UDP"
    ICMP = "ICMP"
    """An echo request, of IPv4 or IPv6."""


class TraceSource(Model):
    """Where the packet comes from: a Server's port, or a Port."""

    server: LocalReference | None = None
    port: LocalReference | None = None

    model_config = validated(Rule("has(self.server) != has(self.port)", "a source is one of server and port"))


class TraceDestination(Model):
    """Where the packet goes to."""

    server: LocalReference | None = None
    port: LocalReference | None = None
    floating_ip: LocalReference | None = Field(default=None, alias="floatingIP")
    address: IPAddressText | None = None
    """Whoever has it: a server, a router, somebody outside."""

    model_config = validated(
        Rule(
            "[has(self.server), has(self.port), has(self.floatingIP), has(self.address)].filter(x, x).size() == 1",
            "a destination is one of server, port, floatingIP and address",
        ),
        Rule("!has(self.address) || isIP(self.address)", "address is not an IP address", ".address"),
    )


class NetworkTraceSpec(Model):
    """The packet: the first of a connection."""

    source: TraceSource
    destination: TraceDestination
    protocol: TraceProtocol = TraceProtocol.ICMP
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Of the destination."""

    model_config = validated(
        Rule("self == oldSelf", "a trace cannot change: make another"),
        Rule("has(self.port) == (self.protocol != 'ICMP')", "TCP and UDP need a port, ICMP has none", ".port"),
    )


class TraceVerdict(StrEnum):
    """What becomes of the packet."""

    PASSED = "Passed"
    DROPPED = "Dropped"
    UNKNOWN = "Unknown"
    """Whoever has to say does not, or it is another project's."""


class HopKind(StrEnum):
    """What the packet meets."""

    SOURCE_PORT = "SourcePort"
    ADDRESS_CHECK = "AddressCheck"
    """Whether the port may use the packet's MAC and address."""
    EGRESS_RULES = "EgressRules"
    NETWORK = "Network"
    """The bridge, and the other rules that hold for all of a network."""
    TUNNEL = "Tunnel"
    ROUTER = "Router"
    FIREWALL = "Firewall"
    """A FirewallGroup on an interface of the router."""
    TRANSLATION = "Translation"
    INGRESS_RULES = "IngressRules"
    DESTINATION_PORT = "DestinationPort"
    EXTERNAL = "External"
    """Outside of the cloud."""
    HOST = "Host"
    """A host that does not say."""


class TraceHop(Model):
    """What the packet meets, and what becomes of it there."""

    host: HostName | None = None
    what: HopKind
    name: Annotated[str, Field(max_length=512)] = ""
    """The object, or the interface."""
    verdict: TraceVerdict
    message: Annotated[str, Field(max_length=1024)]
    """Why, with the rule named."""
    remedy: Annotated[str, Field(max_length=1024)] = ""
    """What to do about it."""


class TracedPacket(Model):
    """The packet as it is on the way: translation changes it."""

    source: IPAddressText
    destination: IPAddressText
    protocol: Annotated[int, Field(ge=0, le=255)]
    """IANA's number."""
    first: Annotated[int, Field(ge=0, le=65535)] = 0
    """Source port, or type of an ICMP message."""
    second: Annotated[int, Field(ge=0, le=65535)] = 0
    """Destination port, or its code."""
    source_mac: MACAddress | None = Field(default=None, alias="sourceMAC")
    destination_mac: MACAddress | None = Field(default=None, alias="destinationMAC")


class LegStart(StrEnum):
    """Where the packet comes in at a host."""

    PORT = "Port"
    OVERLAY = "Overlay"
    EXTERNAL = "External"
    """From the physical network of an external network."""


class TraceLeg(Model):
    """The part of the way that lies on one host."""

    number: Annotated[int, Field(ge=1, le=8)]
    start: LegStart
    port: ObjectName | None = None
    """The Port that it begins at."""
    vni: Annotated[int, Field(ge=1, le=16777215)] | None = None
    """The number of the network that it comes in by."""
    packet: TracedPacket


class LegOutcome(StrEnum):
    """How a leg ends."""

    DELIVERED = "Delivered"
    DROPPED = "Dropped"
    UNKNOWN = "Unknown"
    FORWARDED = "Forwarded"
    """To another host, through a network's tunnel."""
    LEFT = "Left"
    """By a physical network."""


class TraceReport(Model):
    """What the agent of the leg's host found."""

    leg: Annotated[int, Field(ge=1, le=8)]
    outcome: LegOutcome
    hops: Annotated[list[TraceHop], Field(max_length=32)] = Field(default_factory=list)
    tunnel_address: IPAddressText | None = None
    """Of the host that it was forwarded to."""
    vni: Annotated[int, Field(ge=1, le=16777215)] | None = None
    """The network by which it left the host."""
    packet: TracedPacket | None = None
    """As it left the host."""


class NetworkTraceStatus(Status):
    """How far the packet came. The operator opens each leg and closes the trace; the leg's host reports."""

    verdict: TraceVerdict | None = None
    """Of the whole way, once it is known."""
    message: Annotated[str, Field(max_length=1024)] = ""
    hops: Annotated[list[TraceHop], Field(max_length=128)] = Field(default_factory=list)
    """In the packet's order."""
    host: HostName | None = None
    """Whose agent is asked now."""
    leg: TraceLeg | None = None
    """What it is asked."""
    asked_at: Timestamp | None = None
    report: TraceReport | None = None


class TraceReason(StrEnum):
    """Reasons of a NetworkTrace's Complete condition."""

    WAITING = "Waiting"
    """For other traces of the project."""
    ASKING = "Asking"
    """A host is asked."""
    TRACED = "Traced"
    NOT_FOUND = "NotFound"
    NOT_PLACED = "NotPlaced"
    """The source is on no host."""
    NO_ADDRESS = "NoAddress"
    """Source and destination have no addresses of one family."""
    HOST_SILENT = "HostSilent"
    """A host has not answered in time."""


class NetworkTrace(Kind):
    """Why a packet passes or is dropped, hop by hop, from what the kernels of its hosts have now; gone in minutes."""

    definition: ClassVar = Definition(
        plural="networktraces",
        short_names=("ktrc",),
        columns=(
            Column("Protocol", ".spec.protocol"),
            Column("Port", ".spec.port", "integer"),
            Column("Verdict", ".status.verdict"),
            Column("Host", ".status.host", priority=1),
            Column("Message", ".status.message"),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
        selectable=(".status.host",),
        in_all=False,
    )

    spec: NetworkTraceSpec
    status: NetworkTraceStatus | None = None
