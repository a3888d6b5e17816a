"""What a CreateImage asks of an instance."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kumulus_agent.servers.desired import Desired
from kumulus_agent.servers.plan import plan
from kumulus_agent.servers.terms import Act, Action, Claim, Copy, Observed, Power, Report
from kumulus_api.server import PowerState
from kumulus_api.server_action import ActionPhase, ActionReason, ActionType

ACT = Act("copy", "00000000-0000-4000-8000-00000000000a", ActionType.CREATE_IMAGE, image_name="golden")
DESIRED = Desired(
    key=("demo", "web"),
    uid="u",
    generation=1,
    instance_id="22222222-2222-4222-8222-222222222222",
    epoch=1,
    vcpus=1,
    memory=1,
    root_disk=1,
    image=None,
    ports=(),
    volumes=(),
    running=True,
    restart_after_guest_shutdown=False,
    key_pair="",
    user_data="",
    remote_user_data=False,
    deleting=False,
    finalizer=True,
)
STOPPED = replace(DESIRED, running=False)
FAILED = Report(ActionPhase.FAILED, ActionReason.DISK_FULL.value, "no room")


def observed(power: Power, copy: Copy | None = None) -> Observed:
    return Observed(power, epoch=1, remains=True, power_changes=0, copy=copy)


@pytest.mark.parametrize(
    ("desired", "power"),
    [
        (DESIRED, Power.RUNNING),
        (STOPPED, Power.OFF),
        (replace(STOPPED, rest=PowerState.PAUSED), Power.PAUSED),
        (replace(STOPPED, rest=PowerState.SUSPENDED), Power.SUSPENDED),
    ],
)
def test_a_guest_at_rest_is_copied_and_left_as_it_is(desired: Desired, power: Power) -> None:
    """In each state in which it is legal a copy is begun once, nothing else is done, and its end is told."""
    begun = plan(desired, observed(power), Claim.OURS, act=ACT)
    assert begun.actions == {Action.COPY_DISK}
    offline = power in (Power.OFF, Power.SUSPENDED)
    going = plan(desired, observed(power, Copy(offline)), Claim.OURS, act=ACT)
    assert (going.actions, going.report) == (frozenset(), None)
    ended = plan(desired, observed(power, Copy(offline, FAILED)), Claim.OURS, act=ACT)
    assert (ended.actions, ended.report) == (frozenset(), FAILED)


def test_a_guest_that_is_off_waits_for_its_copy() -> None:
    """A guest is not started on the disk that is being copied, and is started right afterwards."""
    waits = plan(DESIRED, observed(Power.OFF, Copy(offline=True)), Claim.OURS, act=ACT)
    assert waits.actions == frozenset()
    done = plan(DESIRED, observed(Power.OFF, Copy(offline=True, report=FAILED)), Claim.OURS, act=ACT)
    assert Action.START in done.actions


def test_what_changes_first_is_copied_afterwards() -> None:
    """A guest that is on its way to another state arrives there before its disk is copied."""
    going = plan(STOPPED, observed(Power.RUNNING), Claim.OURS, 0.0, act=ACT)
    assert Action.SWITCH_OFF in going.actions
    assert Action.COPY_DISK not in going.actions
    assert going.look_again == 0.0
