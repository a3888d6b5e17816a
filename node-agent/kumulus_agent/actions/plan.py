"""What a ServerAction asks of an instance (pure).

Each act can be cut off at any step and be gone on with by the next agent: what was done is known by the action's uid,
in the domain that was started for it or in the journal beside the instance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from kumulus_agent.servers.desired import Desired
from kumulus_agent.servers.plan_power import brought, going_down
from kumulus_agent.servers.terms import ALIVE, DONE, POWER_STATES, Act, Action, Observed, Plan, Power, Report, Step
from kumulus_api.server_action import ActionPhase, ActionReason, ActionType
from kumulus_api.server_status import ObservedPowerState, ReadyReason


def acted(act: Act, desired: Desired, observed: Observed, stop_seconds: float) -> Plan:
    """Decide what an open action asks for, and what is to be told of it.

    Args:
        act: which; not a migration.
        desired: an instance of ours.
        observed: of the epoch of its assignment, or absent.
        stop_seconds: how long its guest may take to shut down.
    """
    decide = _ACTS.get(act.type)
    if decide is not None:
        return decide(act, desired, observed, stop_seconds)
    message = f"{act.type}: the agent of this host does not know it; permanent: upgrade it, then ask again"
    failed = Report(ActionPhase.FAILED, ActionReason.UNSUPPORTED.value, message)
    return replace(brought(desired, observed, stop_seconds), report=failed)


def _reboot(act: Act, desired: Desired, observed: Observed, stop_seconds: float) -> Plan:
    been = observed.power in ALIVE or observed.off_by_guest or observed.power is Power.CRASHED
    if observed.started_for == act.uid and been:
        return replace(brought(desired, observed, stop_seconds), report=DONE)
    if not desired.running:
        made = brought(desired, observed, stop_seconds)
        return replace(made, report=DONE if observed.started_for == act.uid else _overtaken(act, desired))
    polite = not act.hard and observed.power in (Power.RUNNING, Power.STOPPING) and stop_seconds > 0
    if polite and observed.pressed_for is None:
        step = Step(Action.PRESS_FOR_ACTION, f"{act.type} {act.name}")
        return replace(going_down(observed, stop_seconds), steps=(step,))
    if polite and observed.pressed_for is not None and observed.pressed_for < stop_seconds:
        return going_down(observed, stop_seconds - observed.pressed_for)
    steps = []
    if observed.power in ALIVE:
        why = f"it did not shut down within {stop_seconds:.0f} s" if polite else f"{act.type} {act.name}"
        steps.append(Step(Action.SWITCH_OFF, why))
    if observed.power is Power.SUSPENDED:
        steps.append(Step(Action.DISCARD_MEMORY, f"{act.type} {act.name}"))
    steps.append(Step(Action.START, f"{act.type} {act.name}"))
    return Plan(tuple(steps), ReadyReason.RUNNING, ObservedPowerState.RUNNING, report=DONE)


def _overtaken(act: Act, desired: Desired) -> Report:
    message = f"{act.type}: powerState was set to {desired.rest} meanwhile; permanent: the newer wish holds"
    return Report(ActionPhase.FAILED, ActionReason.ABORTED.value, message)


def _start(act: Act, desired: Desired, observed: Observed, stop_seconds: float) -> Plan:
    if observed.power in ALIVE:
        return replace(brought(desired, observed, stop_seconds), report=DONE)
    return _reboot(act, desired, observed, stop_seconds)


def _rebuild(act: Act, desired: Desired, observed: Observed, stop_seconds: float) -> Plan:
    if observed.rebuilt:
        return replace(brought(desired, observed, stop_seconds), report=DONE)
    why = f"{act.type} {act.name}"
    # The image first: one that cannot be had leaves the server as it is.
    steps = [Step(Action.FETCH, why)]
    if observed.power in ALIVE:
        steps.append(Step(Action.SWITCH_OFF, why))
    steps.append(Step(Action.REBUILD, why))
    if not desired.running:
        power = ObservedPowerState.SHELVED if desired.shelved else ObservedPowerState.STOPPED
        return Plan(tuple(steps), ReadyReason.STOPPED, power, look_again=0.0)
    steps.append(Step(Action.START, why))
    return Plan(tuple(steps), ReadyReason.RUNNING, ObservedPowerState.RUNNING, report=DONE)


def _rescue(act: Act, desired: Desired, observed: Observed, stop_seconds: float) -> Plan:
    return _changed(desired.rescue_id == act.uid, desired, observed, stop_seconds)


def _unrescue(_act: Act, desired: Desired, observed: Observed, stop_seconds: float) -> Plan:
    return _changed(desired.rescue is None, desired, observed, stop_seconds)


def _changed(seen: bool, desired: Desired, observed: Observed, stop_seconds: float) -> Plan:
    """Go on until the guest runs from the disk that it shall run from; `seen` is whether the Server says so yet."""
    made = brought(desired, observed, stop_seconds)
    there = observed.rescue == desired.rescue_id or (desired.rescue is None and observed.power not in ALIVE)
    settled = there and made.ready not in (ReadyReason.STOPPING, ReadyReason.STARTING)
    return replace(made, report=DONE) if seen and (settled or Action.START in made.actions) else made


def _reset(_act: Act, desired: Desired, observed: Observed, stop_seconds: float) -> Plan:
    steps = [Step(Action.FORGET_FAILURES, "its state is reset")]
    if observed.power in (Power.OFF, Power.CRASHED):
        steps.append(Step(Action.FORGET_SHUTDOWN, "its state is reset"))
    made = brought(desired, observed, stop_seconds)
    return Plan(tuple(steps), made.ready, made.power, made.message, look_again=0.0, report=DONE)


def _create_image(act: Act, desired: Desired, observed: Observed, stop_seconds: float) -> Plan:
    made, copy = brought(desired, observed, stop_seconds), observed.copy
    if copy is not None and copy.report is not None:
        return replace(made, report=copy.report)
    if copy is None and _MOVES & made.actions:
        return replace(made, look_again=0.0)
    if copy is None:
        return replace(made, steps=(*made.steps, Step(Action.COPY_DISK, f"{act.type} {act.name}")))
    if copy.offline and Action.START in made.actions:
        # What a guest writes now would be in the copy in part.
        message = "it is started when its disk has been copied"
        return Plan((), ReadyReason.PENDING, POWER_STATES[observed.power], message)
    return made


def _set_password(act: Act, desired: Desired, observed: Observed, stop_seconds: float) -> Plan:
    made = brought(desired, observed, stop_seconds)
    if observed.attempt is not None:
        return replace(made, report=observed.attempt.report)
    if observed.power is not Power.RUNNING or made.ready is not ReadyReason.RUNNING:
        message = f"{act.type}: the guest does not run any more; permanent: ask again when it is Active"
        return replace(made, report=Report(ActionPhase.FAILED, ActionReason.ILLEGAL_STATE.value, message))
    return replace(made, steps=(*made.steps, Step(Action.SET_PASSWORD, f"{act.type} {act.name}")))


_MOVES = frozenset({Action.START, Action.SWITCH_OFF, Action.SAVE, Action.PRESS_POWER_BUTTON})

_ACTS: dict[ActionType, Callable[[Act, Desired, Observed, float], Plan]] = {
    ActionType.START: _start,
    ActionType.REBOOT: _reboot,
    ActionType.REBUILD: _rebuild,
    ActionType.RESCUE: _rescue,
    ActionType.UNRESCUE: _unrescue,
    ActionType.RESET_STATE: _reset,
    ActionType.CREATE_IMAGE: _create_image,
    ActionType.SET_PASSWORD: _set_password,
}
