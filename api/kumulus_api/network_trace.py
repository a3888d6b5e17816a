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


class TracedConnection(Model):
    """A connection as a host tracks it once its first packet has passed: by it the answer is known."""

    host: HostName | None = None
    place: Annotated[str, Field(max_length=64)]
    """The network namespace in which it is tracked."""
    zone: Annotated[int, Field(ge=0, le=65535)] = 0
    """Of connection tracking there."""
    begun: TracedPacket
    """The first packet as it came."""
    left: TracedPacket
    """As it went on, translated."""


class LegStart(StrEnum):
    """Where the packet comes in at a host."""

    PORT = "Port"
    OVERLAY = "Overlay"
    EXTERNAL = "External"
    """From the physical network of an external network."""
    ROUTER = "Router"
    """A router answers by itself."""
    SERVICE = "Service"
    """A network's own servers, of names and metadata, answer."""
    SOUGHT = "Sought"
    """Nowhere: the ports that may use an address are asked whether they have it."""
    SITE = "Site"
    """From another site, by a VPNConnection of a router."""


class TraceLeg(Model):
    """The part of the way that lies on one host."""

    number: Annotated[int, Field(ge=1, le=16)]
    start: LegStart
    port: ObjectName | None = None
    """The Port that it begins at."""
    router: ObjectName | None = None
    """The Router that it begins at."""
    vni: Annotated[int, Field(ge=0, le=16777215)] | None = None
    """The number of the network that it comes in by; 0 is the hosts' own."""
    via: IPAddressText | None = None
    """Where the outside sends it: the router's address, where the destination's network is routed to that. Or the
    address that is sought."""
    packet: TracedPacket
    answer: bool = False
    """Whether it is the answer that is followed."""
    first: TracedPacket | None = None
    """The first packet, as its sender sent it: what an answer has to answer."""
    connections: Annotated[list[TracedConnection], Field(max_length=64)] = Field(default_factory=list)
    """What hosts track since the packet passed."""
    origin: HostName | None = None
    """The host on which the packet waits meanwhile, where an address is sought."""
    others: Annotated[list[HostName], Field(max_length=8)] = Field(default_factory=list)
    """The hosts that are asked next, if this one waits: of those that share an address one has it."""


class LegOutcome(StrEnum):
    """How a leg ends."""

    DELIVERED = "Delivered"
    DROPPED = "Dropped"
    UNKNOWN = "Unknown"
    FORWARDED = "Forwarded"
    """To another host, through a network's tunnel."""
    LEFT = "Left"
    """By a physical network."""
    TUNNELLED = "Tunnelled"
    """To another site by a VPNConnection, or to the cluster's Services by a network's peering."""
    SOUGHT = "Sought"
    """No table says who has the address that it goes to: ports of other hosts may."""
    FOUND = "Found"
    """A port of this host has the address that is sought."""
    WAITING = "Waiting"
    """The address is shared with another host, and is not here now."""


class TraceReport(Model):
    """What the agent of the leg's host found."""

    leg: Annotated[int, Field(ge=1, le=16)]
    outcome: LegOutcome
    hops: Annotated[list[TraceHop], Field(max_length=32)] = Field(default_factory=list)
    tunnel_address: IPAddressText | None = None
    """Of the host that it was forwarded to."""
    sought: IPAddressText | None = None
    """The address that nobody on this host has."""
    vni: Annotated[int, Field(ge=0, le=16777215)] | None = None
    """The network by which it left the host; 0 is the hosts' own."""
    packet: TracedPacket | None = None
    """As it left the host, or was delivered."""
    connections: Annotated[list[TracedConnection], Field(max_length=16)] = Field(default_factory=list)
    """What this host tracks since it passed."""
    answered_by: LegStart | None = None
    """Where the answer begins; None if that is nobody's to know."""
    port: ObjectName | None = None
    """The Port that answers."""
    router: ObjectName | None = None
    """The Router that answers, or by whose VPNConnection the answer comes."""


class TracedAnswer(Model):
    """What becomes of the answer to a packet that has passed."""

    verdict: TraceVerdict | None = None
    """Of its whole way, once it is known."""
    message: Annotated[str, Field(max_length=1024)] = ""
    hops: Annotated[list[TraceHop], Field(max_length=128)] = Field(default_factory=list)
    """In the answer's order."""


class NetworkTraceStatus(Status):
    """How far the packet came. The operator opens each leg and closes the trace; the leg's host reports."""

    verdict: TraceVerdict | None = None
    """Of the packet's whole way there, once it is known."""
    message: Annotated[str, Field(max_length=1024)] = ""
    hops: Annotated[list[TraceHop], Field(max_length=128)] = Field(default_factory=list)
    """In the packet's order."""
    answer: TracedAnswer | None = None
    """The way back, of a packet that has passed."""
    host: HostName | None = None
    """Whose agent is asked now."""
    leg: TraceLeg | None = None
    """What it is asked."""
    asked_at: Timestamp | None = None
    report: TraceReport | None = None


class TraceReason(StrEnum):
    """Reasons of a NetworkTrace's Complete condition."""

    SOUGHT = "Sought"
    """No table says who has the address that it goes to: ports of other hosts may."""
    FOUND = "Found"
    """A port of this host has the address that is sought."""
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
            Column("Answer", ".status.answer.verdict"),
            Column("Host", ".status.host", priority=1),
            Column("Message", ".status.message"),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
        selectable=(".status.host",),
        in_all=False,
    )

    spec: NetworkTraceSpec
    status: NetworkTraceStatus | None = None
