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
    TORN = "Torn"
    """Its memory lies on two hosts, as a post-copy has begun: it runs at the target as far as what is there reaches."""
    PAUSED = "Paused"
    """It stands still because somebody wants it so."""
    UNREACHABLE = "Unreachable"


@dataclass(frozen=True, slots=True)
class View:
    """A guest as one hypervisor sees it.

    Attributes:
        state: of the domain.
        busy: a migration job goes on.
        persistent: the domain is defined: an incoming one is only from the moment before it goes on.
        unfinished: libvirtd has ended it when it took it up again after its own end, since it had not gone on yet.
    """

    state: State
    busy: bool = False
    persistent: bool = False
    unfinished: bool = False

    @property
    def arrived(self) -> bool:
        """Whether, at the target, the guest is all there and has gone on, or stands still as somebody wants it to."""
        return self.state is State.RUNNING or (self.persistent and self.state is State.PAUSED)

    @property
    def runs(self) -> bool:
        """Whether the guest runs, if only with a part of its memory."""
        return self.state in (State.RUNNING, State.TORN)


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
    LOST = "Lost"
    """The same, but a part of its memory is nowhere any more: it starts anew from its disk at the target."""
    END = "End"
    """Its memory went over in part and is nowhere at the target: it starts anew from its disk."""
    CLEAR = "Clear"
    """What is half there at the target goes; then it is asked again."""
    REPAIR = "Repair"
    """It runs at the target and needs the rest of its memory: the post-copy goes on."""
    BOTH = "Both"
    """Both say that it runs, which the protocol excludes: nothing is touched."""


_UNKNOWN = View(State.UNREACHABLE)


def settle(source: View, target: View = _UNKNOWN, *, patient: bool = True) -> Verdict:
    """Say where a guest is.

    Args:
        source: as the source's hypervisor sees it.
        target: as the target's does.
        patient: what is half there at the target may still go by itself, and what stands still there go on.
    """
    if source.busy or source.state is State.UNREACHABLE:
        return Verdict.WAIT
    if source.state is State.RUNNING:
        # libvirt wakes the guest at its source only after it has ended it at the target, or before it began there.
        return Verdict.BOTH if target.runs else Verdict.STAYED
    return Verdict.WAIT if target.state is State.UNREACHABLE else _stopped(source, target, patient=patient)


def _stopped(source: View, target: View, *, patient: bool) -> Verdict:
    """Say the same of a guest that does not run at its source, once the target has answered."""
    if target.state is State.TORN and source.state in (State.TORN, State.STILL):
        return Verdict.REPAIR
    # Defined there and standing still it is about to go on; or libvirtd, which has begun again, is about to end it.
    if target.arrived or (target.state is State.STILL and target.persistent and not patient):
        return Verdict.ARRIVED
    if target.unfinished and source.state is State.STILL:
        return Verdict.RESUME  # it is defined there and has never gone on there: all of it is here
    if target.state is State.OFF and target.persistent:
        # It is defined there before it goes on there, and has ended since: its disk is there.
        return Verdict.LOST if source.state is State.TORN else Verdict.ARRIVED
    if target.state in (State.STILL, State.PAUSED, State.TORN):
        return Verdict.WAIT if patient else Verdict.CLEAR
    return {State.STILL: Verdict.RESUME, State.TORN: Verdict.END}.get(source.state, Verdict.STAYED)
