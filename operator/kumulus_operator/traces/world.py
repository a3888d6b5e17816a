"""What leading a trace looks at, and what follows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kumulus_api import FloatingIP, Network, Port, Server
from kumulus_api.network_trace import TraceHop, TraceLeg, TraceReason, TraceVerdict
from kumulus_api.server_assignment import AssignedPort
from kumulus_operator.views import Key


@dataclass(frozen=True)
class Owner:
    """Who has an address, or is sent what is for it.

    Attributes:
        namespace: of the object.
        host: that answers for the address.
        standby: the host that does so where it has taken over.
        via: the address of a router that the address is routed to; "" where it is somebody's own.
    """

    namespace: str
    host: str | None
    standby: str | None = None
    via: str = ""


@dataclass(frozen=True)
class Origin:
    """Where packets of a load balancer begin: its port, and the hosts of which one has its addresses."""

    port: AssignedPort
    hosts: tuple[str, ...]


@dataclass(frozen=True)
class World:
    """What is looked at; names are of the trace's namespace.

    Attributes:
        server: gives a Server.
        port: gives a Port.
        user: gives the Server that uses a Port.
        floating_ip: gives a FloatingIP.
        network: gives a Network.
        tunnel: gives the host with a tunnel address.
        owner: gives who has an address of the network with a number, or is sent what is for it.
        balancer: gives the load balancer that a Port is of.
        users: gives the hosts of ports that may use an address of the network with a number besides their own.
    """

    server: Callable[[str], Server | None]
    port: Callable[[str], Port | None]
    user: Callable[[str], Server | None]
    floating_ip: Callable[[str], FloatingIP | None]
    network: Callable[[Key], Network | None]
    tunnel: Callable[[str], str | None]
    owner: Callable[[int, str], Owner | None]
    balancer: Callable[[str], Origin | None] = lambda _name: None
    users: Callable[[int, str], Sequence[str]] = lambda _vni, _address: ()


@dataclass(frozen=True)
class Asked:
    """The next leg, and the host that is asked."""

    host: str
    leg: TraceLeg


@dataclass(frozen=True)
class Ended:
    """The verdict, and what is told besides what hosts have told."""

    verdict: TraceVerdict
    hops: tuple[TraceHop, ...] = ()
    reason: TraceReason = TraceReason.TRACED
