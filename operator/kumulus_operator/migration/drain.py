"""Empty a host that is in maintenance: its running servers migrate away, a few at a time (pure).

Servers that are off stay: they hinder no maintenance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from kumulus_api import Condition, Server
from kumulus_api.host import DrainReason
from kumulus_api.server_action import MIGRATIONS, ActionPhase, ServerAction
from kumulus_api.server_status import ObservedPowerState, ServerConditionType
from kumulus_operator.actions.plan import ended, phase_of
from kumulus_operator.views import Key

AT_ONCE = 2
AGAIN_SECONDS = 300.0
_NAMED = 5
_ON = frozenset({ObservedPowerState.RUNNING, ObservedPowerState.PAUSED, ObservedPowerState.UNKNOWN})


@dataclass(frozen=True, slots=True)
class Drain:
    """What to do now, and what the Host says of it.

    Attributes:
        begin: servers that are told to migrate.
        drained: no guest runs there any more.
        reason: of the condition.
        message: of the condition: what is left, and what holds it.
    """

    begin: tuple[Key, ...]
    drained: bool
    reason: DrainReason
    message: str = ""


def plan_drain(servers: Sequence[Server], actions: Mapping[Key, Sequence[ServerAction]], now: datetime) -> Drain:
    """Say which servers of a host leave it next.

    Args:
        servers: those that are assigned to it.
        actions: of each, by the server's key.
        now: the present.
    """
    left = sorted((server for server in servers if _runs(server)), key=lambda server: server.key)
    if not left:
        return Drain((), drained=True, reason=DrainReason.DRAINED)
    moves = {server.key: _moves(actions.get(server.key, ())) for server in left}
    going = {key for key, found in moves.items() if found and not ended(found[-1])}
    blockers = {server.key: why for server in left if server.key not in going and (why := _blocker(server, moves))}
    ready = [
        server.key
        for server in left
        if server.key not in going and _movable(server) and _rested(moves[server.key], now)
    ]
    begin = tuple(ready[: max(0, AT_ONCE - len(going))])
    told = [f"{'/'.join(key)}: {why}" for key, why in sorted(blockers.items())]
    message = f"{len(left)} servers run here" + (f"; held: {'; '.join(told[:_NAMED])}" if told else "")
    message += f" and {len(told) - _NAMED} more" if len(told) > _NAMED else ""
    reason = DrainReason.BLOCKED if len(told) == len(left) else DrainReason.DRAINING
    return Drain(begin, drained=False, reason=reason, message=message[:2048])


def _runs(server: Server) -> bool:
    return not server.deleting and server.status is not None and server.status.power_state in _ON


def _moves(actions: Sequence[ServerAction]) -> list[ServerAction]:
    found = [item for item in actions if item.spec.type in MIGRATIONS]
    return sorted(found, key=lambda item: (ended(item) is False, item.metadata.creation_timestamp or ""))


def _condition(server: Server) -> Condition | None:
    conditions = server.status.conditions if server.status is not None else []
    return next((item for item in conditions if item.type == ServerConditionType.LIVE_MIGRATABLE), None)


def _movable(server: Server) -> bool:
    found = _condition(server)
    return found is None or found.status == "True"


def _blocker(server: Server, moves: Mapping[Key, Sequence[ServerAction]]) -> str:
    """Say what holds a server: what its condition says, or why its last attempt failed; empty if nothing does."""
    found = _condition(server)
    if found is not None and found.status != "True":
        return found.reason
    last = moves[server.key][-1] if moves[server.key] else None
    if last is None or last.status is None or phase_of(last) is not ActionPhase.FAILED:
        return ""
    return f"{last.status.reason}: {last.status.message}"[:300]


def _rested(moves: Sequence[ServerAction], now: datetime) -> bool:
    """Whether the last failure is long enough ago for another attempt."""
    status = moves[-1].status if moves else None
    if status is None or status.finished_at is None or status.phase is not ActionPhase.FAILED:
        return True
    return (now - datetime.fromisoformat(status.finished_at)).total_seconds() >= AGAIN_SECONDS
