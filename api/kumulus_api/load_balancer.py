"""LoadBalancer: an address that spreads connections over servers (Octavia's load balancer)."""

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
    LabelMap,
    LocalReference,
    MACAddress,
    Model,
    Name,
    ObjectName,
    Reference,
    Rule,
    UUIDText,
    list_map,
    ruled,
    validated,
    whole,
)
from kumulus_api.load_balancer_status import LoadBalancerStatus
from kumulus_api.security_group import GroupReferences

PortNumber = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[int, Field(ge=1, le=86400)]
Weight = Annotated[int, Field(ge=0, le=256)]
"""Its share of new connections, relative to the others'; 0 takes none, and keeps those that it has."""


class ListenerProtocol(StrEnum):
    """What a listener understands of what it passes on."""

    TCP = "TCP"
    """Bytes: TLS passes through as well."""
    HTTP = "HTTP"
    """Requests, each of which may go to another member."""
    HTTPS = "HTTPS"
    """As HTTP, and TLS ends at the load balancer (Octavia's TERMINATED_HTTPS)."""
    UDP = "UDP"
    """Datagrams: those of a client's port go to one member while they follow each other within two minutes."""


class BalancingAlgorithm(StrEnum):
    """To which member the next connection goes."""

    ROUND_ROBIN = "RoundRobin"
    LEAST_CONNECTIONS = "LeastConnections"
    SOURCE_IP = "SourceIP"
    """The same client reaches the same member, while the members are the same."""


class HealthCheckType(StrEnum):
    """How a member is asked whether it is well."""

    TCP = "TCP"
    """It takes a connection."""
    HTTP = "HTTP"
    """It answers a request with an expected code."""
    UDP_CONNECT = "UDPConnect"
    """Nobody says that its port is closed when an empty datagram comes there (Octavia's UDP-CONNECT)."""


class HealthCheck(Model):
    """Which members get connections (Octavia's health monitor)."""

    type: HealthCheckType = HealthCheckType.TCP
    path: Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^/[A-Za-z0-9/._~%?=&:@,;+-]*$")] | None = None
    """What is asked for: `/` if it is not given."""
    host: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9.:-]+$")] | None = None
    """The name in the request's Host header; the request is HTTP/1.0 without one."""
    expected_codes: (
        Annotated[
            str,
            Field(
                min_length=3,
                max_length=128,
                pattern=r"^[1-5][0-9]{2}(-[1-5][0-9]{2})?(,[1-5][0-9]{2}(-[1-5][0-9]{2})?)*$",
            ),
        ]
        | None
    ) = None
    """Codes and ranges of codes such as `200,204` or `200-399`: `200` if it is not given."""
    interval_seconds: Annotated[int, Field(ge=1, le=3600)] = 5
    timeout_seconds: Annotated[int, Field(ge=1, le=3600)] = 3
    rise: Annotated[int, Field(ge=1, le=10)] = 2
    """So many good answers in a row bring a member back."""
    fall: Annotated[int, Field(ge=1, le=10)] = 3
    """So many bad ones in a row take it out."""

    model_config = validated(
        Rule(
            "self.type == 'HTTP' || !(has(self.path) || has(self.host) || has(self.expectedCodes))",
            "path, host and expectedCodes need type HTTP",
        ),
        Rule(
            "self.timeoutSeconds <= self.intervalSeconds",
            "timeoutSeconds is not above intervalSeconds: a check ends before the next begins",
            ".timeoutSeconds",
        ),
    )


class Member(Model):
    """Who serves: a Server of the project, or an address."""

    name: Name
    server: LocalReference | None = None
    """Its address is the one it has in the load balancer's network."""
    address: IPAddressText | None = None
    """Anything that is reached from the load balancer's network."""
    port: PortNumber
    weight: Weight = 1
    backup: bool = False
    """It gets connections while no other member is well."""

    model_config = validated(
        Rule("has(self.server) != has(self.address)", "a member is a server or an address: give one of the two"),
        Rule("!has(self.address) || isIP(self.address)", "address is not an IP address", ".address"),
        Rule(
            "!has(self.address) || !isIP(self.address) || ip(self.address).isGlobalUnicast()",
            "address is not one machine's in a network: loopback, link-local and multicast addresses are no members",
            ".address",
        ),
    )


class MemberSelector(Model):
    """The Servers of the project that have all of these labels are members, as they come and go."""

    match_labels: Annotated[
        LabelMap,
        Field(json_schema_extra=ruled(Rule("self.size() > 0", "matchLabels names at least one label"))),
    ]
    port: PortNumber
    weight: Weight = 1


