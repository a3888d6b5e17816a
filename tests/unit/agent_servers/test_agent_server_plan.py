"""What the agent does about an instance."""

from dataclasses import dataclass, replace
from itertools import product

import pytest

from kumulus_agent.servers.desired import Desired, DesiredPort, NetworkKey
from kumulus_agent.servers.plan import plan
from kumulus_agent.servers.terms import CRASH_PAUSE, Action, Claim, Observed, Plan, Power
from kumulus_api.server import PowerState
from kumulus_api.server_status import ObservedPowerState, ReadyReason

INSTANCE = "22222222-2222-4222-8222-222222222222"
NETWORK = NetworkKey("demo", "net", 4097)
PORT = DesiredPort("eth0", "web-eth0", NETWORK, "0e:00:00:00:00:01", ("10.0.0.5",), "kt0123456789a")
DESTRUCTIVE = {Action.REMOVE, Action.SWITCH_OFF, Action.FORGET_SHUTDOWN, Action.UNPLUG, Action.RELEASE}


def make_desired(**overrides: object) -> Desired:
    fields: dict[str, object] = {
        "key": ("demo", "web"),
        "uid": "u",
        "generation": 3,
        "instance_id": INSTANCE,
        "epoch": 2,
        "vcpus": 1,
        "memory": 1 << 27,
        "root_disk": 1 << 30,
        "image": None,
        "ports": (PORT,),
        "volumes": (),
        "running": True,
        "restart_after_guest_shutdown": False,
        "key_pair": "",
        "user_data": "",
        "remote_user_data": False,
        "deleting": False,
        "finalizer": True,
    }
    return Desired(**(fields | overrides))  # type: ignore[arg-type]


def make_observed(power: Power = Power.RUNNING, **overrides: object) -> Observed:
    whole = Observed(
        power=power, epoch=2, plugged=frozenset({PORT.tap}), carried=frozenset({4097}), remains=True, power_changes=0
    )
    return replace(whole, **overrides)  # type: ignore[arg-type]


def actions(made: Plan) -> list[Action]:
    return [step.action for step in made.steps]


def test_new_server_is_started() -> None:
    """A server that is not here yet is started and nothing else."""
    made = plan(make_desired(), Observed(), Claim.OURS)
    assert actions(made) == [Action.START]
    assert made.ready is ReadyReason.RUNNING


def test_running_server_needs_nothing() -> None:
    """Where everything is as asked there is no step."""
    assert plan(make_desired(), make_observed(), Claim.OURS).steps == ()


def test_adopted_guest_gets_its_network_and_is_not_restarted() -> None:
    """A guest found running by a new agent has its networks carried and its taps plugged, and is left running."""
    made = plan(make_desired(), make_observed(carried=frozenset(), plugged=frozenset()), Claim.OURS)
    assert actions(made) == [Action.CARRY, Action.PLUG]


def test_guest_shutdown_is_kept() -> None:
    """A guest that turned itself off stays off, its Server says so, and it is written down once."""
    made = plan(make_desired(), make_observed(Power.OFF, off_by_guest=True), Claim.OURS)
    assert actions(made) == [Action.RECORD_SHUTDOWN, Action.UNPLUG]
    assert (made.ready, made.power) == (ReadyReason.STOPPED_BY_GUEST, ObservedPowerState.STOPPED)
    later = make_observed(Power.OFF, off_by_guest=True, shutdown_recorded=True, plugged=frozenset())
    assert plan(make_desired(), later, Claim.OURS).steps == ()


def test_a_newer_power_state_starts_a_guest_that_turned_itself_off() -> None:
    """Stopped and back to Running, also if nobody looked in between, starts the guest; any other change does not."""
    off = make_observed(Power.OFF, off_by_guest=True, power_changes=3)
    assert actions(plan(make_desired(power_changes=5), off, Claim.OURS)) == [Action.START]
    assert Action.START not in plan(make_desired(power_changes=3, generation=9), off, Claim.OURS).actions
    # A Server that was restored from a backup counts its changes anew.
    assert Action.START not in plan(make_desired(power_changes=1), off, Claim.OURS).actions
    unknown = make_observed(Power.OFF, off_by_guest=True, power_changes=None)
    assert Action.START not in plan(make_desired(power_changes=5), unknown, Claim.OURS).actions


def test_a_running_guest_takes_note_of_wishes_that_it_follows_already() -> None:
    """A powerState that was set to Stopped and back unseen is no wish of later than the guest's own shutdown."""
    made = plan(make_desired(power_changes=2), make_observed(power_changes=0), Claim.OURS)
    assert actions(made) == [Action.NOTE_WISH]


