"""A host with one instance that can be seen through: it obeys an agent's plans and can be cut off anywhere."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from kumulus_agent.servers.desired import Desired, DesiredImage
from kumulus_agent.servers.plan import plan
from kumulus_agent.servers.terms import ALIVE, Act, Action, Claim, Observed, Plan, Power, Report
from kumulus_api.server import PowerState
from kumulus_api.server_action import ActionType

INSTANCE = "22222222-2222-4222-8222-222222222222"
IMAGE = DesiredImage("http://images/tiny", "qcow2", "sha256:" + "1" * 64, 1 << 20)
OTHER = replace(IMAGE, digest="sha256:" + "2" * 64)
LIMIT = 20.0
OFF = {Power.ABSENT, Power.OFF, Power.CRASHED}


class Killed(Exception):
    """The agent ends here."""


@dataclass
class Guest:
    """A host with one instance: what libvirt, the disk and the agent's memory hold, and what has happened to it."""

    obeys: bool = True
    power: Power = Power.ABSENT
    by_guest: bool = False
    noted: int | None = None
    started_for: str = ""
    rescue: str = ""
    pressed: dict[str, float] = field(default_factory=dict)
    rebuilt: set[str] = field(default_factory=set)
    stopping_for: float | None = None
    uptime: float | None = None
    disk: str = "none"
    memory: int = 0
    boots: int = 0
    presses: int = 0
    disks: int = 0

    def observed(self, act: Act | None) -> Observed:
        """What an agent sees."""
        known = self.power is not Power.ABSENT
        uid = act.uid if act is not None else ""
        return Observed(
            power=self.power,
            epoch=1 if known else 0,
            off_by_guest=self.by_guest and self.power is Power.OFF,
            shutdown_recorded=self.by_guest,
            remains=self.disks > 0,
            uptime=self.uptime,
            stopping_for=self.stopping_for,
            power_changes=self.noted if known else None,
            started_for=self.started_for if known else "",
            rescue=self.rescue if known else "",
            pressed_for=self.pressed.get(uid),
            rebuilt=uid in self.rebuilt,
        )

    def do(self, action: Action, desired: Desired, act: Act | None) -> None:
        """Carry a step out."""
        uid = act.uid if act is not None else ""
        if action is Action.START:
            self._start(desired, uid)
        elif action is Action.REBUILD and act is not None and act.image is not None:
            if self.power in ALIVE:
                raise AssertionError("a disk under a running guest")
            self.power, self.by_guest, self.disk, self.disks = Power.ABSENT, False, act.image.digest, self.disks + 1
            self.rebuilt.add(uid)
        elif action in _MOVES:
            self.power = _MOVES[action]
            self.noted = self.noted if action is Action.RESUME else desired.power_changes
        elif action is Action.NOTE_WISH:
            self.noted = desired.power_changes
        elif action in {Action.PRESS_POWER_BUTTON, Action.PRESS_FOR_ACTION}:
            self._press(uid if action is Action.PRESS_FOR_ACTION else "")
        elif action is Action.SWITCH_OFF:
            self.power, self.stopping_for = Power.OFF, None
        elif action in {Action.FORGET_SHUTDOWN, Action.DISCARD_MEMORY}:
            self.power, self.by_guest = Power.ABSENT, False
        elif action is Action.FORGET_FAILURES:
            self.uptime = None

    def _start(self, desired: Desired, uid: str) -> None:
        if self.power in ALIVE:
            raise AssertionError("a guest is started twice")
        if self.power is not Power.SUSPENDED or uid:
            self.boots += 1
            self.memory = self.boots
            self.started_for, self.rescue, self.noted = uid, desired.rescue_id, desired.power_changes
            if self.disk == "none":
                self.disk, self.disks = desired.image.digest if desired.image else "", self.disks + 1
        self.power, self.by_guest, self.stopping_for, self.uptime = Power.RUNNING, False, None, 0.0

    def _press(self, uid: str) -> None:
        self.presses += 1
        if uid:
            self.pressed[uid] = 0.0
        else:
            self.stopping_for = 0.0
        if self.obeys and self.power is Power.RUNNING:
            self.power, self.stopping_for = Power.OFF, None

    def passes(self, seconds: float) -> None:
        """Let time pass."""
        self.pressed = {uid: since + seconds for uid, since in self.pressed.items()}
        self.stopping_for = None if self.stopping_for is None else self.stopping_for + seconds
        self.uptime = None if self.uptime is None else self.uptime + seconds

    def agent_dies(self) -> None:
        """Forget what only the agent knew."""
        self.stopping_for = self.uptime = None


