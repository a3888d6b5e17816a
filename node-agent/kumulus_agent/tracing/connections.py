"""Tracked connections, as a trace needs them: what a host knows of an answer once the packet has passed (pure).

Nothing is sent, so no connection is in a kernel's table. What would be there follows from the way of the packet: in
each network namespace and conntrack zone that it passed, its addresses as it came and as it went on. Where an answer
comes by one of them, it is established and translated back; where it comes by none, it is to the kernel what it is
without its question: a datagram begins a connection, a segment that acknowledges and an echo reply are invalid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from kumulus_agent.network.groups import ICMP, Flow
from kumulus_agent.tracing.words import STATES, STATUSES

if TYPE_CHECKING:
    from kumulus_agent.tracing.nft import Frame

NEW, ESTABLISHED = STATES["new"], STATES["established"]
INVALID, UNTRACKED = STATES["invalid"], STATES["untracked"]
_TRACK, _DESTINATION, _SOURCE = -200, -100, 100
"""Priorities at which the kernel looks for the connection, and translates destination and source."""
_UDP: Final = 17
_PORTS: Final = (6, 17, 33, 132, 136)
_REPLIES: Final = {(1, 8): 0, (58, 128): 129}
"""By protocol and type of an echo request, the type of its reply."""


@dataclass(frozen=True, slots=True)
class Connection:
    """What is tracked in a zone of a network namespace: the first packet as it came, and as it went on.

    Attributes:
        mac: the packet's source on a bridge, which has heard it since.
    """

    place: str
    zone: int
    begun: Flow
    left: Flow
    mac: str = ""

    @property
    def status(self) -> int:
        """Bits of its status, once it is answered."""
        first, last = self.begun, self.left
        redirected = (first.destination, first.second) != (last.destination, last.second)
        hidden = (first.source, first.first) != (last.source, last.first)
        found = STATUSES["confirmed"] | STATUSES["seen-reply"]
        return found | (STATUSES["dnat"] if redirected else 0) | (STATUSES["snat"] if hidden else 0)


def reply(flow: Flow) -> Flow:
    """Give the answer to a packet: of TCP and UDP from port to port, of an echo request its reply."""
    if flow.protocol in ICMP.values():
        kind = _REPLIES.get((flow.protocol, flow.first), flow.first)
        return Flow(flow.protocol, flow.destination, flow.source, kind, flow.second)
    return Flow(flow.protocol, flow.destination, flow.source, flow.second, flow.first)


def steps(hook: str, families: Sequence[str]) -> list[tuple[int, Callable[[Frame], Frame]]]:
    """Give what connection tracking does at a hook besides the rules, with its priorities, in order."""
    if families == ("bridge",):
        return []
    if hook in ("prerouting", "output"):
        return [(_TRACK, track), (_DESTINATION, _destination_back)]
    if hook in ("postrouting", "input"):
        return [(_SOURCE, _source_back)]
    return []


def track(frame: Frame) -> Frame:
    """Find the connection of a packet."""
    if frame.state == UNTRACKED or not frame.answer:
        return frame
    found = known(frame.known, frame.zone, frame.flow)
    if found is not None:
        return replace(frame, state=ESTABLISHED, translated=found.status, connection=found)
    return replace(frame, state=NEW if frame.flow.protocol == _UDP else INVALID, connection=None)


def known(connections: Iterable[Connection], zone: int, flow: Flow) -> Connection | None:
    """Give the connection that a packet answers."""
    return next((item for item in connections if item.zone == zone and reply(item.left) == flow), None)


def _destination_back(frame: Frame) -> Frame:
    if frame.connection is None:
        return frame
    begun, flow = frame.connection.begun, frame.flow
    port = begun.first if flow.protocol in _PORTS else flow.second
    return replace(frame, flow=replace(flow, destination=begun.source, second=port))


def _source_back(frame: Frame) -> Frame:
    if frame.connection is None:
        return frame
    begun, flow = frame.connection.begun, frame.flow
    port = begun.second if flow.protocol in _PORTS else flow.first
    return replace(frame, flow=replace(flow, source=begun.destination, first=port))