class PersistenceType(StrEnum):
    """How a client is known again."""

    HTTP_COOKIE = "HTTPCookie"
    """By a cookie that the load balancer gives it."""


class SessionPersistence(Model):
    """A client's requests go to the same member while that is well (Octavia's session persistence)."""

    type: PersistenceType = PersistenceType.HTTP_COOKIE
    cookie_name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")] = "KUMULUS_MEMBER"


class Pool(Model):
    """Members, and how connections are spread over them."""

    algorithm: BalancingAlgorithm = BalancingAlgorithm.ROUND_ROBIN
    members: Annotated[list[Member], Field(max_length=64, json_schema_extra=list_map("name"))] = Field(
        default_factory=list
    )
    member_selector: MemberSelector | None = None
    """Members besides, named as their Servers are."""
    health_check: HealthCheck | None = None
    """Without it every member counts as well."""
    session_persistence: SessionPersistence | None = None
    """For algorithm SourceIP nothing is needed."""


class ListenerTimeouts(Model):
    """How long a connection may be still before it is ended, in seconds."""

    client_seconds: Seconds = 50
    """Waiting for the client."""
    connect_seconds: Seconds = 5
    """Waiting until a member takes the connection."""
    member_seconds: Seconds = 50
    """Waiting for the member."""


class ListenerTLS(Model):
    """Certificate and key of a listener whose TLS ends here."""

    secret: LocalReference
    """A Secret of type `kubernetes.io/tls`."""


class ListenerBasics(Model):
    """What a user says of a listener, and hosts are told as it is."""

    name: Name
    protocol: ListenerProtocol
    port: PortNumber
    connection_limit: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """So many at once; more wait. Of UDP clients' ports, more are dropped, and no load balancer has more than 8,192."""
    allowed_cidrs: Annotated[
        list[CIDRText],
        Field(
            max_length=64,
            json_schema_extra=ruled(
                Rule("self.all(c, isCIDR(c))", "an allowedCIDR is not a network such as 192.0.2.0/24"),
            ),
        ),
    ] = Field(default_factory=list, alias="allowedCIDRs")
    """Who may connect; everybody if it is empty (Octavia: `allowed_cidrs`)."""
    timeouts: ListenerTimeouts = Field(default_factory=ListenerTimeouts)
    """Of connections; UDP has none."""
    tls: ListenerTLS | None = None


class Listener(ListenerBasics):
    """A port on which the load balancer takes connections, and the pool that they go to."""

    pool: Pool

    model_config = validated(
        Rule("(self.protocol == 'HTTPS') == has(self.tls)", "tls goes with protocol HTTPS, and HTTPS needs it", ".tls"),
        Rule(
            "self.protocol in ['HTTP', 'HTTPS'] || !has(self.pool.sessionPersistence)",
            "sessionPersistence needs protocol HTTP or HTTPS: for TCP and UDP there is the algorithm SourceIP",
            ".pool",
        ),
        Rule(
            "self.protocol != 'UDP' || self.pool.algorithm != 'LeastConnections'",
            "LeastConnections is not there for protocol UDP, whose datagrams do not say when a connection ends: "
            "RoundRobin or SourceIP",
            ".pool",
        ),
        Rule(
            "self.protocol == 'UDP' || !has(self.pool.healthCheck) || self.pool.healthCheck.type != 'UDPConnect'",
            "a healthCheck of type UDPConnect needs protocol UDP",
            ".pool",
        ),
    )


class AssignedMember(Model):
    """A member as the operator has found it."""

    name: ObjectName
    address: IPAddressText | None = None
    """None while its Server has no address in the network: it gets no connections."""
    second_address: IPAddressText | None = None
    """Its address of the other family: of UDP alone, whose datagrams stay of the family in which they came."""
    port: PortNumber
    weight: Weight = 1
    backup: bool = False


class AssignedListener(ListenerBasics):
    """A listener with the members that it has now."""

    algorithm: BalancingAlgorithm
    members: Annotated[list[AssignedMember], Field(max_length=256)] = Field(default_factory=list)
    health_check: HealthCheck | None = None
    session_persistence: SessionPersistence | None = None
    certificate_version: Annotated[str, Field(max_length=32, pattern=r"^[0-9A-Za-z]+$")] | None = None
    """The resourceVersion of the Secret with its certificate; the host asks the operator for what that holds."""


