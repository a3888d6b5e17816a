"""What applying a plan has brought, and what follows from it for the status."""

from __future__ import annotations

from dataclasses import dataclass, field

from kumulus_agent.compute.domain_xml import machine_text
from kumulus_agent.servers.desired import Desired
from kumulus_agent.servers.devices import DevicesChanged, held_up
from kumulus_agent.servers.errors import StepFailed
from kumulus_agent.servers.terms import POWER_STATES, Action, Observed, Plan, Power
from kumulus_api.server_status import ObservedPowerState

WIRED = frozenset({ObservedPowerState.RUNNING, ObservedPowerState.PAUSED, ObservedPowerState.RESCUED})
_IN_MEMORY = WIRED | {ObservedPowerState.SUSPENDED}


@dataclass
class Outcome:
    """What applying a plan has brought; see `Found` for `size`."""

    durations: dict[str, int] | None = None
    failure: StepFailed | None = None
    failed: Action | None = None
    wait: float | None = None
    devices: DevicesChanged = field(default_factory=DevicesChanged)
    size: tuple[int, int] | None = None

    def change(self, devices: DevicesChanged) -> None:
        """Note what came of attaching or detaching."""
        self.devices = self.devices.and_(devices)
        self.wait = min((wait for wait in (self.wait, devices.look_again) if wait is not None), default=None)


def size_after(observed: Observed, desired: Desired, planned: Plan, *, acting: bool) -> tuple[int, int] | None:
    """Give what the guest has once a plan was carried out; None if it is not in memory."""
    if planned.power not in _IN_MEMORY:
        return None
    anew = _started_anew(observed, planned, acting=acting)
    return (desired.vcpus, desired.memory) if anew else observed.size


def held_up_after(observed: Observed, desired: Desired, planned: Plan, *, acting: bool) -> tuple[str, ...]:
    """Give the volumes that a guest in memory gets, or loses, at its next start only, once a plan was carried out."""
    if planned.power not in _IN_MEMORY or _started_anew(observed, planned, acting=acting):
        return ()
    return held_up(desired, observed.devices)


def has_other_machine(observed: Observed, desired: Desired, planned: Plan, *, acting: bool) -> bool:
    """Say whether a guest in memory has another machine than it gets at its next start, once a plan was carried out."""
    if planned.power not in _IN_MEMORY or observed.machine is None or _started_anew(observed, planned, acting=acting):
        return False
    return observed.machine != machine_text(desired.hardware)


def _started_anew(observed: Observed, planned: Plan, *, acting: bool) -> bool:
    from_memory = observed.power is Power.SUSPENDED and not acting
    return Action.START in planned.actions and not from_memory


def power_after(power: Power, failed: Action | None) -> ObservedPowerState:
    """Give the power state after a step has failed: whoever could not be suspended runs on, others are off."""
    if failed is Action.SAVE or power in (Power.CRASHED, Power.SUSPENDED):
        return POWER_STATES[power]
    return ObservedPowerState.STOPPED
