"""Where a trace begins, and where it goes on after a host's report (pure)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import ip_address, ip_network
from typing import Any

from kumulus_api import FloatingIP, Network, NetworkTrace, Port, Server
from kumulus_api.base import LocalReference
from kumulus_api.network_trace import (
    HopKind,
    LegOutcome,
    LegStart,
    TracedPacket,
    TraceHop,
    TraceLeg,
    TraceProtocol,
    TraceReason,
    TraceReport,
    TraceVerdict,
)
from kumulus_api.server_assignment import AssignedPort
from kumulus_operator.refusal import refuse
from kumulus_operator.views import Key
from kumulus_runtime.conditions import get_condition, set_condition, timestamp

OPEN_AT_ONCE = 4
"""So many traces of a project ask hosts at the same time; the others wait."""
ANSWER = timedelta(seconds=15)
"""A host that has not reported then does not."""
LIFETIME = timedelta(minutes=10)
"""Traces go so long after they were made, ended or not."""
_LEGS = 8
_SOURCE_PORT = 49152
_NUMBERS = {TraceProtocol.TCP: 6, TraceProtocol.UDP: 17}
_ECHO = {4: (1, 8), 6: (58, 128)}
"""By family, the number of ICMP, and the type of an echo request."""
_ENDS = {
    LegOutcome.DELIVERED: TraceVerdict.PASSED,
    LegOutcome.DROPPED: TraceVerdict.DROPPED,
    LegOutcome.UNKNOWN: TraceVerdict.UNKNOWN,
}


@dataclass(frozen=True)
class Owner:
    """Who has an address: the namespace of the object, and the host that answers for the address."""

    namespace: str
    host: str | None


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
        owner: gives who has an address of the network with a number.
    """

    server: Callable[[str], Server | None]
    port: Callable[[str], Port | None]
    user: Callable[[str], Server | None]
    floating_ip: Callable[[str], FloatingIP | None]
    network: Callable[[Key], Network | None]
    tunnel: Callable[[str], str | None]
    owner: Callable[[int, str], Owner | None]


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


@dataclass(frozen=True)
class _Target:
    """Addresses, and the network that they are of; None where that is not said."""

    addresses: Sequence[str]
    network: Key | None = field(default=None)


def begin(trace: NetworkTrace, world: World) -> Asked:
    """Give the first leg.

    Raises:
        Refused: the source or destination is not there, or they cannot speak with each other.
    """
    source, target = trace.spec.source, trace.spec.destination
    server, ports = _source(source.server, source.port, world)
    assigned = server.spec.assignment
    if assigned is None:
        message = f"placement: server {server.metadata.name} is on no host; transient: ask again when it is"
        raise refuse(TraceReason.NOT_PLACED, message)
    wanted = _target(trace, world)
    pairs = [
        (_distance(port, wanted, text, world), order, port, own, text)
        for order, port in enumerate(ports)
        for text in wanted.addresses
        for own in port.addresses
        if ip_address(own).version == ip_address(text).version
    ]
    if not pairs:
        told = ", ".join(wanted.addresses) or "no address"
        message = f"address: no port of the source has an address of the family of {told} ({target.dump()}); permanent"
        raise refuse(TraceReason.NO_ADDRESS, message)
    _, _, port, own, text = min(pairs, key=lambda pair: pair[:2])
    leg = TraceLeg(number=1, start=LegStart.PORT, port=port.port, packet=_packet(trace, own, text))
    return Asked(assigned.host, leg)


def _distance(port: AssignedPort, wanted: _Target, address: str, world: World) -> tuple[bool, int]:
    """Prefer the port that is in the receiver's own network, and IPv4."""
    own, found = (port.network_namespace, port.network), ip_address(address)
    if wanted.network is not None:
        return wanted.network != own, found.version
    network = world.network(own)
    subnets = network.spec.subnets if network is not None else []
    return not any(found in ip_network(subnet.cidr) for subnet in subnets), found.version


def _source(
    server: LocalReference | None, port: LocalReference | None, world: World
) -> tuple[Server, Sequence[AssignedPort]]:
    if server is not None:
        found = _there(world.server(server.name), "server", server.name)
        given = found.spec.assignment
        return found, given.ports if given is not None else ()
    name = port.name if port is not None else ""
    _there(world.port(name), "port", name)
    user = world.user(name)
    if user is None:
        message = f"placement: no server has port {name}; transient: ask again when one has"
        raise refuse(TraceReason.NOT_PLACED, message)
    given = user.spec.assignment
    return user, [item for item in (given.ports if given is not None else ()) if item.port == name]


def _target(trace: NetworkTrace, world: World) -> _Target:
    wanted, own = trace.spec.destination, trace.key[0]
    if wanted.server is not None:
        given = _there(world.server(wanted.server.name), "server", wanted.server.name).spec.assignment
        ports = given.ports if given is not None else ()
        first = next(iter(ports), None)
        network = (first.network_namespace, first.network) if first is not None and len(ports) == 1 else None
        return _Target([text for port in ports for text in port.addresses], network)
    if wanted.port is not None:
        port = _there(world.port(wanted.port.name), "port", wanted.port.name)
        reference, place = port.spec.network, port.spec.assignment
        addresses = place.addresses if place is not None else ()
        return _Target(addresses, (reference.namespace or own, reference.name))
    if wanted.floating_ip is not None:
        floating = _there(world.floating_ip(wanted.floating_ip.name), "floating IP", wanted.floating_ip.name)
        assigned = floating.spec.assignment
        return _Target([assigned.address] if assigned is not None else ())
    return _Target([wanted.address] if wanted.address is not None else ())


