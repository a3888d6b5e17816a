"""Guests that tell of themselves: asked seldom, apart from everything else, and told once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import libvirt
import pytest

from kumulus_agent.compute.errors import Retryable
from kumulus_agent.guest import agents as module
from kumulus_agent.guest.agents import GuestAgents
from kumulus_agent.servers.instance_files import instance_files
from kumulus_agent.servers.terms import Action, Observed, Plan, Power, Step
from kumulus_api import Server
from kumulus_api.server_status import ObservedPowerState
from kumulus_runtime.store import Store

INSTANCE = "22222222-2222-4222-8222-222222222222"
KEY = ("demo", "web")
MAC = "52:54:00:12:34:56"
SYSTEM = {"os.id": "debian"}
ADDRESS = {
    "if.count": 1,
    "if.0.name": "eth0",
    "if.0.hwaddr": MAC,
    "if.0.addr.count": 1,
    "if.0.addr.0.addr": "10.0.0.5",
    "if.0.addr.0.prefix": 24,
}
TOLD = {
    "os": {"id": "debian"},
    "hostname": "web",
    "addresses": [{"interface": "eth0", "mac": MAC, "address": "10.0.0.5", "prefix": 24}],
}
RUNS = Plan(power=ObservedPowerState.RUNNING)


def failure(code: int) -> libvirt.libvirtError:
    """Give an error of QEMU's driver."""
    error = libvirt.libvirtError("asked")
    error.err = (code, libvirt.VIR_FROM_QEMU, "because", 2, None, None, None, -1, -1)
    return error


@dataclass
class Guest:
    """A hypervisor with one guest.

    Attributes:
        silent: its agent says nothing.
        unknown: kinds of information that its agent does not know.
        addresses: whether it has its address yet.
        asked: how often it was asked.
    """

    silent: bool = False
    unknown: frozenset[int] = frozenset()
    addresses: bool = True
    asked: int = 0
    at_once: int = 0
    most: int = 0
    hold: asyncio.Event = field(default_factory=asyncio.Event)

    async def call(self, _asked: str, function: Callable[[Any], Any]) -> Any:
        """Be the connection."""
        self.asked += 1
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            await self.hold.wait()
            return function(SimpleNamespace(lookupByUUIDString=lambda _id: self))
        except libvirt.libvirtError as error:
            raise Retryable(str(error)) from error
        finally:
            self.at_once -= 1

    def XMLDesc(self) -> str:  # noqa: D102
        channel = "<channel><target name='org.qemu.guest_agent.0' state='connected'/></channel>"
        return f"<domain><devices>{channel}<interface><mac address='{MAC}'/></interface></devices></domain>"

    def state(self) -> tuple[int, int]:  # noqa: D102
        return libvirt.VIR_DOMAIN_RUNNING, 1

    def agentSetResponseTimeout(self, seconds: int, _flags: int) -> None:  # noqa: D102
        assert seconds > 0

    def guestInfo(self, kind: int, _flags: int) -> dict[str, Any]:  # noqa: D102
        if self.silent:
            raise failure(libvirt.VIR_ERR_AGENT_UNRESPONSIVE)
        if kind in self.unknown:
            raise failure(libvirt.VIR_ERR_INTERNAL_ERROR)
        return {
            libvirt.VIR_DOMAIN_GUEST_INFO_OS: SYSTEM,
            libvirt.VIR_DOMAIN_GUEST_INFO_HOSTNAME: {"hostname": "web"},
            libvirt.VIR_DOMAIN_GUEST_INFO_INTERFACES: ADDRESS if self.addresses else {},
        }[kind]


@dataclass
class Scene:
    """A guest, who asks it, and a clock."""

    guest: Guest
    agents: GuestAgents
    store: Store
    clock: list[float]
    changed: list[tuple[str, str]]
    instances: Path

    def look(self, *, agent: bool = True, power: Power = Power.RUNNING, step: Action | None = None) -> None:
        """Look at the guest as a reconcile does."""
        steps = (Step(step, "test"),) if step is not None else ()
        self.agents.found(KEY, INSTANCE, Observed(power, agent=agent), Plan(steps, power=ObservedPowerState.RUNNING))

    def says(self) -> dict[str, Any] | None:
        """Give what is told, without the time."""
        told = self.agents.of(INSTANCE, ObservedPowerState.RUNNING, RUNS)
        return told if told is None else {name: value for name, value in told.items() if name != "connectedSince"}

    def show(self) -> None:
        """Have the status show an agent."""
        status = {"guestAgent": {"connectedSince": "2026-01-01T00:00:00Z"}}
        metadata = {"name": "web", "namespace": "demo", "uid": "u"}
        self.store.apply("MODIFIED", {"kind": "Server", "metadata": metadata, "spec": {}, "status": status})
        assert self.store.get(Server, "web", "demo") is not None

    async def settled(self) -> None:
        """Let what goes on come to its end."""
        async with asyncio.timeout(5):
            await asyncio.gather(*self.agents._tasks)


@pytest.fixture
async def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    monkeypatch.setattr(module, "_PAUSES", (0.0, 0.0))
    guest, store, clock, changed = Guest(), Store(), [1000.0], []
    guest.hold.set()
    agents = GuestAgents(guest, tmp_path, store, changed.append, lambda: clock[0])  # type: ignore[arg-type]
    yield Scene(guest, agents, store, clock, changed, tmp_path)
    await agents.close()


