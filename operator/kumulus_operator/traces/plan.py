"""Where a trace begins, and where it goes on after a host's report (pure)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import ip_address, ip_network
from typing import Any

from kumulus_api import NetworkTrace, Server
from kumulus_api.base import LocalReference
from kumulus_api.network_trace import (
    HopKind,
    LegOutcome,
    LegStart,
    TracedConnection,
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
from kumulus_operator.traces.world import Asked, Ended, Owner, World
from kumulus_operator.views import Key
from kumulus_runtime.conditions import get_condition, set_condition, timestamp

OPEN_AT_ONCE = 4
"""So many traces of a project ask hosts at the same time; the others wait."""
ANSWER = timedelta(seconds=15)
"""A host that has not reported then does not."""
LIFETIME = timedelta(minutes=10)
"""Traces go so long after they were made, ended or not."""
_LEGS, _ALL_LEGS = 8, 16
"""So many hosts are asked about the packet, and with its answer."""
_CONNECTIONS, _SEEKERS = 64, 5
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
    (host, *others), ports = _source(source.server, source.port, world)
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
    packet = _packet(trace, own, text)
    leg = TraceLeg(number=1, start=LegStart.PORT, port=port.port, packet=packet, first=packet, others=others)
    return Asked(host, leg)


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
) -> tuple[Sequence[str], Sequence[AssignedPort]]:
    """Give the hosts of which one has the source, and its ports."""
    if server is not None:
        return _placed(_there(world.server(server.name), "server", server.name))
    name = port.name if port is not None else ""
    _there(world.port(name), "port", name)
    user, balancer = world.user(name), world.balancer(name)
    if user is not None:
        hosts, ports = _placed(user)
        return hosts, [item for item in ports if item.port == name]
    if balancer is None:
        message = f"placement: no server and no load balancer has port {name}; transient: ask again when one has"
        raise refuse(TraceReason.NOT_PLACED, message)
    return balancer.hosts, (balancer.port,)


def _placed(server: Server) -> tuple[Sequence[str], Sequence[AssignedPort]]:
    given = server.spec.assignment
    if given is None:
        message = f"placement: server {server.metadata.name} is on no host; transient: ask again when it is"
        raise refuse(TraceReason.NOT_PLACED, message)
    return (given.host,), given.ports


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
    """Say what follows from the report of the host that was asked: of the packet, or of its answer."""
    if report.outcome in _ENDS:
        return Ended(_ENDS[report.outcome])
    leg = trace.status.leg if trace.status is not None else None
    packet, number, last = report.packet, report.leg + 1, _ALL_LEGS if leg is not None and leg.answer else _LEGS
    if packet is None or number > last:
        return unknown(HopKind.HOST, "", "the way is longer than a trace follows it")
    following = onward(leg, report, packet)
    if report.outcome in (LegOutcome.SOUGHT, LegOutcome.FOUND) and leg is not None:
        return _sought(trace, leg, report, world)
    if report.outcome is LegOutcome.WAITING and leg is not None and leg.others:
        host, *others = leg.others
        given = {"number": number, "others": others, "connections": following.connections}
        return Asked(host, leg.model_copy(update=given))
    if report.outcome is LegOutcome.TUNNELLED and not following.answer:
        return Ended(TraceVerdict.PASSED)
    return _to_another(trace, report, following, world)


def _to_another(trace: NetworkTrace, report: TraceReport, leg: TraceLeg, world: World) -> Asked | Ended:
    """Say who is asked about a packet that has left a host."""
    if report.outcome is LegOutcome.FORWARDED and report.vni is not None:
        host = world.tunnel(report.tunnel_address or "") or ""
        if not host:
            return unknown(HopKind.TUNNEL, "", f"no Host has the tunnel address {report.tunnel_address}")
        return Asked(host, leg.model_copy(update={"start": LegStart.OVERLAY, "vni": report.vni}))
    if report.outcome is LegOutcome.LEFT and report.vni is not None:
        return _outside(trace, leg.model_copy(update={"vni": report.vni}), world)
    return unknown(HopKind.HOST, "", "where it goes on from there is not told")


def _sought(trace: NetworkTrace, leg: TraceLeg, report: TraceReport, world: World) -> Asked | Ended:
    """Have hosts asked for an address, and the packet go on when one has said that it has it."""
    here = trace.status.host if trace.status is not None else None
    number = {"number": report.leg + 1}
    if report.outcome is LegOutcome.FOUND and leg.origin is not None:
        mac = report.packet.destination_mac if report.packet is not None else None
        packet = leg.packet.model_copy(update={"destination_mac": mac})
        given = {"start": LegStart.PORT, "packet": packet, "vni": None, "via": None, "origin": None, "others": []}
        return Asked(leg.origin, leg.model_copy(update=number | given))
    hosts = [host for host in world.users(report.vni or 0, report.sought or "") if host != here]
    if not hosts:
        return Ended(TraceVerdict.DROPPED)
    first, *others = hosts[:_SEEKERS]
    given = {"start": LegStart.SOUGHT, "vni": report.vni, "via": report.sought, "origin": here, "others": others}
    return Asked(first, leg.model_copy(update=number | given))


def told_by(report: TraceReport, following: Asked | Ended) -> Sequence[TraceHop]:
    """Give the hops of a report that stay: what led to an address that is sought is told when it is found."""
    return () if report.outcome is LegOutcome.SOUGHT and isinstance(following, Asked) else report.hops


def onward(leg: TraceLeg | None, report: TraceReport, packet: TracedPacket) -> TraceLeg:
    """Give the next leg, with what is known from those before; where it begins is yet to be said."""
    known: list[TracedConnection] = [*(leg.connections if leg is not None else ()), *report.connections]
    return TraceLeg(
        number=report.leg + 1,
        start=LegStart.EXTERNAL,
        packet=packet,
        answer=leg is not None and leg.answer,
        first=leg.first if leg is not None else None,
        connections=known[:_CONNECTIONS],
    )


def _outside(trace: NetworkTrace, leg: TraceLeg, world: World) -> Asked | Ended:
    """Say who is meant by a packet that has left a host by a physical network."""
    packet = leg.packet
    owner = world.owner(leg.vni or 0, packet.destination)
    if owner is None and leg.answer:
        message = f"the answer has left to {packet.destination}: nobody in the cloud has that address outside"
        return unknown(HopKind.EXTERNAL, "", message, "have the answer go back the way that the packet came")
    return Ended(TraceVerdict.PASSED) if owner is None else from_outside(trace, leg, owner)


def from_outside(trace: NetworkTrace, leg: TraceLeg, owner: Owner) -> Asked | Ended:
    """Have a packet come in from outside, at the host of whoever has its destination."""
    target = leg.packet.destination
    if owner.namespace != trace.key[0]:
        message = f"{target} is another project's: what becomes of it there is for its members to see"
        return unknown(HopKind.EXTERNAL, "", message)
    if owner.host is None:
        message = f"{target} leads nowhere: no host answers for it"
        remedy = "look at the conditions of the object that has the address"
        hop = TraceHop(what=HopKind.EXTERNAL, verdict=TraceVerdict.DROPPED, message=message, remedy=remedy)
        return Ended(TraceVerdict.DROPPED, (hop,))
    others = [owner.standby] if owner.standby else []
    given = {"start": LegStart.EXTERNAL, "via": owner.via or None, "others": others}
    return Asked(owner.host, leg.model_copy(update=given))


def silent(host: str) -> Ended:
    """Say that a host does not answer."""
    message = f"host {host} was asked and does not say"
    ended = unknown(HopKind.HOST, host, message, "look at the Host's conditions and at its agent")
    return Ended(ended.verdict, ended.hops, TraceReason.HOST_SILENT)


def unknown(what: HopKind, host: str, message: str, remedy: str = "") -> Ended:
    """End where nobody can say what becomes of the packet."""
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


def asking(
    trace: NetworkTrace, asked: Asked, hops: Sequence[TraceHop], now: datetime, passed: Sequence[TraceHop] = ()
) -> dict[str, Any]:
    """Give the status with which a host is asked: about the packet, or of one that `passed` so about its answer."""
    told = {"host": asked.host, "leg": asked.leg.dump(), "askedAt": timestamp(now)}
    message = f"host {asked.host} is asked" + (" about the answer" if asked.leg.answer else "")
    status = _status(trace, TraceReason.ASKING, message, now, done=False) | told
    if not asked.leg.answer:
        return status | {"hops": _dumped(hops)}
    return status | _there_and_back(passed, {"hops": _dumped(hops)})


def ended(
    trace: NetworkTrace,
    end: Ended,
    hops: Sequence[TraceHop],
    now: datetime,
    passed: Sequence[TraceHop] | None = None,
) -> dict[str, Any]:
    """Give the status of a trace that has its verdict; of a packet that `passed` so, its answer's."""
    told = [*hops, *end.hops]
    message = told[-1].message if told else ""
    status = _status(trace, end.reason, message, now, done=True)
    if passed is None:
        return status | {"hops": _dumped(told), "verdict": end.verdict.value}
    answer = {"hops": _dumped(told), "verdict": end.verdict.value, "message": message[:1024]}
    return status | _there_and_back(passed, answer)


def _there_and_back(passed: Sequence[TraceHop], answer: dict[str, Any]) -> dict[str, Any]:
    return {"hops": _dumped(passed), "verdict": TraceVerdict.PASSED.value, "answer": answer}


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
