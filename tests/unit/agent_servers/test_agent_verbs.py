"""Every verb on a guest that can be seen through, at each power state, cut off anywhere, and at random."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kumulus_agent.servers.desired import DesiredImage
from kumulus_agent.servers.plan import plan
from kumulus_agent.servers.terms import Action, Claim, Observed, Power, Report
from kumulus_api.server import PowerState
from kumulus_api.server_action import ActionPhase, ActionReason, ActionType
from kumulus_api.server_status import ObservedPowerState, ReadyReason
from kumulus_lab.testing.modelled_host import LIMIT, OFF, OTHER, Guest, Killed, World, brought_to, running


@pytest.mark.parametrize(
    ("wish", "power", "told"),
    [
        (PowerState.RUNNING, Power.RUNNING, ObservedPowerState.RUNNING),
        (PowerState.STOPPED, Power.OFF, ObservedPowerState.STOPPED),
        (PowerState.PAUSED, Power.PAUSED, ObservedPowerState.PAUSED),
        (PowerState.SUSPENDED, Power.SUSPENDED, ObservedPowerState.SUSPENDED),
        (PowerState.SHELVED, Power.OFF, ObservedPowerState.SHELVED),
    ],
)
@pytest.mark.parametrize("obeys", [True, False])
def test_each_power_state_is_reached_and_left(
    wish: PowerState, power: Power, told: ObservedPowerState, *, obeys: bool
) -> None:
    """A running guest is brought to each powerState and back; only one that was off has booted again."""
    world = running(obeys=obeys)
    world.want(wish)
    world.settle()
    assert (world.guest.power, world.told.power) == (power, told)
    world.want(PowerState.RUNNING)
    world.settle()
    assert world.guest.power is Power.RUNNING
    assert world.guest.boots == (2 if power is Power.OFF else 1)


@pytest.mark.parametrize("wish", [PowerState.PAUSED, PowerState.SUSPENDED])
@pytest.mark.parametrize("power", [Power.OFF, Power.ABSENT, Power.CRASHED])
def test_what_is_off_is_neither_paused_nor_suspended(wish: PowerState, power: Power) -> None:
    """A guest that is off is not started in order to be paused: the Server says why it is not."""
    world = World(Guest(power=power), wish)
    world.settle()
    assert world.told.ready is ReadyReason.ILLEGAL_STATE
    assert world.guest.power is power
    assert "permanent" in world.told.message


def test_shelving_what_is_suspended_discards_its_memory() -> None:
    """A suspended server that is shelved is off without saved memory, and boots when it runs again."""
    world = brought_to(PowerState.SUSPENDED)
    world.want(PowerState.SHELVED)
    world.settle()
    assert (world.guest.power, world.told.ready) == (Power.ABSENT, ReadyReason.SHELVED)
    world.want(PowerState.RUNNING)
    world.settle()
    assert world.guest.boots == 2


def test_a_shelved_server_waits_for_its_room() -> None:
    """What was shelved and has given back its room is not started before it has been admitted again."""
    desired = replace(World().desired, shelved=True)
    made = plan(desired, Observed(Power.OFF, 1), Claim.OURS)
    assert (made.steps, made.ready) == ((), ReadyReason.PENDING)


def test_a_crash_without_recovery_stays() -> None:
    """With recovery None a crashed guest stays off until it is asked for, and the Server says that it has crashed."""
    world = running()
    world.recovers = False
    world.guest.power = Power.CRASHED
    world.settle()
    assert (world.guest.power, world.told.power) == (Power.CRASHED, ObservedPowerState.CRASHED)
    world.ask(ActionType.START)
    world.settle()
    assert (world.guest.power, world.guest.boots) == (Power.RUNNING, 2)


def test_start_ends_a_guests_own_shutdown() -> None:
    """A guest that turned itself off runs again after a Start, though powerState was Running all the time."""
    world = running()
    world.guest.power, world.guest.by_guest = Power.OFF, True
    world.settle()
    assert (world.guest.power, world.told.ready) == (Power.OFF, ReadyReason.STOPPED_BY_GUEST)
    world.ask(ActionType.START)
    world.settle()
    assert (world.guest.power, world.report) == (Power.RUNNING, Report(ActionPhase.SUCCEEDED, "Completed"))


@pytest.mark.parametrize("obeys", [True, False])
@pytest.mark.parametrize("hard", [True, False])
def test_a_reboot_is_one_boot(*, hard: bool, obeys: bool) -> None:
    """A reboot starts the guest once; only a soft one asks it first, once, and waits no longer than it may take."""
    world = running(obeys=obeys)
    world.ask(ActionType.REBOOT, hard=hard)
    world.settle()
    assert (world.guest.power, world.guest.boots) == (Power.RUNNING, 2)
    assert world.guest.presses == (0 if hard else 1)
    assert world.report == Report(ActionPhase.SUCCEEDED, "Completed")


@pytest.mark.parametrize("wish", list(PowerState))
def test_a_hard_reboot_ends_in_a_running_guest(wish: PowerState) -> None:
    """Whatever a server was doing, after a hard reboot it runs from its disk and not from saved memory."""
    world = brought_to(wish)
    before = world.guest.boots
    world.ask(ActionType.REBOOT, hard=True)
    world.settle()
    assert (world.guest.power, world.guest.boots) == (Power.RUNNING, before + 1)


VERBS = [
    (ActionType.REBOOT, False, None),
    (ActionType.REBOOT, True, None),
    (ActionType.REBUILD, False, OTHER),
    (ActionType.RESCUE, False, None),
]


@pytest.mark.parametrize("obeys", [True, False])
@pytest.mark.parametrize(("type_", "hard", "image"), VERBS)
@pytest.mark.parametrize("first", range(5))
@pytest.mark.parametrize("second", range(5))
def test_an_agent_that_dies_at_any_step_does_it_once(
    type_: ActionType, image: DesiredImage | None, first: int, second: int, *, hard: bool, obeys: bool
) -> None:
    """However the agent is cut off, twice, in the midst of an act: the guest has booted once for it in the end."""
    world = running(obeys=obeys)
    act = world.ask(type_, hard=hard, image=image)
    for budget in (first, second):
        for _ in range(3):
            try:
                world.step(budget)
            except Killed:
                break
            world.guest.passes(7.0)
    world.settle()
    assert world.guest.power is Power.RUNNING
    assert world.guest.boots == 2
    assert world.report == Report(ActionPhase.SUCCEEDED, "Completed")
    assert world.guest.presses <= 3
    if type_ is ActionType.REBUILD:
        assert (world.guest.disk, act.uid in world.guest.rebuilt) == (OTHER.digest, True)
    if type_ is ActionType.RESCUE:
        assert world.told.power is ObservedPowerState.RESCUED


def test_a_rebuild_of_a_stopped_server_leaves_it_stopped() -> None:
    """A server that is off gets its new disk and stays off."""
    world = brought_to(PowerState.STOPPED)
    world.ask(ActionType.REBUILD, image=OTHER)
    world.settle()
    assert (world.guest.power in OFF, world.guest.disk, world.guest.boots) == (True, OTHER.digest, 1)
    assert world.told.power is ObservedPowerState.STOPPED


def test_a_rebuild_fetches_before_it_destroys() -> None:
    """Nothing is taken from a guest before its new image is at hand."""
    world = running()
    act = world.ask(ActionType.REBUILD, image=OTHER)
    made = plan(world.desired, world.guest.observed(act), Claim.OURS, LIMIT, act)
    order = [step.action for step in made.steps]
    assert order == [Action.FETCH, Action.SWITCH_OFF, Action.REBUILD, Action.START]


@pytest.mark.parametrize("wish", [PowerState.RUNNING, PowerState.STOPPED])
def test_a_rescue_comes_and_goes(wish: PowerState) -> None:
    """A rescued server runs whatever powerState says; after Unrescue it is as powerState says."""
    world = brought_to(wish)
    world.ask(ActionType.RESCUE)
    world.settle()
    assert (world.guest.power, world.told.power) == (Power.RUNNING, ObservedPowerState.RESCUED)
    world.ask(ActionType.UNRESCUE)
    world.settle()
    assert (world.guest.power is Power.RUNNING) is (wish is PowerState.RUNNING)
    assert world.guest.rescue == "" or world.guest.power in OFF


def test_a_wish_that_overtakes_a_reboot_holds() -> None:
    """A powerState that changes while a reboot waits is the last word, and the reboot says that it was given up."""
    world = running(obeys=False)
    world.ask(ActionType.REBOOT)
    world.step()
    world.want(PowerState.STOPPED)
    world.settle()
    assert world.guest.power is Power.OFF
    assert world.report is not None
    assert (world.report.outcome, world.report.reason) == (ActionPhase.FAILED, ActionReason.ABORTED)


def test_resetting_the_state_forgets_a_crash() -> None:
    """After ResetState a crashed server is brought to its powerState again, whatever it had failed at."""
    world = running()
    world.recovers = False
    world.guest.power = Power.CRASHED
    world.settle()
    world.ask(ActionType.RESET_STATE)
    world.settle()
    assert world.guest.power is Power.RUNNING


def test_an_act_of_a_newer_version_is_refused() -> None:
    """An act that this agent does not know ends at once and says so; the guest is left as it is."""
    world = running()
    world.ask(ActionType.LOCK)
    world.settle()
    assert world.report is not None
    assert world.report.reason == ActionReason.UNSUPPORTED
    assert world.guest.boots == 1


LEGAL_WISHES = {
    PowerState.RUNNING: [PowerState.STOPPED, PowerState.PAUSED, PowerState.SUSPENDED, PowerState.SHELVED],
    PowerState.STOPPED: [PowerState.RUNNING, PowerState.SHELVED],
    PowerState.PAUSED: [PowerState.RUNNING, PowerState.SHELVED],
    PowerState.SUSPENDED: [PowerState.RUNNING, PowerState.SHELVED],
    PowerState.SHELVED: [PowerState.RUNNING],
}


class AnyVerb(RuleBasedStateMachine):
    """Random verbs, guests that shut down or crash, agents and hosts that die."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.settled = False

    @rule(number=st.integers(0, 3))
    def power(self, number: int) -> None:
        """The user changes powerState as the schema lets him."""
        choices = LEGAL_WISHES[self.world.wish]
        if not self.world.rescued:
            self.world.want(choices[number % len(choices)])
        self.settled = False

    @precondition(lambda self: self.world.act is None)
    @rule(type_=st.sampled_from([item[0] for item in VERBS] + [ActionType.START]), hard=st.booleans())
    def verb(self, type_: ActionType, *, hard: bool) -> None:
        """The operator opens an action where that is legal."""
        alive = self.world.guest.power is Power.RUNNING
        down = self.world.guest.power in OFF and self.world.wish is not PowerState.SHELVED
        if self.world.rescued:
            self.world.ask(ActionType.UNRESCUE)
        elif type_ is ActionType.REBOOT and (hard or (alive and self.world.wish is PowerState.RUNNING)):
            self.world.ask(type_, hard=hard)
        elif type_ is ActionType.START and down:
            self.world.ask(type_)
        elif type_ in (ActionType.REBUILD, ActionType.RESCUE) and (alive or down):
            self.world.ask(type_, image=OTHER if type_ is ActionType.REBUILD else None)
        self.settled = False

    @precondition(lambda self: self.world.guest.power is Power.RUNNING)
    @rule(crash=st.booleans())
    def guest_ends(self, *, crash: bool) -> None:
        """The guest turns itself off, or its QEMU dies."""
        self.world.guest.power = Power.CRASHED if crash else Power.OFF
        self.world.guest.by_guest = not crash and self.world.guest.stopping_for is None
        self.world.guest.stopping_for = None
        self.settled = False

    @rule()
    def host_boots(self) -> None:
        """The host dies and comes back: no guest runs, saved memory is on the disk."""
        guest = self.world.guest
        if guest.power in {Power.RUNNING, Power.PAUSED, Power.STOPPING, Power.CRASHED}:
            guest.power, guest.by_guest = Power.OFF, False
        guest.agent_dies()
        self.settled = False

    @rule(budget=st.integers(0, 4), seconds=st.sampled_from([0.0, 7.0, 40.0]))
    def agent_works(self, budget: int, seconds: float) -> None:
        """The agent looks once and dies after some steps."""
        with contextlib.suppress(Killed):
            self.world.step(budget)
        self.world.guest.passes(seconds)

    @rule(obeys=st.booleans(), recovers=st.booleans())
    def changes(self, *, obeys: bool, recovers: bool) -> None:
        """Another guest, another policy."""
        self.world.guest.obeys, self.world.recovers = obeys, recovers

    @rule()
    def comes_to_rest(self) -> None:
        """Nobody does anything for a while."""
        self.world.settle()
        self.settled = True

    @invariant()
    def status_is_reality(self) -> None:
        """At rest the status says what the guest does, and that is what was asked, or the status says why not."""
        if not self.settled:
            return
        world, told = self.world, self.world.told
        power = world.guest.power
        assert world.act is None
        up = {ObservedPowerState.RUNNING, ObservedPowerState.RESCUED}
        assert (power is Power.RUNNING) is (told.power in up)
        assert (power is Power.PAUSED) is (told.power is ObservedPowerState.PAUSED)
        assert (power is Power.SUSPENDED) is (told.power is ObservedPowerState.SUSPENDED)
        excuses = {ReadyReason.ILLEGAL_STATE, ReadyReason.STOPPED_BY_GUEST, ReadyReason.CRASHED}
        if told.ready not in excuses:
            wanted = Power.RUNNING if world.rescued else _AT_REST[world.wish]
            assert power is wanted or (wanted is Power.OFF and power in OFF)
        assert not world.rescued or told.power is ObservedPowerState.RESCUED or told.ready in excuses


_AT_REST = {
    PowerState.RUNNING: Power.RUNNING,
    PowerState.STOPPED: Power.OFF,
    PowerState.PAUSED: Power.PAUSED,
    PowerState.SUSPENDED: Power.SUSPENDED,
    PowerState.SHELVED: Power.OFF,
}

TestAnyVerb = AnyVerb.TestCase
TestAnyVerb.settings = settings(max_examples=30, stateful_step_count=200, deadline=None)
