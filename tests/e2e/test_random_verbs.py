"""All that can be asked of a server, at random: each leads where it should, and status and reality agree after it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from kumulus_api import API_VERSION, Flavor, Image, Server, Volume
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
    """Whoever asks things of the server `a`, and knows what should come of them."""

    cloud: Cloud
    project: str
    dice: random.Random
    state: str = "Running"
    wish: str = "Running"
    large: bool = False
    plugged: bool = False
    copies: int = 0
    done: list[str] = field(default_factory=list)

    def moves(self) -> list[Callable[[], Awaitable[None]]]:
        """Give one of each kind, in any order."""
        acts = [lambda act=act: self.act(*act) for act in ACTS]
        found = [*acts, *[self.power] * 6, self.lock, self.resize, self.plug, self.plug, self.copy]
        self.dice.shuffle(found)
        return found

    async def change(self, **spec: Any) -> None:
        """Change the server's spec."""
        self.done.append(f"{self.state}: {spec}")
        await self.cloud.client.patch_merge(Server, "a", {"spec": spec}, self.project)

    async def act(self, kind: str, parameters: dict[str, Any], leads: dict[str, str]) -> None:
        """Make a ServerAction, legal or not."""
        self.done.append(f"{self.state}: {kind} {parameters}")
        status = (await self.cloud.act(self.project, "a", kind, seconds=180, **parameters))["status"]
        if self.state not in leads:
            assert status["phase"] == "Failed", self.done
            assert status["reason"] in REFUSALS, (status, self.done)
            return
        assert status["phase"] == "Succeeded", (status, self.done)
        self.state = leads[self.state] or self.wish
        self.wish = "Running" if kind in ("Start", "Reboot") else self.wish

    async def power(self) -> None:
        """Change powerState, if it can be."""
        if POWER[self.state]:
            wish = self.dice.choice(POWER[self.state])
            await self.change(powerState=wish)
            self.state = self.wish = wish

    async def lock(self) -> None:
        """Lock the server: what is legal otherwise is refused, until it is unlocked."""
        await self.act("Lock", {}, SAME)
        with pytest.raises(Invalid, match="locked"):
            await self.change(powerState="Stopped" if self.wish != "Stopped" else "Running")
        status = (await self.cloud.act(self.project, "a", "Reboot"))["status"]
        assert (status["phase"], status["reason"]) == ("Failed", "Locked"), (status, self.done)
        await self.act("Unlock", {}, SAME)

    async def resize(self) -> None:
        """Change the flavor: it is given at once, and used with the next start."""
        if self.state not in ("Running", "Stopped"):
            return
        self.large = not self.large
        name = "random-large" if self.large else "random-small"
        await self.change(flavor={"name": name})
        vcpus = SIZES[name]["vcpus"]
        await self.cloud.until(
            Server, "a", lambda s: s["spec"]["assignment"]["resources"]["vcpus"] == vcpus, namespace=self.project
        )

    async def plug(self) -> None:
        """Give the server a volume, or take it away."""
        if self.state not in ("Running", "Stopped"):
            return
        self.plugged = not self.plugged
        await self.change(volumes=[{"name": "data", "volume": {"name": "data"}}] if self.plugged else [])
        reasons = ("InUse",) if self.plugged else ("Available", "WaitingForFirstServer")
        await self.cloud.until(
            Volume, "data", lambda v: condition(v, "Ready")["reason"] in reasons, namespace=self.project, seconds=90
        )

    async def copy(self) -> None:
        """Make an image of the server, and drop it."""
        self.copies += 1
        name = f"copy-{self.copies}"
        await self.act("CreateImage", {"createImage": {"name": name}}, {state: state for state in STATES[:4]})
        if await self.cloud.client.get(Image, name, self.project) is not None:
            await self.cloud.delete(Image, name, self.project)


@pytest.mark.usefixtures("flavors")
@pytest.mark.parametrize(
    ("seed", "steps"), [(20260500, 24), pytest.param(20261122, 200, marks=LONG)], ids=["each once", "two hundred"]
)
async def test_after_any_verb_the_status_is_what_is(
    cloud: Cloud, project: str, lab: LabSettings, seed: int, steps: int
) -> None:
    """Verbs at random, legal and not: each leads where it should, and API and hosts agree after each."""
    player = Player(cloud, project, random.Random(seed))
    await cloud.make_network(project)
    word = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "word", "namespace": project}}
    await cloud.client.create(SECRET, word | {"stringData": {"password": "a-word-that-nobody-takes"}})
    await cloud.make(Volume, "data", {"size": "8Mi"}, project)
    await cloud.make_server(project, "a", flavor={"name": "random-small"}, stopTimeoutSeconds=1)
    await cloud.server_ready(project, "a")
    moves: list[Callable[[], Awaitable[None]]] = []
    for _ in range(steps):
        moves = moves or player.moves()
        await moves.pop()()
        await cloud.tells(project, "a", player.state)
        await agreed(cloud, lab, seconds=30)
