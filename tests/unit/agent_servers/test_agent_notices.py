"""What people read in Events about a server."""

from __future__ import annotations

from kumulus_agent.servers.errors import StepFailed
from kumulus_agent.servers.notices import notices
from kumulus_agent.servers.terms import Action, Plan, Power, Step
from kumulus_api.server_status import ObservedPowerState, ReadyReason

START = Plan((Step(Action.START, "it is not here yet"),), ReadyReason.RUNNING, ObservedPowerState.RUNNING)


def test_a_start_is_told_once() -> None:
    """A start that succeeds is one Event, with how long it took."""
    (notice,) = notices(START, Power.ABSENT, "", durations={"image": 3, "total": 812})
    assert (notice.reason, notice.message, notice.warning) == ("Started", "started in 812 ms", False)


def test_a_failed_start_says_why() -> None:
    """A start that fails is a warning with the reason and the sentence of the status, and is not repeated."""
    failure = StepFailed(ReadyReason.IMAGE_FAILED, "http://x/y answered 404")
    (notice,) = notices(START, Power.ABSENT, "", failure=failure)
    assert (notice.reason, notice.message, notice.warning) == ("ImageFailed", "http://x/y answered 404", True)
    assert not notice.again


def test_a_crash_that_is_answered_at_once_is_told() -> None:
    """A guest that was started again after a crash has both in its Events, though its status never said Crashed."""
    found = notices(START, Power.CRASHED, "Running", durations={})
    assert [notice.reason for notice in found] == ["Crashed", "Started"]


def test_what_was_told_is_not_told_again() -> None:
    """A reconcile that finds what the status says already, also of a new agent, gives no Event."""
    for reason in ReadyReason:
        plan = Plan((), reason, ObservedPowerState.STOPPED, "as before")
        assert notices(plan, Power.OFF, reason.value) == ()


def test_a_stop_is_told_and_how() -> None:
    """Stopped, switched off by force, and off by the guest's own will read differently."""
    stopped = Plan((), ReadyReason.STOPPED, ObservedPowerState.STOPPED)
    assert [n.message for n in notices(stopped, Power.OFF, "Stopping")] == ["stopped"]
    forced = Plan((Step(Action.SWITCH_OFF, "it did not shut down within 20 s"),), ReadyReason.STOPPED)
    assert [n.message for n in notices(forced, Power.RUNNING, "Stopping")] == [
        "switched off: it did not shut down within 20 s"
    ]
    by_guest = Plan((), ReadyReason.STOPPED_BY_GUEST, ObservedPowerState.STOPPED, "the guest turned itself off")
    assert [n.reason for n in notices(by_guest, Power.OFF, "Running")] == ["StoppedByGuest"]


def test_a_server_made_to_be_off_has_no_events_of_the_agent() -> None:
    """What never ran did not stop."""
    assert notices(Plan((), ReadyReason.STOPPED, ObservedPowerState.STOPPED), Power.ABSENT, "") == ()


def test_a_removal_is_one_event() -> None:
    """A deletion is told once it has left nothing."""
    removal = Plan((Step(Action.REMOVE, "the Server is being deleted"), Step(Action.RELEASE, "nothing is left")))
    assert [notice.reason for notice in notices(removal, Power.RUNNING, "Running")] == ["Removed"]


def test_a_full_disk_is_told_and_its_end() -> None:
    """A guest that stands still for a full disk is a warning, once; that it goes on is told too."""
    full = Plan((), ReadyReason.HOST_DISK_FULL, ObservedPowerState.PAUSED, "no room")
    (notice,) = notices(full, Power.PAUSED, "Running")
    assert (notice.reason, notice.warning, notice.again) == ("HostDiskFull", True, False)
    assert notices(full, Power.PAUSED, "HostDiskFull") == ()
    on = Plan((Step(Action.RESUME, "room"),), ReadyReason.RUNNING, ObservedPowerState.RUNNING)
    assert [notice.reason for notice in notices(on, Power.PAUSED, "HostDiskFull")] == ["Resumed"]
