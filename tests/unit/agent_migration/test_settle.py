"""Where a guest is when nobody knows: a model of two libvirts and a protocol that may be cut at any step."""

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kumulus_agent.migration.plan import State, Verdict, View, settle


@pytest.mark.parametrize(
    ("source", "target", "verdict"),
    [
        (View(State.RUNNING), View(State.UNREACHABLE), Verdict.STAYED),
        (View(State.RUNNING), View(State.STILL), Verdict.STAYED),
        (View(State.RUNNING), View(State.RUNNING, persistent=True), Verdict.BOTH),
        (View(State.RUNNING, busy=True), View(State.ABSENT), Verdict.WAIT),
        (View(State.UNREACHABLE), View(State.ABSENT), Verdict.WAIT),
        (View(State.STILL), View(State.UNREACHABLE), Verdict.WAIT),
        (View(State.STILL), View(State.ABSENT), Verdict.RESUME),
        (View(State.STILL), View(State.OFF), Verdict.RESUME),
        (View(State.STILL), View(State.STILL), Verdict.WAIT),
        (View(State.STILL), View(State.RUNNING), Verdict.ARRIVED),
        (View(State.STILL), View(State.PAUSED, persistent=True), Verdict.ARRIVED),
        (View(State.STILL), View(State.STILL, persistent=True), Verdict.WAIT),
        (View(State.STILL), View(State.OFF, persistent=True), Verdict.ARRIVED),
        (View(State.STILL), View(State.OFF, persistent=True, unfinished=True), Verdict.RESUME),
        (View(State.ABSENT), View(State.OFF, persistent=True, unfinished=True), Verdict.ARRIVED),
        (View(State.PAUSED), View(State.ABSENT), Verdict.STAYED),
        (View(State.PAUSED), View(State.PAUSED, persistent=True), Verdict.ARRIVED),
        (View(State.OFF), View(State.ABSENT), Verdict.STAYED),
        (View(State.ABSENT), View(State.RUNNING), Verdict.ARRIVED),
        (View(State.ABSENT), View(State.UNREACHABLE), Verdict.WAIT),
        (View(State.RUNNING), View(State.TORN, persistent=True), Verdict.BOTH),
        (View(State.TORN), View(State.UNREACHABLE), Verdict.WAIT),
        (View(State.TORN), View(State.TORN, persistent=True), Verdict.REPAIR),
        (View(State.STILL), View(State.TORN, persistent=True), Verdict.REPAIR),
        (View(State.TORN), View(State.RUNNING, persistent=True), Verdict.ARRIVED),
        (View(State.TORN), View(State.OFF, persistent=True), Verdict.LOST),
        (View(State.TORN), View(State.ABSENT), Verdict.END),
        (View(State.OFF), View(State.TORN, persistent=True), Verdict.WAIT),
        (View(State.ABSENT), View(State.OFF, persistent=True), Verdict.ARRIVED),
    ],
)
def test_the_table(source: View, target: View, verdict: Verdict) -> None:
    """Each pair of answers has one verdict; an unreachable hypervisor lets nothing be destroyed or started."""
    assert settle(source, target) is verdict


def test_patience_ends() -> None:
    """What stays half there at the target is cleared away, never what has arrived."""
    assert settle(View(State.STILL), View(State.STILL), patient=False) is Verdict.CLEAR
    assert settle(View(State.STILL), View(State.STILL, persistent=True), patient=False) is Verdict.ARRIVED
    torn = View(State.TORN, persistent=True)
    assert settle(View(State.ABSENT), torn, patient=False) is Verdict.CLEAR
    assert settle(View(State.TORN), torn, patient=False) is Verdict.REPAIR


@dataclass
class Libvirts:
    """What the two libvirtds hold, as libvirt's third migration protocol leaves it.

    Attributes:
        step: of the protocol, None when no client drives it.
        told: what the action says: a report is written before anything is done, and at the end.
    """

    source: View = field(default_factory=lambda: View(State.RUNNING, persistent=True))
    target: View = field(default_factory=lambda: View(State.ABSENT))
    step: str | None = None
    begun: bool = False
    told: Verdict | None = None
    reachable: bool = True
    flipped: bool = False


_STEPS = ("prepared", "performing", "performed", "defined", "finished", "confirmed")


