"""What to do about one instance: a pure function of what is asked and what is there."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from kumulus_agent.servers.desired import Desired
from kumulus_api.server import ObservedPowerState, ReadyReason

CRASH_PAUSE = 30.0
"""Seconds that a guest must have run for its crash to be answered by an immediate start."""


class Power(StrEnum):
    """What libvirt says of the domain."""

    ABSENT = "Absent"
    OFF = "Off"
    RUNNING = "Running"
    PAUSED = "Paused"
    STOPPING = "Stopping"
    CRASHED = "Crashed"


_ALIVE = frozenset({Power.RUNNING, Power.PAUSED, Power.STOPPING})


class Claim(StrEnum):
    """What a live read of the API says about an instance that is on this host.

    ``OURS``: a Server is assigned to this host with this instance. ``DELETING``: the same, and its deletion was asked
    for. ``ABSENT``: no such Server. ``ELSEWHERE``: the Server has another host or another instance.
    """

    OURS = "Ours"
    DELETING = "Deleting"
    ABSENT = "Absent"
    ELSEWHERE = "Elsewhere"


@dataclass(frozen=True, slots=True)
class Observed:
    """An instance as it is on this host.

    Attributes:
        power: of the domain.
        epoch: that the domain was started for; 0 without a domain.
        off_by_guest: the guest turned itself off, and nobody wanted anything else since.
        shutdown_recorded: and that is written down beside the domain.
        plugged: taps that are joined to their network.
        carried: VNIs of the networks that this host keeps up to date.
        remains: whether disks, seed or log of the instance exist.
        uptime: seconds since this agent started the domain; None if another did.
        stopping_for: seconds since the power button was pressed; None if it was not.
        revoked: the Host's list of revoked instances names it with its epoch or a later one.
        told_generation: of the spec that the status last spoke of, while the guest ran or after it turned itself off;
            0 if the status tells of neither.
    """

    power: Power = Power.ABSENT
    epoch: int = 0
    off_by_guest: bool = False
    shutdown_recorded: bool = False
    plugged: frozenset[str] = frozenset()
    carried: frozenset[int] = frozenset()
    remains: bool = False
    uptime: float | None = None
    stopping_for: float | None = None
    revoked: bool = False
    told_generation: int = 0


class Action(StrEnum):
    """The verbs of the agent, in the order in which they come."""

    CARRY = "carry the networks"
    START = "start"
    PLUG = "plug in"
    PRESS_POWER_BUTTON = "press the power button"
    SWITCH_OFF = "switch off"
    FORGET_SHUTDOWN = "forget the guest's shutdown"
    RECORD_SHUTDOWN = "record the guest's shutdown"
    UNPLUG = "take the interfaces away"
    REMOVE = "remove"
    RELEASE = "release the object"
    REPORT = "report as unclaimed"


@dataclass(frozen=True, slots=True)
class Step:
    """One act and why."""

    action: Action
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in order, and what the status says once they are done.

    Attributes:
        steps: what to do.
        ready: reason of the Ready condition afterwards; None leaves the status alone.
        power: power state afterwards.
        message: of the Ready condition.
        look_again: seconds after which to look again, if nothing calls before.
    """

    steps: tuple[Step, ...] = ()
    ready: ReadyReason | None = None
    power: ObservedPowerState = ObservedPowerState.UNKNOWN
    message: str = ""
    look_again: float | None = None
    actions: frozenset[Action] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "actions", frozenset(step.action for step in self.steps))


def plan(desired: Desired | None, observed: Observed, claim: Claim, stop_seconds: float = 20.0) -> Plan:
    """Decide.

    Args:
        desired: what the API asks; None if no Server object is known for the instance.
        observed: what is there.
        claim: what the API says about the instance; anything but ``OURS`` from a live read.
        stop_seconds: how long a guest may take to shut down.

    Returns:
        The plan; it has no steps where everything is as asked.
    """
    if desired is not None and claim is Claim.DELETING:
        return _removal(desired, observed)
    if desired is None or claim is not Claim.OURS:
        return _unclaimed(observed, claim)
    if observed.power is not Power.ABSENT and observed.epoch != desired.epoch:
        return _revocation() if observed.revoked else _foreign_epoch(desired, observed)
    if observed.power in _ALIVE and observed.stopping_for is not None and observed.stopping_for < stop_seconds:
        wait = stop_seconds - observed.stopping_for
        return Plan((), ReadyReason.STOPPING, _POWER_STATES[observed.power], "the guest is going down", wait)
    return _running(desired, observed) if desired.running else _stopped(observed, stop_seconds)


def _removal(desired: Desired, observed: Observed) -> Plan:
    if observed.power is not Power.ABSENT and observed.epoch > desired.epoch:
        # The object is older than the guest (a restored backup): its deletion says nothing about this guest.
        return _foreign_epoch(desired, observed)
    steps = [Step(Action.REMOVE, "the Server is being deleted")]
    if desired.finalizer:
        steps.append(Step(Action.RELEASE, "nothing of it is left on this host"))
    return Plan(tuple(steps))


