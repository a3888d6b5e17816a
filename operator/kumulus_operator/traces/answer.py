"""Where the answer to a packet begins that has passed (pure)."""

from __future__ import annotations

from kumulus_api import NetworkTrace
from kumulus_api.network_trace import (
    HopKind,
    LegOutcome,
    LegStart,
    TracedPacket,
    TraceHop,
    TraceLeg,
    TraceReport,
    TraceVerdict,
)
from kumulus_operator.traces.plan import from_outside, onward, unknown
from kumulus_operator.traces.world import Asked, Ended, World

_REPLIES = {(1, 8): 0, (58, 128): 129}
"""By ICMP's number and type, the type of the reply."""
_ICMP = (1, 58)


def answer_to(trace: NetworkTrace, report: TraceReport, world: World) -> tuple[Asked | Ended, list[TraceHop]]:
    """Say who is asked about the answer, with the hops that are known before.

    Args:
        trace: whose packet has passed.
        report: of the last host on the way there, which is asked first unless the receiver is outside.
        world: what is looked at.
    """
    leg, host = (trace.status.leg, trace.status.host) if trace.status is not None else (None, None)
    if report.packet is None or host is None:
        return unknown(HopKind.HOST, "", "where the answer begins is not told"), []
    given = {"answer": True, "port": report.port, "router": report.router, "vni": report.vni}
    begun = onward(leg, report, reply(report.packet)).model_copy(update=given)
    if report.outcome is LegOutcome.LEFT:
        return _from_outside(trace, begun, world)
    if report.answered_by is None:
        message = (
            "who answers is another project's, or the host's agent is older: what becomes of the answer is not told"
        )
        return unknown(HopKind.HOST, host, message), []
    return Asked(host, begun.model_copy(update={"start": report.answered_by})), []


def _from_outside(trace: NetworkTrace, leg: TraceLeg, world: World) -> tuple[Asked | Ended, list[TraceHop]]:
    """Take for granted that somebody outside answers, to where the packet said that it came from."""
    packet = leg.packet
    owner = world.owner(leg.vni or 0, packet.destination)
    if owner is None:
        message = f"{packet.source} outside answers to {packet.destination}, and nothing here says that it leads there"
        remedy = "have the router translate (enableSNAT), or see that the outside has a route to the router's address"
        return unknown(HopKind.EXTERNAL, "", message, remedy), []
    where = f"{packet.destination}, which it routes to {owner.via}" if owner.via else packet.destination
    message = f"if {packet.source} outside answers, it does so to {where}"
    hop = TraceHop(what=HopKind.EXTERNAL, verdict=TraceVerdict.PASSED, message=message)
    return from_outside(trace, leg.model_copy(update={"start": LegStart.EXTERNAL}), owner), [hop]


def reply(packet: TracedPacket) -> TracedPacket:
    """Give the answer to a packet: of TCP and UDP from port to port, of an echo request its reply."""
    first, second = packet.second, packet.first
    if packet.protocol in _ICMP:
        first, second = _REPLIES.get((packet.protocol, packet.first), packet.first), packet.second
    ends = {"source": packet.destination, "destination": packet.source}
    return TracedPacket(**ends, protocol=packet.protocol, first=first, second=second)