class Protocol(RuleBasedStateMachine):
    """Begin, go on, and be cut: the agents, the connection and the libvirtds, at any step and again."""

    def __init__(self) -> None:
        super().__init__()
        self.world = Libvirts()
        self.lost = False

    @precondition(lambda self: not self.world.begun)
    @rule()
    def begin(self) -> None:
        """The source tells that it begins."""
        self.world.begun = True
        self.world.step = "begun"

    @precondition(lambda self: self.world.step == "performing")
    @rule()
    def post_copy(self) -> None:
        """The guest goes on at the target with a part of its memory."""
        self.world.step = "torn"
        self.world.source = self.world.target = View(State.TORN, persistent=True)

    @precondition(lambda self: self.torn)
    @rule(source=st.booleans(), defined=st.booleans())
    def half_dies(self, source: bool, defined: bool) -> None:
        """QEMU ends at one of the hosts; at the target perhaps so early that it was not defined there yet."""
        world = self.world
        world.step, self.lost = None, True
        if source:
            world.source = View(State.OFF, persistent=True)
        else:
            world.target = View(State.OFF, persistent=True) if defined else View(State.ABSENT)

    @property
    def torn(self) -> bool:
        """Whether both halves of a post-copy are there."""
        return self.world.source.state is self.world.target.state is State.TORN

    @precondition(lambda self: self.world.step is not None)
    @rule()
    def go_on(self) -> None:
        """Libvirt's client takes its next step."""
        world = self.world
        if world.step == "torn":
            world.step, world.target = "finished", View(State.RUNNING, persistent=True)
            return
        step = _STEPS[0] if world.step == "begun" else _STEPS[_STEPS.index(str(world.step)) + 1]
        world.step = step
        if step == "prepared":
            world.target = View(State.STILL, busy=True)
        elif step == "performing":
            world.source = View(State.RUNNING, busy=True, persistent=True)
        elif step == "performed":
            world.source = View(State.STILL, persistent=True)
        elif step == "defined":
            world.target = View(State.STILL, persistent=True)
        elif step == "finished":
            world.target = View(State.RUNNING, persistent=True)
        else:
            world.source = View(State.ABSENT)
            world.step, world.told = None, Verdict.ARRIVED

    @precondition(lambda self: self.world.step is not None)
    @rule(heard=st.booleans())
    def cut(self, heard: bool) -> None:
        """The agent, the link or the target's libvirtd ends: the own libvirtd hears no word of the client after it."""
        world = self.world
        if world.step == "performed" and heard:
            # The order to finish was on its way: it runs at the target, and nobody here knows.
            world.target = View(State.RUNNING, persistent=True)
        elif world.step in ("begun", "prepared", "performing", "performed"):
            world.target = View(State.STILL) if heard and world.target.state is State.STILL else View(State.ABSENT)
            if world.step == "performing":
                world.source = View(State.RUNNING, persistent=True)
        elif world.step == "defined" and heard:
            world.target = View(State.RUNNING, persistent=True)
        world.step = None

    @precondition(lambda self: self.world.target.state is State.STILL and self.world.step is None)
    @rule()
    def cleaned_up(self) -> None:
        """The target's libvirtd ends what was coming when it notices that nobody sends any more.

        One that died when the guest was defined there, and had not gone on, does it as it begins again: before the
        patience of who asks is at its end.
        """
        defined = self.world.target.persistent
        self.world.target = View(State.OFF, persistent=True, unfinished=True) if defined else View(State.ABSENT)

    @rule(reachable=st.booleans())
    def network(self, reachable: bool) -> None:
        """The target can be asked, or not."""
        self.world.reachable = reachable

    @precondition(lambda self: self.world.begun and self.world.step is None and self.world.told is None)
    @rule(patient=st.booleans())
    def ask(self, patient: bool) -> None:
        """An agent that finds a migration begun asks both, and does what follows."""
        world = self.world
        if not patient and world.target == View(State.STILL, persistent=True):
            self.cleaned_up()
        there = world.target if world.reachable else View(State.UNREACHABLE)
        verdict = settle(world.source, there, patient=patient)
        if verdict is Verdict.RESUME:
            world.source = View(State.RUNNING, persistent=True)
        elif verdict in (Verdict.ARRIVED, Verdict.LOST):
            world.source = View(State.ABSENT)
            world.told = verdict
        elif verdict is Verdict.CLEAR:
            self.lost = self.lost or world.target.state is State.TORN
            defined = world.target.persistent
            world.target = View(State.OFF, persistent=True) if defined else View(State.ABSENT)
        elif verdict is Verdict.REPAIR:
            world.target = View(State.RUNNING, persistent=True)
        elif verdict is Verdict.END:
            world.source = View(State.OFF, persistent=True)
        elif verdict is Verdict.STAYED:
            world.told = verdict

    @precondition(lambda self: self.world.told is not None and not self.world.flipped)
    @rule()
    def flip(self) -> None:
        """The operator makes the target the host, or takes it away; what did not come is cleared then."""
        world = self.world
        world.flipped = True
        if world.told is Verdict.STAYED and not world.target.runs:
            world.target = View(State.ABSENT)

    @invariant()
    def never_two(self) -> None:
        """At no moment do both run."""
        assert not (self.world.source.state is State.RUNNING and self.world.target.runs)

    @invariant()
    def never_none(self) -> None:
        """The guest is whole somewhere, or its halves are both there; unless a QEMU with one of them has ended."""
        here = self.world.source.state in (State.RUNNING, State.STILL)
        assert here or self.world.target.arrived or self.torn or self.lost

    @invariant()
    def told_where_it_is(self) -> None:
        """What the operator is told is where the guest is."""
        if self.world.told is Verdict.ARRIVED:
            assert self.world.target.arrived or (self.lost and self.world.target.persistent)
        if self.world.told is Verdict.LOST:
            assert self.lost
            assert self.world.target.persistent
        if self.world.told is Verdict.STAYED:
            assert self.world.source.state is State.RUNNING or (self.lost and not self.world.target.persistent)


TestProtocol = Protocol.TestCase
TestProtocol.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