def _revocation() -> Plan:
    return Plan((Step(Action.REMOVE, "the instance was revoked from this host"),), look_again=0.0)


def _unclaimed(observed: Observed, claim: Claim) -> Plan:
    if observed.revoked and (observed.power is not Power.ABSENT or observed.remains):
        return _revocation()
    if observed.power is Power.ABSENT:
        return Plan()
    why = "no Server claims it" if claim is Claim.ABSENT else "its Server is assigned otherwise"
    return Plan((Step(Action.REPORT, why),))


def _foreign_epoch(desired: Desired, observed: Observed) -> Plan:
    message = (
        f"the instance on this host is of epoch {observed.epoch}, the assignment of epoch {desired.epoch}: "
        "neither is touched until the operator settles it"
    )
    return Plan(
        (Step(Action.REPORT, message),),
        ready=ReadyReason.START_FAILED,
        power=_POWER_STATES[observed.power],
        message=message,
    )


_POWER_STATES = {
    Power.ABSENT: ObservedPowerState.STOPPED,
    Power.OFF: ObservedPowerState.STOPPED,
    Power.RUNNING: ObservedPowerState.RUNNING,
    Power.STOPPING: ObservedPowerState.RUNNING,
    Power.PAUSED: ObservedPowerState.PAUSED,
    Power.CRASHED: ObservedPowerState.CRASHED,
}


def _running(desired: Desired, observed: Observed) -> Plan:
    if observed.power in (Power.RUNNING, Power.PAUSED):
        return _kept(desired, observed)
    if observed.power is Power.STOPPING:
        return Plan((), ReadyReason.STOPPING, ObservedPowerState.RUNNING, "the guest is going down", look_again=1.0)
    asked_since = 0 < observed.told_generation < desired.generation
    if observed.off_by_guest and not desired.restart_after_guest_shutdown and not asked_since:
        steps = []
        if not observed.shutdown_recorded:
            steps.append(Step(Action.RECORD_SHUTDOWN, "the guest turned itself off"))
        if observed.plugged & {port.tap for port in desired.ports}:
            steps.append(Step(Action.UNPLUG, "it is off"))
        return Plan(
            tuple(steps),
            ReadyReason.STOPPED_BY_GUEST,
            ObservedPowerState.STOPPED,
            "the guest turned itself off: set powerState to Stopped and back to Running to start it",
        )
    if observed.power is Power.CRASHED and observed.uptime is not None and observed.uptime < CRASH_PAUSE:
        message = f"QEMU ended after {observed.uptime:.0f} s; it is started again after {CRASH_PAUSE:.0f} s"
        wait = CRASH_PAUSE - observed.uptime
        return Plan((), ReadyReason.CRASHED, ObservedPowerState.CRASHED, message, look_again=wait)
    # A powerState that was set to Stopped and back while nobody looked has left only a newer generation.
    off_by_guest = observed.off_by_guest and not asked_since
    return Plan(
        (Step(Action.START, _START_REASONS[observed.power, off_by_guest]),),
        ReadyReason.RUNNING,
        ObservedPowerState.RUNNING,
    )


_START_REASONS = {
    (Power.ABSENT, False): "it is not here yet",
    (Power.OFF, False): "it shall run and is off",
    (Power.OFF, True): "the guest turned itself off and shall be restarted",
    (Power.CRASHED, False): "QEMU crashed",
    (Power.CRASHED, True): "QEMU crashed",
}


def _kept(desired: Desired, observed: Observed) -> Plan:
    steps = []
    missing = [network for network in desired.networks if network.vni not in observed.carried]
    if missing:
        names = ", ".join(f"{network.namespace}/{network.name}" for network in missing)
        steps.append(Step(Action.CARRY, f"its guest uses {names}"))
    unplugged = [port for port in desired.ports if port.tap not in observed.plugged]
    if unplugged:
        steps.append(Step(Action.PLUG, "not connected: " + ", ".join(port.name for port in unplugged)))
    paused = observed.power is Power.PAUSED
    return Plan(tuple(steps), ReadyReason.PAUSED if paused else ReadyReason.RUNNING, _POWER_STATES[observed.power])


def _stopped(observed: Observed, stop_seconds: float) -> Plan:
    heeds = observed.power in (Power.RUNNING, Power.STOPPING)
    if heeds and observed.stopping_for is None and stop_seconds > 0:
        return Plan(
            (Step(Action.PRESS_POWER_BUTTON, "it shall be stopped"),),
            ReadyReason.STOPPING,
            _POWER_STATES[observed.power],
            "the guest is going down",
            look_again=stop_seconds,
        )
    steps = []
    if observed.power in _ALIVE:
        why = f"it did not shut down within {stop_seconds:.0f} s" if heeds else "a paused guest cannot shut down"
        steps.append(Step(Action.SWITCH_OFF, why))
    elif observed.off_by_guest:
        steps.append(Step(Action.FORGET_SHUTDOWN, "the user's wish is newer"))
    if observed.power in _ALIVE or observed.plugged:
        steps.append(Step(Action.UNPLUG, "it is off"))
    return Plan(tuple(steps), ReadyReason.STOPPED, ObservedPowerState.STOPPED)
