"""What a migration is brought to next (pure): the operator's half of the protocol.

The agents do what cannot be undone; the operator names the target first and flips the host last. While
`assignment.target` is set neither agent starts or destroys the guest other than by the protocol, so nothing here may
take it away before the host of the action has told its end, or is known never to have begun.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from kumulus_api.host import Host, Virtualization
from kumulus_api.server_action import ActionPhase, ActionReason, ServerAction
from kumulus_api.server_assignment import ServerAssignment
from kumulus_operator.refusal import Refusal


class Move(StrEnum):
    """What the operator does about a migration that runs."""

    WAIT = "Wait"
    FLIP = "Flip"
    """The target is the host from now on."""
    CANCEL = "Cancel"
    """The host stays, there is no target any more."""
    CLOSE = "Close"
    """The assignment is as it shall be: only the action is to be closed."""


@dataclass(frozen=True, slots=True)
class Hosts:
    """What is known of the two hosts: silent ones may return, lost ones never do."""

    source_lost: bool = False
    target_lost: bool = False
    target_silent: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """A move, and what the action says when it is done."""

    move: Move
    phase: ActionPhase = ActionPhase.FAILED
    reason: str = ""
    message: str = ""


def decide(action: ServerAction, given: ServerAssignment | None, hosts: Hosts) -> Decision:
    """Say what to do about a migration that runs.

    Args:
        action: whose status names host, target and the epoch with which it began.
        given: the server's assignment as it is; None if the server is gone.
        hosts: what is known of the two.
    """
    status = action.status
    if given is None or status is None or given.instance_id != status.instance_id:
        return Decision(Move.CLOSE, reason=ActionReason.SERVER_NOT_FOUND, message="the server is gone; permanent")
    ended = _ended(action, hosts)
    if given.epoch > (status.epoch or 0):  # flipped already, before this process began
        if ended is not None and ended.move is Move.FLIP:
            return Decision(Move.CLOSE, ended.phase, ended.reason, ended.message)
        message = f"runs on host {given.host}"
        return Decision(Move.CLOSE, ActionPhase.SUCCEEDED, ActionReason.COMPLETED, message)
    if ended is None:
        return Decision(Move.WAIT)
    if given.target is None:
        return Decision(Move.CLOSE, ended.phase, ended.reason, ended.message)
    return ended


def _ended(action: ServerAction, hosts: Hosts) -> Decision | None:
    """Give the end that the agents have told or that can be told without them, or None while it goes on."""
    status = action.status
    report = status.report if status is not None else None
    if report is not None and report.outcome is ActionPhase.SUCCEEDED:
        lost = report.reason == ActionReason.MEMORY_LOST
        reason = ActionReason.MEMORY_LOST if lost else ActionReason.COMPLETED
        return Decision(Move.FLIP, ActionPhase.SUCCEEDED, reason, report.message)
    if report is not None and report.outcome is ActionPhase.FAILED:
        return Decision(Move.CANCEL, ActionPhase.FAILED, report.reason, report.message)
    if hosts.source_lost:
        return _orphaned(action)
    # Once it has begun only its host can tell its end.
    return _never_begun(action, hosts) if report is None else None


def _orphaned(action: ServerAction) -> Decision:
    """Give the end of a migration whose source never returns: the guest has arrived, or it is lost."""
    status = action.status
    source, target = (status.host, status.target) if status is not None else (None, None)
    other = status.target_report if status is not None else None
    if other is not None and other.reason == ActionReason.RECEIVED:
        message = f"host {source} never returns; the guest had arrived at host {target} before"
        return Decision(Move.FLIP, ActionPhase.SUCCEEDED, ActionReason.COMPLETED, message)
    return Decision(Move.CANCEL, ActionPhase.FAILED, ActionReason.HOST_LOST, f"host {source} never returns; permanent")


def _never_begun(action: ServerAction, hosts: Hosts) -> Decision | None:
    """Give the end of a migration that its source has not begun, or None while it may begin."""
    status = action.status
    other = status.target_report if status is not None else None
    if other is not None and other.outcome is ActionPhase.FAILED:
        return Decision(Move.CANCEL, ActionPhase.FAILED, other.reason, other.message)
    if status is not None and (hosts.target_lost or hosts.target_silent):
        message = f"host {status.target} is silent; the server stays on host {status.host}; transient: ask again"
        return Decision(Move.CANCEL, ActionPhase.FAILED, ActionReason.HOST_SILENT, message)
    return None


def impossible(action: ServerAction, source: Host | None) -> Refusal | None:
    """Refuse what the source cannot do: a post-copy without KVM, see ADR 6."""
    asked = action.spec.live_migrate
    status = source.status if source is not None else None
    if asked is None or not asked.post_copy or status is None or status.virtualization is not Virtualization.QEMU:
        return None
    message = (
        "host: it emulates its guests, and an emulator that waits for memory which does not come answers nobody; "
        "permanent there: ask without liveMigrate.postCopy"
    )
    return Refusal(ActionReason.POST_COPY_UNSUPPORTED, message)


def flipped(given: ServerAssignment, target: str) -> dict[str, object]:
    """Give the assignment with the target as host, one epoch on."""
    out = given.dump()
    out.pop("target", None)
    return out | {"host": target, "epoch": given.epoch + 1}


def cancelled(given: ServerAssignment) -> dict[str, object]:
    """Give the assignment without target."""
    out = given.dump()
    out.pop("target", None)
    return out


def heading(given: ServerAssignment, target: str) -> dict[str, object]:
    """Give the assignment with a target."""
    return given.dump() | {"target": target}