@dataclass
class Machine:
    """A guest that obeys the power button, ignores it, or turns itself off when it is pressed too late."""

    obeys: bool
    power: Power = Power.RUNNING
    pressed: float | None = None
    by_guest: bool = False
    noted: int = 0

    def step(self, *, wish: bool, changes: int, seconds: float = 0.0) -> None:
        """Plan and do once, `seconds` after the last time."""
        if self.pressed is not None:
            self.pressed += seconds
        observed = make_observed(
            self.power, off_by_guest=self.by_guest, stopping_for=self.pressed, power_changes=self.noted
        )
        made = plan(make_desired(running=wish, power_changes=changes), observed, Claim.OURS)
        if Action.START in made.actions:
            self.power, self.pressed, self.by_guest = Power.RUNNING, None, False
        if {Action.START, Action.NOTE_WISH} & made.actions:
            self.noted = changes
        if Action.PRESS_POWER_BUTTON in made.actions:
            self.pressed = 0.0
        if Action.SWITCH_OFF in made.actions or (self.pressed is not None and self.obeys):
            self.power, self.pressed = Power.OFF, None
        if Action.FORGET_SHUTDOWN in made.actions:
            self.power, self.by_guest = Power.ABSENT, False

    def shut_down_by_itself(self) -> None:
        """The guest's user turns it off."""
        if self.power is Power.RUNNING:
            self.power, self.by_guest = Power.OFF, self.pressed is None


@pytest.mark.parametrize("obeys", [True, False])
@pytest.mark.parametrize("shutdown_at", range(5))
@pytest.mark.parametrize("wishes", list(product((True, False), repeat=4)))
def test_whatever_the_order_of_wishes_the_last_one_holds(
    wishes: tuple[bool, ...], shutdown_at: int, *, obeys: bool
) -> None:
    """However powerState is toggled around a guest's own shutdown, the end is what was asked last."""
    machine, changes, before = Machine(obeys), 0, True
    for number, wish in enumerate(wishes):
        if number == shutdown_at:
            machine.shut_down_by_itself()
        changes += wish is not before
        before = wish
        machine.step(wish=wish, changes=changes)
    for _ in range(4):
        machine.step(wish=wishes[-1], changes=changes, seconds=30.0)
    if wishes[-1] and all(wishes[shutdown_at:]) and shutdown_at < 4 and machine.by_guest:
        return  # nobody has asked for anything since: it stays off
    assert (machine.power is Power.RUNNING) is wishes[-1]


def test_guest_shutdown_is_answered_by_restart_where_asked() -> None:
    """With onGuestShutdown Restart a guest that turned itself off is started again."""
    desired = make_desired(restart_after_guest_shutdown=True)
    assert actions(plan(desired, make_observed(Power.OFF, off_by_guest=True), Claim.OURS)) == [Action.START]


def test_off_after_host_boot_is_started() -> None:
    """A domain that is off without a record of the guest's shutdown is started."""
    assert actions(plan(make_desired(), make_observed(Power.OFF), Claim.OURS)) == [Action.START]


def test_stopped_forgets_the_guests_shutdown() -> None:
    """Once the user asks for Stopped, a later Running starts the guest however it went off."""
    made = plan(make_desired(running=False), make_observed(Power.OFF, off_by_guest=True), Claim.OURS)
    assert Action.FORGET_SHUTDOWN in made.actions


def test_a_paused_guest_is_switched_off() -> None:
    """A guest that does not run hears no power button: it is not waited for."""
    made = plan(make_desired(running=False), make_observed(Power.PAUSED), Claim.OURS)
    assert actions(made) == [Action.SWITCH_OFF, Action.UNPLUG]


@pytest.mark.parametrize("power", [Power.OFF, Power.CRASHED])
def test_stopped_is_not_started(power: Power) -> None:
    """Nothing that shall be stopped is started."""
    made = plan(make_desired(running=False), make_observed(power, plugged=frozenset()), Claim.OURS)
    assert Action.START not in made.actions
    assert made.ready is ReadyReason.STOPPED


def test_stop_presses_waits_and_switches_off() -> None:
    """A guest is asked to shut down first, given its time, and switched off after that."""
    desired = make_desired(running=False)
    assert actions(plan(desired, make_observed(), Claim.OURS)) == [Action.PRESS_POWER_BUTTON]
    waiting = plan(desired, make_observed(stopping_for=5.0), Claim.OURS, 20.0)
    assert waiting.steps == ()
    assert waiting.look_again == 15.0
    assert actions(plan(desired, make_observed(stopping_for=20.0), Claim.OURS, 20.0)) == [
        Action.SWITCH_OFF,
        Action.UNPLUG,
    ]


