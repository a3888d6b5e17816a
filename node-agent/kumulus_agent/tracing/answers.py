"""The sentences of a trace about answers (pure): known by their connection, or judged as what they are without it."""

from __future__ import annotations

from collections.abc import Sequence

from kumulus_agent.network.groups import Direction, Flow, Groups, stateless
from kumulus_agent.network.state import PortDesired
from kumulus_agent.tracing import told
from kumulus_agent.tracing.connections import INVALID
from kumulus_agent.tracing.nft import Frame, Passage
from kumulus_agent.tracing.state import Hop
from kumulus_api.network_trace import HopKind, TraceVerdict

_BACK = (
    "have the answer go back by the router that the question came by: look at the receiver's routes and floating IPs"
)
_KINDS: dict[Direction, HopKind] = {"egress": HopKind.EGRESS_RULES, "ingress": HopKind.INGRESS_RULES}


def judged(port: PortDesired, groups: Groups, direction: Direction, passage: Passage) -> Hop:
    """Say why a port's rules let an answer through or drop it.

    Args:
        port: as it was applied.
        groups: those that it is in.
        direction: as seen from the port.
        passage: what the kernel does, and the chains that it asks.
    """
    frame, passed = passage.frame, not passage.dropped
    looked = any(chain.startswith(f"{direction}-") for chain in passage.path)
    if port.groups is not None and passed and frame.connection is not None and not looked:
        message = "it answers a connection that this host tracks: no rule is asked"
        return Hop(_KINDS[direction], port.tap, TraceVerdict.PASSED, message)
    hop = told.judged(port, groups, direction, frame.flow, passed=passed)
    if passed or port.groups is None:
        return hop
    why = "this host tracks no connection that it answers"
    if frame.connection is not None:
        why = "this host's rules do not let answers pass by their connection"
    if stateless(port.groups, groups):
        why = "the group is stateless: answers need a rule of their own"
    if frame.flow.second >= 1024 and frame.flow.protocol in (6, 17):
        why += f"; {frame.flow.second} stands for any port that a client may take"
    return Hop(hop.what, hop.name, hop.verdict, f"{hop.message}; {why}", hop.remedy)


def strange(what: HopKind, name: str, flow: Flow, wanted: Flow) -> Hop:
    """Say that what comes to the asker is not what was asked."""
    message = f"it comes as {told.packet(flow)}, and what was asked is {told.packet(wanted)}: no answer"
    return Hop(what, name, TraceVerdict.DROPPED, message, _BACK)


def unknown_to(router: str, chain: str) -> Hop:
    """Say that a router drops an answer whose question it has not seen."""
    message = (
        f"it answers no connection that the router tracks on this host, which does not let it pass (chain {chain})"
    )
    return Hop(HopKind.ROUTER, router, TraceVerdict.DROPPED, message, _BACK)


def of_firewall(frame: Frame, router: str, asked: Sequence[tuple[Direction, str]], *, dropped: str) -> Hop | None:
    """Say what a router's firewall does with an answer by its connection alone; None if its rules decide."""
    if frame.connection is not None and not asked and not dropped:
        message = "it answers a connection that the router tracks: the firewall lets it pass"
        return Hop(HopKind.FIREWALL, router, TraceVerdict.PASSED, message)
    if frame.state == INVALID and dropped:
        message = "it answers no connection that the router tracks, and the firewall drops what belongs to none"
        remedy = "look at the way there: it did not pass this router"
        return Hop(HopKind.FIREWALL, router, TraceVerdict.DROPPED, message, remedy)
    return None
