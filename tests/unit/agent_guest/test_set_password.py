"""Passwords that guests' agents set: begun once, told with a reason, and seen by nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import libvirt
import pytest

from kumulus_agent.actions.open import read_act
from kumulus_agent.compute.errors import HypervisorUnavailable, InstanceNotFound, translate
from kumulus_agent.guest import passwords as module
from kumulus_agent.guest.passwords import Errand, Passwords
from kumulus_agent.servers.boot_data import BootDataRefused
from kumulus_agent.servers.desired import Desired
from kumulus_agent.servers.errors import StepFailed
from kumulus_agent.servers.instance_files import instance_files
from kumulus_agent.servers.plan import plan
from kumulus_agent.servers.terms import Act, Action, Attempt, Claim, Observed, Power, Report
from kumulus_api import ServerAction
from kumulus_api.server import PowerState
from kumulus_api.server_action import ActionPhase, ActionReason, ActionType
from kumulus_api.server_status import ReadyReason
from kumulus_api.testing import make_object

INSTANCE = "22222222-2222-4222-8222-222222222222"
UID = "00000000-0000-4000-8000-00000000000a"
PASSWORD = "correct horse battery"
ERRAND = Errand(("demo", "web"), INSTANCE, UID, "secret-act", "root")
ACT = Act("secret-act", UID, ActionType.SET_PASSWORD, user="root")
DESIRED = Desired(("demo", "web"), "u", 1, INSTANCE, 1, 1, 1, 1, None, (), (), True, False, "", "", False, False, True)
DONE = Report(ActionPhase.SUCCEEDED, "Completed", "set for root")


def failure(code: int, domain: int = libvirt.VIR_FROM_QEMU) -> libvirt.libvirtError:
    """Give an error that quotes the password, as a guest could have its agent do."""
    error = libvirt.libvirtError("asked")
    error.err = (code, domain, f"no {PASSWORD}", 2, None, None, None, -1, -1)
    return error


@dataclass
class Guest:
    """A hypervisor with one guest, and the operator.

    Attributes:
        error: what setting a password ends with.
        agent: state of the agent's channel.
        refusals: what the operator answers before it gives the password.
    """

    error: Exception | None = None
    agent: str = "connected"
    power: int = libvirt.VIR_DOMAIN_RUNNING
    refusals: list[Exception] = field(default_factory=list)
    lost: int = 0
    passwords: dict[str, str] = field(default_factory=dict)
    asked: int = 0

    async def fetch(self, _client: object, _source: object, action: tuple[str, str]) -> str:
        """Be the operator."""
        assert action == ("demo", "secret-act")
        if self.refusals:
            raise self.refusals.pop(0)
        return PASSWORD

    async def call(self, asked: str, function: Callable[[Any], Any]) -> Any:
        """Be the connection."""
        assert PASSWORD not in asked
        self.asked += 1
        if self.lost:
            self.lost -= 1
            raise HypervisorUnavailable("libvirtd is away")
        try:
            return function(SimpleNamespace(lookupByUUIDString=lambda _id: self))
        except libvirt.libvirtError as error:
            raise translate(error, asked) from error

    def XMLDesc(self) -> str:  # noqa: D102
        target = f"<target name='org.qemu.guest_agent.0' state='{self.agent}'/>"
        return f"<domain><devices><channel>{target}</channel></devices></domain>"

    def state(self) -> tuple[int, int]:  # noqa: D102
        return self.power, 1

    def agentSetResponseTimeout(self, seconds: int, _flags: int) -> None:  # noqa: D102
        assert seconds > 0

    def setUserPassword(self, user: str, password: str, flags: int) -> None:  # noqa: D102
        assert flags == 0
        if self.error is not None:
            raise self.error
        self.passwords[user] = password


@dataclass
class Scene:
    """A guest, who sets its passwords, and whom that is told."""

    guest: Guest
    passwords: Passwords
    changed: list[tuple[str, str]]
    instances: Path

    async def end(self, errand: Errand = ERRAND) -> Report:
        """Run an errand to its end."""
        self.passwords.begin(errand)
        async with asyncio.timeout(5):
            await self.passwords._tasks[errand.action]
        found = self.passwords.of(errand.action)
        assert found is not None
        assert found.report is not None
        return found.report


@pytest.fixture
async def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    monkeypatch.setattr(module, "_PAUSES", (0.0, 0.0))
    guest, changed = Guest(), []
    monkeypatch.setattr(module, "fetch_password", guest.fetch)
    none: Any = None
    passwords = Passwords(none, none, guest, tmp_path, changed.append)  # type: ignore[arg-type]
    yield Scene(guest, passwords, changed, tmp_path)
    await passwords.close()


async def test_a_password_is_set_once(scene: Scene) -> None:
    """The guest gets the password of its Secret, the server is looked at, and a second look begins nothing."""
    assert scene.passwords.of(UID) is None
    scene.passwords.begin(ERRAND)
    assert scene.passwords.of(UID) == Attempt()
    assert await scene.end() == DONE
    assert (scene.guest.passwords, scene.changed, scene.guest.asked) == ({"root": PASSWORD}, [("demo", "web")], 1)
    scene.passwords.forget("demo", "another")
    assert scene.passwords.of(UID) == Attempt(DONE)
    scene.passwords.forget("demo", "secret-act")
    assert scene.passwords.of(UID) is None


FAILURES = [
    ({"agent": "disconnected"}, ActionReason.NO_GUEST_AGENT, "permanent: install qemu-guest-agent"),
    ({"error": failure(libvirt.VIR_ERR_AGENT_UNRESPONSIVE)}, ActionReason.GUEST_SILENT, "transient"),
    ({"error": failure(libvirt.VIR_ERR_INTERNAL_ERROR)}, ActionReason.GUEST_REFUSED, "permanent"),
    ({"error": failure(libvirt.VIR_ERR_OPERATION_INVALID)}, ActionReason.ILLEGAL_STATE, "permanent"),
    ({"power": libvirt.VIR_DOMAIN_PAUSED}, ActionReason.ILLEGAL_STATE, "permanent"),
    ({"error": failure(libvirt.VIR_ERR_OPERATION_FAILED)}, ActionReason.GUEST_SILENT, "transient"),
    ({"error": InstanceNotFound("gone")}, ActionReason.ILLEGAL_STATE, "permanent"),
    ({"refusals": [BootDataRefused(404, "key password")]}, ActionReason.SECRET_NOT_FOUND, "key password"),
    ({"refusals": [BootDataRefused(422, "two lines")]}, ActionReason.PASSWORD_INVALID, "two lines"),
    ({"refusals": [BootDataRefused(403, "not yours")]}, ActionReason.BOOT_DATA_FAILED, "not yours"),
]


@pytest.mark.parametrize(("guest", "reason", "says"), FAILURES)
async def test_a_password_that_is_not_set_says_why(
    scene: Scene, capsys: pytest.CaptureFixture[str], guest: dict[str, Any], reason: ActionReason, says: str
) -> None:
    """Each way to fail has its reason and says what helps; no word of the guest, and no password, is passed on."""
    for name, value in guest.items():
        setattr(scene.guest, name, value)
    report = await scene.end()
    assert (report.outcome, report.reason) == (ActionPhase.FAILED, reason.value)
    assert report.message.startswith("SetPassword: ")
    assert says in report.message
    captured = capsys.readouterr()
    assert PASSWORD not in f"{report}{captured.out}{captured.err}{scene.passwords.__dict__}"


async def test_what_is_about_to_start_is_waited_for(scene: Scene) -> None:
    """An operator or a libvirtd that is away for a moment is asked again; one that stays away ends the act."""
    scene.guest.refusals = [StepFailed(ReadyReason.BOOT_DATA_FAILED, "the operator is away")] * 2
    scene.guest.lost = 2
    assert await scene.end() == DONE
    scene.guest.refusals = [StepFailed(ReadyReason.BOOT_DATA_FAILED, "the operator is away")] * 3
    report = await scene.end(replace(ERRAND, action="other"))
    assert (report.reason, "transient" in report.message) == ("BootDataFailed", True)
    scene.guest.lost = 3
    assert (await scene.end(replace(ERRAND, action="third"))).outcome is ActionPhase.FAILED


async def test_a_guest_that_may_be_frozen_is_not_asked(scene: Scene) -> None:
    """While file systems may stand still no password is set: the guest could not write it."""
    files = instance_files(scene.instances, INSTANCE)
    files.directory.mkdir(parents=True)
    files.thaw_owed.touch()
    assert (await scene.end()).reason == ActionReason.GUEST_FROZEN
    assert not scene.guest.passwords


def observed(power: Power = Power.RUNNING, attempt: Attempt | None = None) -> Observed:
    return Observed(power, epoch=1, remains=True, power_changes=0, attempt=attempt)


def test_a_running_guest_is_asked_beside_everything_else() -> None:
    """The act is begun once, waited for without a step, and ends as it was told; nothing about the guest changes."""
    begun = plan(DESIRED, observed(), Claim.OURS, act=ACT)
    assert (begun.actions, begun.report) == ({Action.SET_PASSWORD}, None)
    going = plan(DESIRED, observed(attempt=Attempt()), Claim.OURS, act=ACT)
    assert (going.actions, going.report) == (frozenset(), None)
    ended = plan(DESIRED, observed(attempt=Attempt(DONE)), Claim.OURS, act=ACT)
    assert (ended.actions, ended.report) == (frozenset(), DONE)


@pytest.mark.parametrize("power", [power for power in Power if power is not Power.RUNNING])
def test_a_guest_that_runs_no_more_ends_the_act(power: Power) -> None:
    """A guest that went off, or was paused, since the act was opened is not asked; the rest of the plan holds."""
    made = plan(DESIRED, observed(power), Claim.OURS, act=ACT)
    assert Action.SET_PASSWORD not in made.actions
    assert made.report is not None
    assert (made.report.outcome, made.report.reason) == (ActionPhase.FAILED, ActionReason.ILLEGAL_STATE)
    pausing = replace(DESIRED, running=False, rest=PowerState.PAUSED)
    assert Action.SET_PASSWORD not in plan(pausing, observed(), Claim.OURS, act=ACT).actions


def test_the_act_names_a_user_and_no_secret() -> None:
    """What the agent knows of an act is whose password it is; where it lies is the operator's to know."""
    wish = {"secret": {"name": "web-root"}}
    body = make_object(ServerAction, "act", type="SetPassword", reboot=None, setPassword=wish)
    body["metadata"]["uid"] = UID
    assert read_act(body) == Act("act", UID, ActionType.SET_PASSWORD, user="root")