def test_crash_soon_after_start_waits() -> None:
    """A guest that crashes at once is not started again and again without a pause."""
    made = plan(make_desired(), make_observed(Power.CRASHED, uptime=1.0), Claim.OURS)
    assert made.steps == ()
    assert made.look_again == CRASH_PAUSE - 1.0
    assert actions(plan(make_desired(), make_observed(Power.CRASHED, uptime=99.0), Claim.OURS)) == [Action.START]


def test_deletion_removes_then_releases() -> None:
    """The finalizer goes last."""
    made = plan(make_desired(deleting=True), make_observed(), Claim.DELETING)
    assert actions(made) == [Action.REMOVE, Action.RELEASE]


@pytest.mark.parametrize("claim", [Claim.ABSENT, Claim.ELSEWHERE])
def test_unclaimed_is_reported_and_never_touched(claim: Claim) -> None:
    """Neither a 404 nor another assignment authorises anything but a report."""
    for power, off in product(set(Power) - {Power.ABSENT}, (False, True)):
        made = plan(None, make_observed(power, off_by_guest=off), claim)
        assert actions(made) == [Action.REPORT]


def test_other_epoch_is_reported_and_never_touched() -> None:
    """A domain of another epoch than the assignment's is neither stopped nor removed, even if the object is deleted."""
    for power, running, epoch in product((Power.RUNNING, Power.OFF), (True, False), (1, 3)):
        made = plan(make_desired(running=running), make_observed(power, epoch=epoch), Claim.OURS)
        assert not made.actions & (DESTRUCTIVE | {Action.START})
    made = plan(make_desired(deleting=True), make_observed(epoch=3), Claim.DELETING)
    assert not made.actions & DESTRUCTIVE


def test_revocation_is_proof() -> None:
    """An instance on the Host's list of revoked ones is removed, but not one that is assigned here anew."""
    assert actions(plan(None, make_observed(revoked=True), Claim.ABSENT)) == [Action.REMOVE]
    assert actions(plan(make_desired(), make_observed(epoch=1, revoked=True), Claim.OURS)) == [Action.REMOVE]
    assert plan(make_desired(), make_observed(revoked=True), Claim.OURS).steps == ()


def test_destruction_needs_proof() -> None:
    """No combination of facts destroys without a live deletion or a revocation."""
    powers, epochs, flags = list(Power), (1, 2, 3), (False, True)
    for power, epoch, off, running in product(powers, epochs, flags, flags):
        observed = make_observed(power, epoch=epoch, off_by_guest=off)
        for claim in (Claim.OURS, Claim.ABSENT, Claim.ELSEWHERE):
            assert not plan(make_desired(running=running), observed, claim).actions & {Action.REMOVE, Action.RELEASE}


FULL = {"halted": False, "full": ("/state/instances/i/root.qcow2",)}


def test_a_guest_of_a_full_disk_waits_and_says_so() -> None:
    """A guest that its host's disk has no room for is left as it is, the reason is told, and the disk looked at."""
    made = plan(make_desired(), make_observed(Power.PAUSED, **FULL), Claim.OURS)
    assert actions(made) == []
    assert (made.ready, made.power) == (ReadyReason.HOST_DISK_FULL, ObservedPowerState.PAUSED)
    assert "/state/instances/i/root.qcow2" in made.message
    assert made.look_again is not None


def test_a_guest_of_a_full_disk_goes_on_by_itself() -> None:
    """With room on the disk it goes on, if it shall run."""
    made = plan(make_desired(), make_observed(Power.PAUSED, room=True, **FULL), Claim.OURS)
    assert actions(made) == [Action.RESUME]
    assert made.ready is ReadyReason.RUNNING


def test_only_a_full_disk_lets_a_guest_go_on_by_itself() -> None:
    """What QEMU has paused for another error stays so, and so does what shall be paused, whatever room there is."""
    broken = plan(make_desired(), make_observed(Power.PAUSED, halted=False), Claim.OURS)
    assert (actions(broken), broken.ready) == ([], ReadyReason.PAUSED)
    paused = make_desired(running=False, rest=PowerState.PAUSED)
    made = plan(paused, make_observed(Power.PAUSED, room=True, **FULL), Claim.OURS)
    assert (actions(made), made.ready) == ([], ReadyReason.PAUSED)
