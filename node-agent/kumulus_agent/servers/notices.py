"""What people are told of a Server in Events: a pure function of what was planned and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kumulus_agent.servers.errors import StepFailed
from kumulus_agent.servers.terms import Action, Plan, Power
from kumulus_api.server_status import ReadyReason


@dataclass(frozen=True, slots=True)
class Notice:
    """An Event.

    Attributes:
        reason: one CamelCase word.
        message: a sentence.
        warning: somebody may have to act.
        again: it is told as often as it happens; else once in ten minutes.
    """

    reason: str
    message: str
    warning: bool = False
    again: bool = False


def notices(
    planned: Plan,
    power: Power,
    told: str,
    *,
    failure: StepFailed | None = None,
    durations: Mapping[str, int] | None = None,
) -> tuple[Notice, ...]:
    """Say what is worth an Event, which is what a person would ask about: at most two of them.

    Args:
        planned: the plan that was applied.
        power: of the domain before.
        told: reason of the Ready condition before, empty if there was none.
        failure: what made the start fail, if anything did.
        durations: milliseconds of the steps of a start.
    """
    if Action.START in planned.actions:
        crashed = (_CRASHED,) if power is Power.CRASHED else ()
        if failure is not None:
            return (*crashed, Notice(failure.reason.value, failure.message, warning=True))
        total = (durations or {}).get("total", 0)
        return (*crashed, Notice("Started", f"started in {total} ms", again=True))
    if Action.REMOVE in planned.actions:
        return (Notice("Removed", "nothing of it is left on its host"),) if planned.ready is None else ()
    if planned.ready is None or planned.ready.value == told:
        return ()
    return _changed(planned, told)


_CRASHED = Notice("Crashed", "QEMU ended although nobody asked it to; it is started again", warning=True, again=True)
_WAS_ON = frozenset(
    {
        ReadyReason.RUNNING.value,
        ReadyReason.STOPPING.value,
        ReadyReason.PAUSED.value,
        ReadyReason.RESCUED.value,
        ReadyReason.HOST_DISK_FULL.value,
    }
)
_KEPT = {
    ReadyReason.SUSPENDED: "its memory is on the disk, Running goes on from there",
    ReadyReason.SHELVED: "it is off, its vCPUs and memory are given back",
}
_BAD = frozenset({ReadyReason.CRASHED, ReadyReason.START_FAILED, ReadyReason.ILLEGAL_STATE, ReadyReason.HOST_DISK_FULL})
_ON_AGAIN = frozenset({ReadyReason.PAUSED.value, ReadyReason.HOST_DISK_FULL.value})


def _changed(planned: Plan, told: str) -> tuple[Notice, ...]:
    if planned.ready is not None and planned.ready in _BAD:
        return (Notice(planned.ready.value, planned.message, warning=True),)
    if planned.ready is ReadyReason.STOPPED and told in _WAS_ON:
        forced = [step.reason for step in planned.steps if step.action is Action.SWITCH_OFF]
        return (Notice("Stopped", f"switched off: {forced[0]}" if forced else "stopped", again=True),)
    if planned.ready is ReadyReason.STOPPED_BY_GUEST:
        return (Notice("StoppedByGuest", planned.message, again=True),)
    if planned.ready is ReadyReason.PAUSED:
        by_fault = bool(planned.message)
        return (Notice("Paused", planned.message or "paused", warning=by_fault, again=not by_fault),)
    resumed = "it goes on" if planned.ready is ReadyReason.RUNNING and told in _ON_AGAIN else ""
    kept = resumed or _KEPT.get(planned.ready or ReadyReason.RUNNING, "")
    if kept:
        return (Notice("Resumed" if resumed else str(planned.ready), kept, again=True),)
    return ()
