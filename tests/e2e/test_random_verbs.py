"""All that can be asked of a server, at random: each leads where it should, and status and reality agree after it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from kumulus_api import API_VERSION, Flavor, Image, Server, Volume
from kumulus_api.server_status import ScheduledReason
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing.agreement import agreed
from kumulus_lab.testing.cloud import Cloud, condition
from kumulus_runtime.errors import Invalid
from kumulus_runtime.resources import SECRET

STATES = ("Running", "Stopped", "Paused", "Suspended", "Shelved", "Rescued")
POWER = {
    "Running": ("Stopped", "Paused", "Suspended", "Shelved"),
    "Stopped": ("Running", "Shelved"),
    "Paused": ("Running", "Shelved"),
    "Suspended": ("Running", "Shelved"),
    "Shelved": ("Running",),
    "Rescued": (),
}
"""What powerState can be set to."""
SAME = {state: state for state in STATES}
ACTS: tuple[tuple[str, dict[str, Any], dict[str, str]], ...] = (
    ("Start", {}, {"Stopped": "Running"}),
    ("Reboot", {"reboot": {"type": "Soft"}}, {"Running": "Running"}),
    ("Reboot", {"reboot": {"type": "Hard"}}, dict.fromkeys(STATES[:4], "Running")),
    ("Rebuild", {}, {"Running": "Running", "Stopped": "Stopped"}),
    ("Rescue", {}, {"Running": "Rescued", "Stopped": "Rescued"}),
    ("Unrescue", {}, {"Rescued": ""}),
    ("ResetState", {}, SAME),
    ("Migrate", {}, {"Running": "Running", "Stopped": "Stopped"}),
    ("LiveMigrate", {}, {"Running": "Running", "Paused": "Paused"}),
    # The guest has no agent: where it is legal, that is the answer.
    ("SetPassword", {"setPassword": {"secret": {"name": "word"}}}, {}),
)
"""Each with its parameters, and the state that it leads to by the states in which it is legal; "" is powerState's."""
REFUSALS = frozenset({"IllegalState", "NoGuestAgent"})
SIZES = {"random-small": {"vcpus": 1, "memory": "96Mi"}, "random-large": {"vcpus": 2, "memory": "128Mi"}}
SEED = 20261122
LONG = (pytest.mark.long, pytest.mark.timeout(3600))


@pytest.fixture
async def flavors(cloud: Cloud, project: str) -> AsyncIterator[None]:
    """A small and a large flavor."""
    for name, size in SIZES.items():
        body = {"apiVersion": API_VERSION, "kind": "Flavor", "metadata": {"name": name}}
        await cloud.client.apply(Flavor, body | {"spec": size | {"rootDisk": "1Gi"}}, manager="kumulus-tests")
    yield
    await cloud.empty(project)
    for name in SIZES:
        await cloud.client.delete(Flavor, name)


@dataclass
class Player:
    """Whoever asks things of a server, and knows what should come of them."""

    cloud: Cloud
    project: str
    name: str
    state: str = "Running"
    wish: str = "Running"
    large: bool = False
    plugged: bool = False
    copies: int = 0
    done: list[str] = field(default_factory=list)

    async def begin(self) -> None:
        """Make the server, and a volume for it."""
        await self.cloud.make(Volume, self.name, {"size": "8Mi"}, self.project)
        flavor = {"name": "random-small"}
        await self.cloud.make_server(self.project, self.name, flavor=flavor, stopTimeoutSeconds=1)
        await self.cloud.server_ready(self.project, self.name)

    async def end(self) -> None:
        """Delete both."""
        await self.cloud.delete(Server, self.name, self.project)
        await self.cloud.gone(Server, self.name, self.project)
        await self.cloud.delete(Volume, self.name, self.project)
        await self.cloud.gone(Volume, self.name, self.project)

    async def change(self, **spec: Any) -> None:
        """Change the server's spec."""
        self.done.append(f"{self.state}: {spec}")
        await self.cloud.client.patch_merge(Server, self.name, {"spec": spec}, self.project)

    async def act(self, kind: str, parameters: dict[str, Any], leads: dict[str, str]) -> None:
        """Make a ServerAction, legal or not."""
        self.done.append(f"{self.state}: {kind} {parameters}")
        status = (await self.cloud.act(self.project, self.name, kind, seconds=180, **parameters))["status"]
        if self.state not in leads:
            assert status["phase"] == "Failed", self.done
            assert status["reason"] in REFUSALS, (status, self.done)
            return
        assert status["phase"] == "Succeeded", (status, self.done)
        self.state = leads[self.state] or self.wish
        self.wish = "Running" if kind in ("Start", "Reboot") else self.wish

    async def power(self, wish: str) -> None:
        """Change powerState."""
        await self.change(powerState=wish)
        self.state = self.wish = wish

    async def lock(self) -> None:
        """Lock the server: what is legal otherwise is refused, until it is unlocked."""
        await self.act("Lock", {}, SAME)
        with pytest.raises(Invalid, match="locked"):
            await self.change(powerState="Stopped" if self.wish != "Stopped" else "Running")
        status = (await self.cloud.act(self.project, self.name, "Reboot"))["status"]
        assert (status["phase"], status["reason"]) == ("Failed", "Locked"), (status, self.done)
        await self.act("Unlock", {}, SAME)

    async def resize(self) -> None:
        """Change the flavor: it is given at once, and used with the next start."""
        self.large = not self.large
        name = "random-large" if self.large else "random-small"
        await self.change(flavor={"name": name})
        vcpus = SIZES[name]["vcpus"]
        await self.cloud.until(
            Server, self.name, lambda s: s["spec"]["assignment"]["resources"]["vcpus"] == vcpus, namespace=self.project
        )

    async def plug(self) -> None:
        """Give the server a volume, or take it away."""
        self.plugged = not self.plugged
        await self.change(volumes=[{"name": "data", "volume": {"name": self.name}}] if self.plugged else [])
        if self.plugged and await self._is_elsewhere():
            await self.cloud.until(
                Server,
                self.name,
                lambda s: condition(s, "DevicesApplied").get("reason") == ScheduledReason.VOLUME_ELSEWHERE,
                namespace=self.project,
            )
            self.plugged = False
            await self.change(volumes=[])
            return
        reasons = ("InUse",) if self.plugged else ("Available", "WaitingForFirstServer")
        await self.cloud.until(
            Volume, self.name, lambda v: condition(v, "Ready")["reason"] in reasons, namespace=self.project, seconds=90
        )

    async def _is_elsewhere(self) -> bool:
        """Whether the volume lies on another host than that to which the server has moved without it."""
        volume = await self.cloud.client.get(Volume, self.name, self.project) or {}
        server = await self.cloud.client.get(Server, self.name, self.project) or {}
        lies_on = volume["spec"].get("assignment", {}).get("host")
        return lies_on not in (None, server["spec"]["assignment"]["host"])

    async def copy(self) -> None:
        """Make an image of the server, and drop it."""
        self.copies += 1
        name = f"{self.name}-{self.copies}"
        await self.act("CreateImage", {"createImage": {"name": name}}, {state: state for state in STATES[:4]})
        if await self.cloud.client.get(Image, name, self.project) is not None:
            await self.cloud.delete(Image, name, self.project)


