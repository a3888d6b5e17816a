"""Where a guest is after a migration whose end nobody has heard (pure): both hypervisors are asked, and judged here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """What a host's libvirtd says of the guest."""

    ABSENT = "Absent"
    OFF = "Off"
    RUNNING = "Running"
    STILL = "Still"
    """It stands still for the migration's sake."""
    PAUSED = "Paused"
    """It stands still because somebody wants it so."""
    UNREACHABLE = "Unreachable"


@dataclass(frozen=True, slots=True)
class View:
    """A guest as one hypervisor sees it.

    Attributes:
        state: of the domain.
        busy: a migration job goes on.
        persistent: the domain is defined: an incoming one is only when it has arrived.
    """

    state: State
    busy: bool = False
    persistent: bool = False

    @property
    def arrived(self) -> bool:
        """Whether, at the target, the guest is all there."""
        return self.state is State.RUNNING or (self.persistent and self.state in (State.PAUSED, State.STILL))


class Verdict(StrEnum):
    """What follows."""

    WAIT = "Wait"
    """Ask again."""
    STAYED = "Stayed"
    """The guest is at its source, as before."""
    RESUME = "Resume"
    """It stands still at its source, and is nowhere else: it goes on there."""
    ARRIVED = "Arrived"
    """It is at the target; what is left at the source goes."""
    CLEAR = "Clear"
    """What is half there at the target goes; then it is asked again."""
    BOTH = "Both"
    """Both say that it runs, which the protocol excludes: nothing is touched."""


_UNKNOWN = View(State.UNREACHABLE)


def settle(source: View, target: View = _UNKNOWN, *, patient: bool = True) -> Verdict:
    """Say where a guest is.

    Args:
        source: as the source's hypervisor sees it.
        target: as the target's does.
        patient: what is half there at the target may still go by itself.
    """
    if source.busy or source.state is State.UNREACHABLE:
        return Verdict.WAIT
    if source.state is State.RUNNING:
        # libvirt wakes the guest at its source only after it has ended it at the target, or before it began there.
        return Verdict.BOTH if target.arrived and target.state is State.RUNNING else Verdict.STAYED
    if target.state is State.UNREACHABLE:
        return Verdict.WAIT
    if target.arrived:
        return Verdict.ARRIVED
    if target.state in (State.STILL, State.PAUSED):
        return Verdict.WAIT if patient else Verdict.CLEAR
    return Verdict.RESUME if source.state is State.STILL else Verdict.STAYED
