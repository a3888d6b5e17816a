"""What a trace looks at: the host's kernel as it is, and what the agent knows of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

from kumulus_agent.network.groups import Flow
from kumulus_agent.network.state import NetworkDesired, PortDesired
from kumulus_agent.routers.here import RouterLink
from kumulus_agent.servers.desired import NetworkKey
from kumulus_agent.tracing.connections import Connection
from kumulus_agent.tracing.nft import Ruleset
from kumulus_api.network_trace import HopKind, LegOutcome, LegStart, TraceVerdict

Address = IPv4Address | IPv6Address
Object = tuple[str, str]
"""Namespace and name."""


@dataclass(frozen=True, slots=True)
class Link:
    """An interface: whether it is up, whether somebody is at its other end, and the bridge that it is a port of."""

    name: str
    kind: str
    up: bool
    carrier: bool
    master: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A forwarding entry: a MAC behind a bridge's port, or, with a `peer`, behind a VXLAN device's peer."""

    link: str
    mac: str
    peer: str = ""


@dataclass(frozen=True)
class Bridges:
    """The datapath's namespace."""

    links: Mapping[str, Link]
    entries: tuple[Entry, ...]
    rules: Ruleset
    namespace: str = ""


@dataclass(frozen=True)
class RouterView:
    """A router's namespace.

    Attributes:
        addresses: by link.
        macs: by link.
        neighbours: MACs by link and address.
    """

    rules: Ruleset
    addresses: Mapping[str, frozenset[Address]] = field(default_factory=dict)
    macs: Mapping[str, str] = field(default_factory=dict)
    neighbours: Mapping[tuple[str, Address], str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Way:
    """What a route lookup answers.

    Attributes:
        link: by which it goes on.
        via: the next router.
        local: the packet is for the namespace itself.
        refused: why the kernel does not take a packet from that source by that link.
    """

    link: str = ""
    via: Address | None = None
    local: bool = False
    refused: str = ""


@dataclass(frozen=True, slots=True)
class PortHere:
    """A port that is held here: its Port's namespace and name, its network, and what was applied of it."""

    key: Object
    network: NetworkKey
    port: PortDesired


@dataclass(frozen=True)
class NetworkHere:
    """A network that is carried here.

    Attributes:
        applied: as it was made.
        known: the MACs of all its ports by address, as the API tells them.
        moving: addresses of routers that one of two hosts has, whatever the API tells.
    """

    key: NetworkKey
    applied: NetworkDesired
    known: Mapping[Address, str] = field(default_factory=dict)
    moving: frozenset[Address] = frozenset()


@dataclass(frozen=True, slots=True)
class Hop:
    """What the packet meets, and what becomes of it; see `kumulus_api.network_trace.TraceHop`."""

    what: HopKind
    name: str
    verdict: TraceVerdict
    message: str
    remedy: str = ""


@dataclass(frozen=True)
class Result:
    """How the part of the way ends that lies on this host.

    Attributes:
        peer: tunnel address of the next host.
        vni: the network by which the packet left.
        macs: its source and destination then, if they are known.
        connections: what this host tracks since the packet passed.
        answered_by: where the answer begins; None if that is not known.
        port: the Port that answers.
        router: the Router that answers, or by whose VPNConnection the answer comes.
        sought: the address that nobody here has.
    """

    outcome: LegOutcome
    hops: tuple[Hop, ...]
    flow: Flow
    peer: str = ""
    vni: int | None = None
    macs: tuple[str, str] = ("", "")
    connections: tuple[Connection, ...] = ()
    answered_by: LegStart | None = None
    port: str = ""
    router: str = ""
    sought: str = ""


class World(Protocol):
    """This host, as far as a trace has to know it."""

    async def bridges(self) -> Bridges:
        """Read the datapath's namespace."""
        ...

    async def router(self, namespace: str) -> RouterView | None:
        """Read a router's namespace; None if it is not there."""
        ...

    async def route(self, namespace: str, flow: Flow, link: str) -> Way | None:
        """Ask the kernel for the way of a packet; None if there is none.

        Args:
            namespace: of the router.
            flow: the packet.
            link: by which it comes; "" if the namespace itself sends it.
        """
        ...

    async def holds(self, port: PortHere, address: Address) -> bool | None:
        """Tell whether a port that two hosts share has an address here now; None of a port that is not shared."""
        ...

    async def answers(self, port: PortHere, address: Address) -> str:
        """Ask a port's guest for an address; give the MAC that has it, or ""."""
        ...

    def ports(self) -> Mapping[str, PortHere]:
        """Give the ports that are held here, by tap."""
        ...

    def networks(self) -> Mapping[int, NetworkHere]:
        """Give the networks that are carried here, by number."""
        ...

    def router_links(self) -> Mapping[str, RouterLink]:
        """Give the links to routers, by name."""
        ...
