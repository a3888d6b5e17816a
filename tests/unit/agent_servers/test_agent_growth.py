"""When a running guest is given more, and when it has to wait for its next start."""

from dataclasses import replace

import pytest

from kumulus_agent.compute.size_xml import Size
from kumulus_agent.servers.desired import Desired
from kumulus_agent.servers.plan import Action, Claim, Observed, Power, plan
from kumulus_agent.servers.status import Found, server_status
from kumulus_api.hardware import Hardware
from kumulus_api.server_status import ObservedPowerState, ReadyReason
from kumulus_runtime.conditions import get_condition

MI = 1 << 20


def make_desired(vcpus: int, memory: int) -> Desired:
    """Give an instance of a size."""
    fixed = (None, (), (), True, False, "", "", False, False, True)
    return Desired(("demo", "web"), "u", 3, "22222222-2222-4222-8222-222222222222", 2, vcpus, memory, 1 << 30, *fixed)


@pytest.mark.parametrize(
    ("vcpus", "memory", "grows"),
    [
        (1, 128, False),
        (2, 128, True),
        (4, 512, True),
        (5, 128, False),
        (1, 514, False),
        (1, 129, False),
        (5, 256, True),
        (1, 64, False),
    ],
)
def test_a_guest_grows_within_what_it_was_started_with(vcpus: int, memory: int, *, grows: bool) -> None:
    """Up to the limits of its domain, each of the two by itself; all else waits for a restart."""
    limits = Size(1, 128 * MI, 4, 128 * MI, 512 * MI, 128 * MI)
    seen = Observed(Power.RUNNING, 2, power_changes=0, size=(1, 128 * MI), limits=limits)
    steps = plan(make_desired(vcpus, memory * MI), seen, Claim.OURS).steps
    assert [step.action for step in steps] == ([Action.GROW] if grows else [])


@pytest.mark.parametrize(
    "hardware", [{"dedicated": True}, {"numa_nodes": 1}, {"page_size": 2048}, {"any_huge_page": True}]
)
def test_a_guest_whose_cpus_or_pages_are_counted_out_does_not_grow(hardware: dict[str, int]) -> None:
    """With dedicated CPUs, NUMA nodes or huge pages a bigger size waits for the next start, and the reason says so."""
    limits = Size(1, 128 * MI, 4, 128 * MI, 512 * MI, 128 * MI)
    seen = Observed(Power.RUNNING, 2, power_changes=0, size=(1, 128 * MI), limits=limits)
    desired = replace(make_desired(2, 256 * MI), hardware=Hardware.model_validate(hardware), max_vcpus=4)
    assert not plan(desired, seen, Claim.OURS).steps
    told = server_status(desired, {}, Found(ObservedPowerState.RUNNING, ReadyReason.RUNNING, size=(1, 128 * MI)))
    assert (get_condition(told["conditions"], "RestartRequired") or {})["reason"] == "FixedSize"


def test_a_guest_that_was_asked_is_not_asked_again() -> None:
    """Memory that the guest has yet to take is asked for once; a smaller size gives back what was plugged in."""
    limits = Size(1, 128 * MI, 1, 128 * MI, 512 * MI, 256 * MI)
    seen = Observed(Power.RUNNING, 2, power_changes=0, size=(1, 128 * MI), limits=limits)
    assert not plan(make_desired(1, 256 * MI), seen, Claim.OURS).steps
    assert plan(make_desired(1, 128 * MI), seen, Claim.OURS).actions == {Action.GROW}
