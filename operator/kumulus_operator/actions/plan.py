"""What a ServerAction gets written (pure): when it is opened, and when it is closed."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from kumulus_api import Server
from kumulus_api.server_action import ENDED, ActionPhase, ActionReason, ServerAction
from kumulus_operator.refusal import Refusal
from kumulus_runtime.conditions import timestamp

Object = dict[str, Any]
_OWN = ("phase", "reason", "message", "host", "target", "instanceID", "epoch", "image", "startedAt", "finishedAt")
"""The operator's fields of the status."""


def phase_of(action: ServerAction) -> ActionPhase:
    """Give how far an action is."""
    found = action.status.phase if action.status is not None else None
    return found or ActionPhase.PENDING


def ended(action: ServerAction) -> bool:
    """Give whether nothing more comes of an action."""
    return phase_of(action) in ENDED


def first_open(actions: Iterable[ServerAction]) -> ServerAction | None:
    """Give the action of a server that is due: the one that runs, else the oldest; the name decides between equals."""
    waiting = [item for item in actions if not ended(item)]
    if not waiting:
        return None

    def order(item: ServerAction) -> tuple[bool, str, str]:
        running = phase_of(item) is ActionPhase.RUNNING
        return (not running, item.metadata.creation_timestamp or "", item.metadata.name)

    return min(waiting, key=order)


def own_status(action: ServerAction) -> Object:
    """Give the operator's part of the status."""
    found = action.status.dump() if action.status is not None else {}
    return {name: found[name] for name in _OWN if name in found}


def waiting(behind: str) -> Object:
    """Give the status of an action that waits for an earlier one."""
    message = f"waits for the action {behind} of the same server; transient: begun when that has ended"
    return {"phase": ActionPhase.PENDING.value, "reason": ActionReason.WAITING.value, "message": message}


def opened(server: Server, now: datetime) -> Object:
    """Give the status of an action that the agent of the server's host carries out from now on."""
    given = server.spec.assignment
    out: Object = {
        "phase": ActionPhase.RUNNING.value,
        "reason": ActionReason.IN_PROGRESS.value,
        "message": "",
        "startedAt": timestamp(now),
    }
    if given is not None:
        out |= {"host": given.host, "instanceID": given.instance_id, "epoch": given.epoch}
    return out


def closed(action: ServerAction, phase: ActionPhase, reason: str, message: str, now: datetime) -> Object:
    """Give the status of an action that has ended."""
    own = own_status(action)
    return own | {"phase": phase.value, "reason": reason, "message": message, "finishedAt": timestamp(now)}


def refused(action: ServerAction, refusal: Refusal, now: datetime) -> Object:
    """Give the status of an action that was not begun."""
    return closed(action, ActionPhase.FAILED, refusal.reason, refusal.message, now)


def reported(action: ServerAction, now: datetime) -> Object | None:
    """Give the status that an agent's final report leads to, or None while it goes on."""
    report = action.status.report if action.status is not None else None
    if report is None or report.outcome not in ENDED:
        return None
    return closed(action, report.outcome, report.reason, report.message, now)


def outdated(history: Iterable[ServerAction], kept: int, days: float, now: datetime) -> list[ServerAction]:
    """Give those ended actions of one server that are beyond the newest `kept`, or older than `days`."""
    done = sorted((item for item in history if ended(item)), key=_finished, reverse=True)
    oldest = timestamp(now - timedelta(days=days))
    return [item for number, item in enumerate(done) if number >= kept or _finished(item) < oldest]


def _finished(action: ServerAction) -> str:
    found = action.status.finished_at if action.status is not None else None
    return found or ""
