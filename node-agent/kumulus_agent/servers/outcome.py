"""What applying a plan has brought, and what follows from it for the status."""

from __future__ import annotations

from dataclasses import dataclass, field

from kumulus_agent.passthrough.facts import Passed
from kumulus_agent.servers.coming import HeldUp, held_up
from kumulus_agent.servers.desired import Desired
from kumulus_agent.servers.devices import DevicesChanged, detached
from kumulus_agent.servers.errors import StepFailed
from kumulus_agent.servers.status import Found, Part, started_parts
from kumulus_agent.servers.terms import POWER_STATES, Action, Observed, Plan, Power
from kumulus_api.server_status import ObservedPowerState, ServerConditionType

WIRED = frozenset({ObservedPowerState.RUNNING, ObservedPowerState.PAUSED, ObservedPowerState.RESCUED})
_IN_MEMORY = WIRED | {ObservedPowerState.SUSPENDED}


@dataclass
class Outcome:
    """What applying a plan has brought; see `Found` for `size`; `passed` is None if what it has of the host stayed."""

    durations: dict[str, int] | None = None
    failure: StepFailed | None = None
    failed: Action | None = None
    wait: float | None = None
    devices: DevicesChanged = field(default_factory=DevicesChanged)
    size: tuple[int, int] | None = None
    passed: tuple[Passed, ...] | None = None

    def change(self, devices: DevicesChanged) -> None:
        """Note what came of attaching or detaching."""
        self.devices = self.devices.and_(devices)
        self.wait = min((wait for wait in (self.wait, devices.look_again) if wait is not None), default=None)


def found_after(observed: Observed, desired: Desired, planned: Plan, outcome: Outcome, *, acting: bool) -> Found:
    """Give what the status is made of once a plan was carried out, or a step of it has failed.

    Args:
        observed: the instance before.
        desired: as it should be.
        planned: what was to be done; it has a reason for Ready.
        outcome: what came of that.
        acting: it was done for a ServerAction.
    """
    failure = outcome.failure
    passed = observed.passed if outcome.passed is None else outcome.passed
    if failure is not None:
        part = Part(status=False, reason=failure.detail, message=failure.message)
        parts = {failure.part: part} if isinstance(failure.part, ServerConditionType) else {}
        return Found(
            _power_after(observed.power, outcome.failed), failure.reason, failure.message, parts, passed=passed
        )
    if planned.ready is None:
        raise ValueError("a plan that leaves the status alone has nothing to tell")
    up = {**(started_parts() if planned.power in WIRED else {}), **outcome.devices.parts}
    return Found(
        planned.power,
        planned.ready,
        planned.message,
        up,
        outcome.durations,
        outcome.size or _size_after(observed, desired, planned, acting=acting),
        detached=detached(desired, observed, outcome.devices),
        held_up=held_up_after(observed, desired, planned, acting=acting),
        other_machine=has_other_machine(observed, desired, planned, acting=acting),
        passed=passed,
        bound=observed.devices.bound if observed.devices is not None else frozenset(),
    )


def _size_after(observed: Observed, desired: Desired, planned: Plan, *, acting: bool) -> tuple[int, int] | None:
    """Give what the guest has once a plan was carried out; None if it is not in memory."""
    if planned.power not in _IN_MEMORY:
        return None
    anew = _started_anew(observed, planned, acting=acting)
    return (desired.vcpus, desired.memory) if anew else observed.size


def held_up_after(observed: Observed, desired: Desired, planned: Plan, *, acting: bool) -> HeldUp:
    """Say what a guest in memory gets, or loses, at its next start only, once a plan was carried out."""
    if planned.power not in _IN_MEMORY or _started_anew(observed, planned, acting=acting):
        return HeldUp()
    return held_up(desired, observed)


def has_other_machine(observed: Observed, desired: Desired, planned: Plan, *, acting: bool) -> bool:
    """Say whether a guest in memory has another machine than it gets at its next start, once a plan was carried out."""
    if planned.power not in _IN_MEMORY or _started_anew(observed, planned, acting=acting):
        return False
    # Limits of the root disk are set as it runs.
    there = observed.machine(desired.hardware).but_limits
    return there != desired.hardware.but_limits or observed.has_other_devices


def _started_anew(observed: Observed, planned: Plan, *, acting: bool) -> bool:
    from_memory = observed.power is Power.SUSPENDED and not acting
    return Action.START in planned.actions and not from_memory


def _power_after(power: Power, failed: Action | None) -> ObservedPowerState:
    """Give the power state after a step has failed: whoever could not be suspended runs on, others are off."""
    if failed is Action.SAVE or power in (Power.CRASHED, Power.SUSPENDED):
        return POWER_STATES[power]
    return ObservedPowerState.STOPPED