_MOVES = {Action.PAUSE: Power.PAUSED, Action.RESUME: Power.RUNNING, Action.SAVE: Power.SUSPENDED}


@dataclass
class World:
    """A Server, its action, and the host that obeys."""

    guest: Guest = field(default_factory=Guest)
    wish: PowerState = PowerState.RUNNING
    changes: int = 0
    recovers: bool = True
    rescued: str = ""
    act: Act | None = None
    acts: int = 0
    report: Report | None = None
    told: Plan = field(default_factory=Plan)
    image: DesiredImage = IMAGE

    @property
    def desired(self) -> Desired:
        """The Server as the agent reads it."""
        running = self.wish is PowerState.RUNNING
        return Desired(
            ("demo", "web"), "u", 1, INSTANCE, 1, 1, 1 << 27, 1 << 30, self.image, (), (), running, False, "", "",
            False, False, True, rest=PowerState.STOPPED if running else self.wish, power_changes=self.changes,
            recovers=self.recovers, rescue=IMAGE if self.rescued else None, rescue_id=self.rescued,
        )  # fmt: skip

    def want(self, wish: PowerState) -> None:
        """Change powerState as admission counts it."""
        self.changes += wish is not self.wish
        self.wish = wish

    def ask(self, type_: ActionType, *, hard: bool = False, image: DesiredImage | None = None) -> Act:
        """Open an action as the operator does."""
        if hard or type_ is ActionType.START:
            self.want(PowerState.RUNNING)
        self.acts += 1
        uid = f"00000000-0000-4000-8000-{self.acts:012d}"
        self.act, self.report = Act(f"act-{self.acts}", uid, type_, hard, image), None
        if type_ is ActionType.RESCUE:
            self.rescued = uid
        if type_ is ActionType.UNRESCUE:
            self.rescued = ""
        return self.act

    def step(self, budget: int | None = None) -> int:
        """Plan and do once; give the number of steps. With a budget the agent dies when that many were done."""
        made = plan(self.desired, self.guest.observed(self.act), Claim.OURS, LIMIT, self.act)
        for number, item in enumerate(made.steps):
            if budget is not None and number >= budget:
                self.guest.agent_dies()
                raise Killed
            self.guest.do(item.action, self.desired, self.act)
        self.told = made
        if made.report is not None and self.act is not None:
            if budget is not None and len(made.steps) >= budget:
                self.guest.agent_dies()
                raise Killed
            self.report = made.report
            if self.act.type is ActionType.REBUILD and self.act.image is not None:
                self.image = self.act.image
            self.act = None
        return len(made.steps)

    def settle(self) -> None:
        """Go on until nothing more is done, letting time pass where something waits for it."""
        for _ in range(30):
            if self.step() == 0 and self.act is None and self.told.look_again is None:
                return
            self.guest.passes(self.told.look_again or 0.0)
        raise AssertionError(f"no end: {self.told}, {self.guest}")


def running(*, obeys: bool = True) -> World:
    """A server that has been started."""
    world = World(Guest(obeys))
    world.settle()
    return world


def brought_to(power: PowerState) -> World:
    """A server that was started and brought to a powerState."""
    world = running()
    world.want(power)
    world.settle()
    return world