async def test_a_guest_is_asked_once_for_each_connection(scene: Scene) -> None:
    """However often it is looked at it is asked once, and again when the answer is old; only news is told."""
    assert scene.says() is None
    scene.look()
    scene.look()
    await scene.settled()
    assert (scene.says(), scene.changed, scene.guest.asked) == (TOLD, [KEY], 1)
    scene.clock[0] += 200
    scene.look()
    assert scene.guest.asked == 1
    scene.clock[0] += 100
    scene.look()
    await scene.settled()
    assert (scene.changed, scene.guest.asked) == ([KEY], 2)


async def test_a_guest_that_boots_is_told_when_it_has_its_address(scene: Scene) -> None:
    """Half an answer is not told while a whole one may come; when it does not, what is there is told."""
    scene.guest.addresses = False
    scene.look()
    await scene.settled()
    assert scene.guest.asked == 3
    assert (scene.says(), scene.changed) == ({"os": TOLD["os"], "hostname": "web"}, [KEY])


async def test_a_silent_guest_holds_nobody_up(scene: Scene) -> None:
    """Looks go on while a guest is silent, and in the end it is told that there is an agent and nothing else."""
    scene.guest.silent = True
    scene.guest.hold.clear()
    scene.look()
    await asyncio.sleep(0)
    scene.look()
    assert scene.says() is None
    scene.guest.hold.set()
    await scene.settled()
    assert (scene.says(), scene.guest.asked) == ({}, 2)
    assert scene.agents.of(INSTANCE, ObservedPowerState.RUNNING, RUNS), "since when it is there"


async def test_few_guests_are_asked_at_the_same_time(scene: Scene) -> None:
    """However many are silent, most threads stay free."""
    scene.guest.hold.clear()
    for number in range(20):
        other = INSTANCE[:-2] + f"{number:02}"
        scene.agents.found(KEY, other, Observed(Power.RUNNING, agent=True), RUNS)
    for _ in range(5):
        await asyncio.sleep(0)
    assert scene.guest.asked == 2
    scene.guest.hold.set()
    await scene.settled()
    assert (scene.guest.asked, scene.guest.most) == (20, 2)


async def test_an_agent_that_does_not_know_all_is_told_in_part(scene: Scene) -> None:
    """What an old agent cannot say is left out, the rest is told."""
    scene.guest.unknown = frozenset({libvirt.VIR_DOMAIN_GUEST_INFO_OS})
    scene.look()
    await scene.settled()
    assert scene.says() == {name: value for name, value in TOLD.items() if name != "os"}


async def test_a_guest_that_may_be_frozen_is_left_alone(scene: Scene) -> None:
    """While file systems may stand still nothing is asked of the guest's agent, and what is told stays."""
    files = instance_files(scene.instances, INSTANCE)
    files.directory.mkdir(parents=True)
    files.thaw_owed.touch()
    scene.guest.guestInfo = lambda *_: pytest.fail("it was asked")  # type: ignore[method-assign]
    scene.look()
    await scene.settled()
    assert (scene.says(), scene.changed) == (None, [])


async def test_a_reboot_is_not_told(scene: Scene) -> None:
    """An agent that is away for a moment has not gone; back again it is asked anew, at most once a minute."""
    scene.look()
    await scene.settled()
    scene.show()
    for _ in range(50):
        scene.clock[0] += 0.1
        scene.look(agent=False)
        scene.look()
    await scene.settled()
    assert (scene.says(), scene.guest.asked) == (TOLD, 1)
    scene.clock[0] += 60
    scene.look()
    await scene.settled()
    assert (scene.changed, scene.guest.asked) == ([KEY], 2)


async def test_an_agent_that_has_gone_is_told_no_more(scene: Scene) -> None:
    """After half a minute without its agent nothing of the guest is told, also by an agent of the host that is new."""
    scene.show()
    scene.look(agent=False)
    assert scene.says() is None, "the status stays as it is"
    scene.clock[0] += 31
    scene.look(agent=False)
    assert scene.agents.of(INSTANCE, ObservedPowerState.RUNNING, RUNS) == {}


async def test_a_guest_without_agent_costs_no_second_look(scene: Scene) -> None:
    """Where nothing is told nothing has to be taken back: the guest is not looked at again for it."""
    scene.look(agent=False)
    assert scene.agents.of(INSTANCE, ObservedPowerState.RUNNING, RUNS) == {}
    assert scene.agents._guests[INSTANCE].timer is None


@pytest.mark.parametrize("step", [Action.SWITCH_OFF, Action.START, Action.SAVE, None])
async def test_a_guest_that_is_off_says_nothing(scene: Scene, step: Action | None) -> None:
    """What a guest has said ends with it, whatever is still under way, and nothing of it comes into its next life."""
    scene.look()
    await scene.settled()
    assert scene.agents.of(INSTANCE, ObservedPowerState.STOPPED, RUNS) == {}
    started = Plan((Step(Action.START, "test"),), power=ObservedPowerState.RUNNING)
    assert scene.agents.of(INSTANCE, ObservedPowerState.RUNNING, started) == {}
    scene.clock[0] += 300
    scene.guest.hold.clear()
    scene.look()
    await asyncio.sleep(0)
    scene.look(step=step, power=Power.RUNNING if step is not None else Power.OFF)
    scene.guest.hold.set()
    await scene.settled()
    assert scene.says() is None
    assert scene.changed == [KEY]


async def test_a_paused_guest_keeps_its_word(scene: Scene) -> None:
    """A guest that stands still is not asked, and what it has said holds."""
    scene.look()
    await scene.settled()
    scene.clock[0] += 1000
    scene.look(power=Power.PAUSED)
    await scene.settled()
    assert (scene.says(), scene.guest.asked) == (TOLD, 1)