def _there(found: Any, what: str, name: str) -> Any:
    if found is None:
        raise refuse(TraceReason.NOT_FOUND, f"reference: {what} {name} was not found; permanent")
    return found


def _packet(trace: NetworkTrace, source: str, target: str) -> TracedPacket:
    family = ip_address(target).version
    if trace.spec.protocol is TraceProtocol.ICMP:
        protocol, first = _ECHO[family]
        return TracedPacket(source=source, destination=target, protocol=protocol, first=first)
    number, second = _NUMBERS[trace.spec.protocol], trace.spec.port or 0
    return TracedPacket(source=source, destination=target, protocol=number, first=_SOURCE_PORT, second=second)


def go_on(trace: NetworkTrace, report: TraceReport, world: World) -> Asked | Ended:
    """Say what follows from the report of the host that was asked."""
    if report.outcome in _ENDS:
        return Ended(_ENDS[report.outcome])
    number, packet, vni = report.leg + 1, report.packet, report.vni
    if packet is None or vni is None or number > _LEGS:
        return _unknown(HopKind.HOST, "", "the way is longer than a trace follows it")
    if report.outcome is LegOutcome.FORWARDED:
        host = world.tunnel(report.tunnel_address or "")
        if host is None:
            return _unknown(HopKind.TUNNEL, "", f"no Host has the tunnel address {report.tunnel_address}")
        return Asked(host, TraceLeg(number=number, start=LegStart.OVERLAY, vni=vni, packet=packet))
    return _outside(trace, TraceLeg(number=number, start=LegStart.EXTERNAL, vni=vni, packet=packet), world)


def _outside(trace: NetworkTrace, leg: TraceLeg, world: World) -> Asked | Ended:
    """Say who is meant by a packet that has left a host by a physical network."""
    packet = leg.packet
    owner = world.owner(leg.vni or 0, packet.destination)
    if owner is None:
        return Ended(TraceVerdict.PASSED)
    if owner.namespace != trace.key[0]:
        message = f"{packet.destination} is another project's: what becomes of it there is for its members to see"
        return _unknown(HopKind.EXTERNAL, "", message)
    if owner.host is None:
        message = f"{packet.destination} leads nowhere: no host answers for it"
        hop = TraceHop(
            what=HopKind.EXTERNAL,
            verdict=TraceVerdict.DROPPED,
            message=message,
            remedy="look at the conditions of the object that has the address",
        )
        return Ended(TraceVerdict.DROPPED, (hop,))
    return Asked(owner.host, leg)


def silent(host: str) -> Ended:
    """Say that a host does not answer."""
    message = f"host {host} was asked and does not say"
    ended = _unknown(HopKind.HOST, host, message, "look at the Host's conditions and at its agent")
    return Ended(ended.verdict, ended.hops, TraceReason.HOST_SILENT)


def _unknown(what: HopKind, host: str, message: str, remedy: str = "") -> Ended:
    hop = TraceHop(host=host or None, what=what, verdict=TraceVerdict.UNKNOWN, message=message, remedy=remedy)
    return Ended(TraceVerdict.UNKNOWN, (hop,))


def complete(trace: NetworkTrace) -> bool:
    """Whether a trace has come to its end."""
    found = get_condition(_conditions(trace), "Complete")
    return found is not None and found["status"] == "True"


def is_open(trace: NetworkTrace) -> bool:
    """Whether a host is asked now."""
    return trace.status is not None and trace.status.host is not None


def may_open(traces: Collection[NetworkTrace]) -> bool:
    """Whether one more of a project's traces may ask hosts."""
    return sum(map(is_open, traces)) < OPEN_AT_ONCE


def waiting(trace: NetworkTrace, now: datetime) -> dict[str, Any]:
    """Give the status of a trace whose turn it is not."""
    return _status(trace, TraceReason.WAITING, "waits for other traces of the project", now, done=False)


def asking(trace: NetworkTrace, asked: Asked, hops: Sequence[TraceHop], now: datetime) -> dict[str, Any]:
    """Give the status with which a host is asked."""
    told = {"host": asked.host, "leg": asked.leg.dump(), "askedAt": timestamp(now)}
    message = f"host {asked.host} is asked"
    return _status(trace, TraceReason.ASKING, message, now, done=False) | told | {"hops": _dumped(hops)}


def ended(trace: NetworkTrace, end: Ended, hops: Sequence[TraceHop], now: datetime) -> dict[str, Any]:
    """Give the status of a trace that has its verdict."""
    told = [*hops, *end.hops]
    message = told[-1].message if told else ""
    status = _status(trace, end.reason, message, now, done=True)
    return status | {"hops": _dumped(told), "verdict": end.verdict.value}


def failed(trace: NetworkTrace, reason: str, message: str, now: datetime) -> dict[str, Any]:
    """Give the status of a trace that could not begin."""
    return _status(trace, reason, message, now, done=True)


def _status(trace: NetworkTrace, reason: str, message: str, now: datetime, *, done: bool) -> dict[str, Any]:
    generation = trace.metadata.generation
    conditions = set_condition(_conditions(trace), "Complete", done, str(reason), message[:1024], generation, now)
    return {"observedGeneration": generation, "conditions": conditions, "message": message[:1024], "hops": []}


def _conditions(trace: NetworkTrace) -> list[dict[str, Any]]:
    return trace.status.dump()["conditions"] if trace.status is not None else []


def _dumped(hops: Sequence[TraceHop]) -> list[dict[str, Any]]:
    return [hop.dump() for hop in hops]