@dataclass
class Stage:
    """Where machines play: hypothesis runs them in a thread, and the cloud is asked from the test's loop.

    Attributes:
        steps: how many moves a machine makes.
        machines: how many there have been.
        moves: all that were made.
    """

    cloud: Cloud
    project: str
    lab: LabSettings
    loop: asyncio.AbstractEventLoop
    steps: int
    machines: int = 0
    moves: int = 0

    def run(self, asked: Coroutine[Any, Any, None]) -> None:
        """Wait for what is done in the loop."""
        asyncio.run_coroutine_threadsafe(asked, self.loop).result(400)


def stable(machine: Verbs) -> bool:
    """Whether the server is on or off, as a change of its parts needs."""
    return machine.goes_on() and machine.player.state in ("Running", "Stopped")


class Verbs(RuleBasedStateMachine):
    """A server of which all that can be asked is asked; after each move status and reality agree."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage
        # The first that hypothesis tries is the simplest, which always asks the same.
        self.left = stage.steps if stage.machines else 0
        stage.machines += 1
        self.player = Player(stage.cloud, stage.project, f"s{stage.machines}")
        if self.left:
            stage.run(self.player.begin())

    def teardown(self) -> None:
        """Remove the server."""
        if self.stage.machines > 1:
            self.stage.run(self.player.end())

    def goes_on(self) -> bool:
        """Whether there are moves left."""
        return self.left > 0

    def move(self, asked: Coroutine[Any, Any, None]) -> None:
        """Make a move, and compare."""
        self.left -= 1
        self.stage.moves += 1
        self.stage.run(self._move(asked))

    async def _move(self, asked: Coroutine[Any, Any, None]) -> None:
        stage = self.stage
        await asked
        await stage.cloud.tells(stage.project, self.player.name, self.player.state)
        await agreed(stage.cloud, stage.lab, seconds=30)

    @precondition(lambda machine: not machine.goes_on())
    @rule()
    def rest(self) -> None:
        """Do nothing more."""

    @precondition(goes_on)
    @rule(act=st.sampled_from(ACTS))
    def act(self, act: tuple[str, dict[str, Any], dict[str, str]]) -> None:
        """Make a ServerAction."""
        self.move(self.player.act(*act))

    @precondition(lambda machine: machine.goes_on() and POWER[machine.player.state])
    @rule(choice=st.integers(0, 3))
    def power(self, choice: int) -> None:
        """Change powerState."""
        wishes = POWER[self.player.state]
        self.move(self.player.power(wishes[choice % len(wishes)]))

    @precondition(goes_on)
    @rule()
    def lock(self) -> None:
        """Lock and unlock."""
        self.move(self.player.lock())

    @precondition(stable)
    @rule()
    def resize(self) -> None:
        """Change the flavor."""
        self.move(self.player.resize())

    @precondition(stable)
    @rule()
    def plug(self) -> None:
        """Plug a volume in or out."""
        self.move(self.player.plug())

    @precondition(goes_on)
    @rule()
    def copy(self) -> None:
        """Make an image."""
        self.move(self.player.copy())


@pytest.mark.usefixtures("flavors")
@pytest.mark.parametrize("steps", [pytest.param(16, id="sixteen"), pytest.param(200, marks=LONG, id="two hundred")])
async def test_after_any_verb_the_status_is_what_is(cloud: Cloud, project: str, lab: LabSettings, steps: int) -> None:
    """Verbs at random, legal and not: each leads where it should, and API and hosts agree after each."""
    await cloud.make_network(project)
    word = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "word", "namespace": project}}
    await cloud.client.create(SECRET, word | {"stringData": {"password": "a-word-that-nobody-takes"}})
    stage = Stage(cloud, project, lab, asyncio.get_running_loop(), steps)
    once = settings(
        max_examples=2,
        stateful_step_count=steps,
        phases=[Phase.generate],
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    await asyncio.to_thread(run_state_machine_as_test, seed(SEED)(lambda: Verbs(stage)), settings=once)
    assert stage.moves == steps
