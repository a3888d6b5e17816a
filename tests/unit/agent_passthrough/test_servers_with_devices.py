"""What an agent does about a server that has devices of its host, and what it says of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from kumulus_agent.compute.plugged import Devices
from kumulus_agent.hosts.plan import Facts, Machine, SelfTest, host_status
from kumulus_agent.passthrough.facts import Passed
from kumulus_agent.servers.controller import _VERBS
from kumulus_agent.servers.desired import Desired, read_desired
from kumulus_agent.servers.observe import Sighting
from kumulus_agent.servers.outcome import Outcome, found_after
from kumulus_agent.servers.plan import plan
from kumulus_agent.servers.status import Found, live_migratable, same, server_status
from kumulus_agent.servers.terms import Action, Claim, Observed, Plan, Power
from kumulus_api import Server
from kumulus_api.passthrough import FoundDevices, OfferedDevices
from kumulus_api.server import PowerState
from kumulus_api.server_status import ObservedPowerState, ReadyReason
from kumulus_api.testing import make_assigned

GPU = Passed("CUSTOM_GPU", ("0000:01:00.0", "0000:01:00.1"))
VGPU = Passed("VGPU", uuid="44444444-4444-4444-8444-444444444444")


def desired(power: PowerState = PowerState.RUNNING) -> Desired:
    """Give a server of a flavor that asks for a GPU and a vGPU."""
    body = make_assigned(Server, "web", "h1")
    body["spec"]["assignment"]["resources"]["custom"] = {"CUSTOM_GPU": 1, "VGPU": 1}
    found = read_desired(body)
    assert found is not None
    assert found.custom == (("CUSTOM_GPU", 1), ("VGPU", 1))
    return replace(found, running=power is PowerState.RUNNING, rest=power, ports=(), stop_seconds=0.0)


def observed(power: Power, *passed: Passed) -> Observed:
    """Give its domain."""
    there = Devices(passed=passed)
    asked = {"CUSTOM_GPU": 1, "VGPU": 1}
    return Observed(power, epoch=1, power_changes=0, remains=True, devices=there, asked_devices=asked)


def actions(made: Plan) -> list[Action]:
    """Give what is done."""
    return [step.action for step in made.steps]


@pytest.mark.parametrize("power", [Power.RUNNING, Power.PAUSED])
def test_a_guest_with_devices_is_not_suspended(power: Power) -> None:
    """Its devices have state that no file holds: it goes on as it is, and Ready says why."""
    made = plan(desired(PowerState.SUSPENDED), observed(power, GPU, VGPU), Claim.OURS)
    assert Action.SAVE not in actions(made)
    assert (made.ready, made.power.value) == (ReadyReason.ILLEGAL_STATE, power.value)
    assert "devices of the host" in made.message


def test_a_stopped_server_keeps_its_devices_and_a_shelved_one_gives_them_back() -> None:
    """Off is off with them; shelved is without; nothing is given back twice."""
    stopped = plan(desired(PowerState.STOPPED), observed(Power.OFF, GPU, VGPU), Claim.OURS)
    assert Action.GIVE_BACK not in actions(stopped)
    shelving = plan(desired(PowerState.SHELVED), observed(Power.RUNNING, GPU, VGPU), Claim.OURS)
    assert actions(shelving)[0] is Action.SWITCH_OFF
    assert actions(shelving)[-1] is Action.GIVE_BACK
    assert actions(plan(desired(PowerState.SHELVED), observed(Power.OFF), Claim.OURS)) == []


def test_after_a_resize_what_is_not_asked_for_is_given_back_or_waits_for_a_restart() -> None:
    """A server that is off holds nothing that its new flavor does not have; one that runs says what it waits for."""
    off = plan(desired(PowerState.STOPPED), observed(Power.OFF, GPU, GPU), Claim.OURS)
    assert Action.GIVE_BACK in actions(off)
    running, wanted = observed(Power.RUNNING, GPU), desired()
    made = plan(wanted, running, Claim.OURS)
    assert actions(made) == []
    assert found_after(running, wanted, made, Outcome(), acting=False).other_machine
    fitting = observed(Power.RUNNING, GPU, VGPU)
    assert not found_after(fitting, wanted, made, Outcome(), acting=False).other_machine


def test_the_status_tells_which_devices_a_server_has() -> None:
    """Class and place of each unit are told once, and not of what somebody else has put into the domain."""
    told = Found(ObservedPowerState.RUNNING, ReadyReason.RUNNING, passed=(GPU, VGPU, Passed("", ("0000:09:00.0",))))
    status = server_status(desired(), {}, told)
    assert status["devices"] == [
        {"resourceClass": "CUSTOM_GPU", "addresses": ["0000:01:00.0", "0000:01:00.1"]},
        {"resourceClass": "VGPU", "uuid": VGPU.uuid},
    ]
    assert same(server_status(desired(), status, told), status)
    assert "devices" not in server_status(desired(), status, replace(told, passed=()))


@pytest.mark.parametrize(("brought", "expected"), [(None, (GPU,)), ((), ()), ((VGPU,), (VGPU,))])
def test_what_a_step_has_changed_is_told(brought: tuple[Passed, ...] | None, expected: tuple[Passed, ...]) -> None:
    """The status says what the domain has after the steps: as before, nothing, or what it was started with."""
    wanted, seen = desired(), observed(Power.RUNNING, GPU)
    made = plan(wanted, seen, Claim.OURS)
    assert found_after(seen, wanted, made, Outcome(passed=brought), acting=False).passed == expected


def test_a_guest_with_devices_migrates_cold_only() -> None:
    """LiveMigratable names the devices."""
    found = live_migratable(desired(), ObservedPowerState.RUNNING, (GPU, VGPU))
    assert (found.status, found.reason) == (False, "HostDevices")
    assert f"CUSTOM_GPU 0000:01:00.0+0000:01:00.1, VGPU {VGPU.uuid}" in found.message


def test_the_host_tells_of_devices_only_where_there_may_be_some() -> None:
    """Without an allow list there is no word of devices; with one the same facts give the same status."""
    machine = Machine("boot", "x86_64", 2, 1 << 30, 1 << 40, "6.1", "0.1.0")
    facts = Facts(machine, "10.0.0.1", "9.0.0", "7.2.0", (), SelfTest("qemu"), "", (), ())
    assert "devices" not in host_status(1, {}, facts)
    found = FoundDevices(offered=[OfferedDevices(resource_class="VGPU", total=2)])
    status = host_status(1, {}, replace(facts, devices=found))
    assert status["devices"]["offered"] == [{"resourceClass": "VGPU", "total": 2, "traits": []}]
    assert host_status(1, status, replace(facts, devices=found)) == status


@pytest.mark.parametrize(
    ("action", "called"),
    [(Action.GIVE_BACK, ("give_back", {})), (Action.FORGET_SHUTDOWN, ("undefine", {"keep": True}))],
)
async def test_what_empties_a_domain_is_told(action: Action, called: tuple[str, dict[str, bool]]) -> None:
    """Whoever gives devices back, or forgets the domain, tells of none; UEFI's variables and a TPM's memory stay."""
    calls: list[tuple[str, dict[str, bool]]] = []

    class Recorder:
        def __getattr__(self, verb: str) -> Callable[..., Awaitable[None]]:
            async def call(_instance_id: str, **options: bool) -> None:
                calls.append((verb, options))

            return call

    controller: Any = SimpleNamespace(actuators=SimpleNamespace(hypervisor=Recorder()))
    outcome = Outcome()
    sighting = Sighting("i", None, observed(Power.OFF, GPU), Claim.OURS, desired(PowerState.STOPPED))
    await _VERBS[action](controller, sighting, outcome)
    assert calls == [called]
    assert outcome.passed == ()