class AssignedBalancerTakeover(Model):
    """How the addresses go over to the standby without the API.

    The two hosts have a link of the port's MAC each, and one of them the addresses (VRRP, RFC 5798). The other one
    reaches the members from a port of its own.
    """

    priority: Annotated[int, Field(ge=1, le=253)]
    """Of the assigned host in VRRP; the standby's is one more. It grows when the hosts change, so that of two that
    served apart the one stays that did so last."""
    tunnel_address: IPAddressText
    """Where the assigned host is reached."""
    standby_tunnel_address: IPAddressText
    port: ObjectName
    """The Port by which the standby reaches members."""
    port_id: UUIDText = Field(alias="portID")
    mac: MACAddress
    addresses: Annotated[list[CIDRText], Field(min_length=1, max_length=16)]
    """The standby's own."""


class LoadBalancerAssignment(Model):
    """What the operator decided. It survives a restore from a backup."""

    model_config = whole(
        Rule(
            "self.loadBalancerID == oldSelf.loadBalancerID && self.mac == oldSelf.mac && self.portID == oldSelf.portID",
            "a load balancer keeps its identity and its port",
        )
    )

    load_balancer_id: UUIDText = Field(alias="loadBalancerID")
    port: ObjectName
    """The Port that has its address; floating IPs lead to it."""
    port_id: UUIDText = Field(alias="portID")
    mac: MACAddress
    addresses: Annotated[list[CIDRText], Field(min_length=1, max_length=16)]
    """Its addresses, each with the prefix length of its subnet."""
    next_hops: Annotated[list[IPAddressText], Field(max_length=2)] = Field(default_factory=list)
    """The gateways of its subnets, one for each family."""
    network: ObjectName
    network_namespace: Name
    vni: Annotated[int, Field(ge=1, le=16777215)]
    security_groups: Annotated[list[ObjectName], Field(max_length=16)] = Field(default_factory=list)
    """Those of its port; without any the project's `default`."""
    host: HostName
    """The host that has the addresses."""
    standby: HostName | None = None
    """The host that is chosen to take over."""
    takeover: AssignedBalancerTakeover | None = None
    """How it does; None where the operator moves the addresses."""
    listeners: Annotated[list[AssignedListener], Field(max_length=32)] = Field(default_factory=list)


class LoadBalancerSpec(Model):
    """The address, the ports that it listens on, and who serves them."""

    description: Annotated[str, Field(max_length=1024)] = ""
    network: Annotated[
        Reference,
        Field(json_schema_extra=ruled(Rule("self == oldSelf", "network cannot change: make another load balancer"))),
    ]
    address: IPAddressText | None = None
    """Its address (Octavia's VIP); a free one if it is not given."""
    security_groups: GroupReferences = Field(default_factory=list)
    """The groups of its port: members let in the load balancer as a member of these. What it listens on is open to all
    that `allowedCIDRs` names, whatever these groups say."""
    listeners: Annotated[list[Listener], Field(max_length=32, json_schema_extra=list_map("name"))] = Field(
        default_factory=list
    )
    assignment: LoadBalancerAssignment | None = None
    """Written by the operator only."""

    model_config = validated(
        Rule(
            "has(self.address) ? has(oldSelf.address) && self.address == oldSelf.address : !has(oldSelf.address)",
            "address cannot change: make another load balancer",
            ".address",
        ),
        Rule("!has(self.address) || isIP(self.address)", "address is not an IP address", ".address"),
        Rule(
            "self.listeners.all(a, self.listeners.filter(b, b.port == a.port && "
            "(b.protocol == 'UDP') == (a.protocol == 'UDP')).size() == 1)",
            "two listeners have the same port",
            ".listeners",
        ),
        Rule(
            "has(self.assignment) || !has(oldSelf.assignment)",
            "a load balancer keeps its identity and its port",
            ".assignment",
        ),
    )


class LoadBalancer(Kind):
    """An address that spreads connections over servers (Octavia's load balancer)."""

    definition: ClassVar = Definition(
        plural="loadbalancers",
        short_names=("klb",),
        columns=(
            Column("Ready", ".status.conditions[?(@.type=='Ready')].status"),
            Column("Reason", ".status.conditions[?(@.type=='Ready')].reason"),
            Column("Address", ".status.address"),
            Column("Host", ".spec.assignment.host", priority=1),
            Column("Standby", ".spec.assignment.standby", priority=1),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
        selectable=(".spec.assignment.host", ".spec.assignment.standby"),
        rules=(
            Rule(
                "self.metadata.name.size() <= 59 && !self.metadata.name.contains('.')",
                "a load balancer's name is a name in its network's DNS: at most 59 characters, no dots",
            ),
        ),
    )

    spec: LoadBalancerSpec
    status: LoadBalancerStatus | None = None
