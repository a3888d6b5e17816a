"""The words of a plan: what is seen of an instance, what may be done, and what comes out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from kumulus_agent.compute.plugged import Devices
from kumulus_agent.compute.size_xml import Size
from kumulus_agent.compute.slots import Slots
from kumulus_agent.passthrough.facts import Passed
from kumulus_agent.servers.desired import DesiredImage
from kumulus_api.hardware import Hardware
from kumulus_api.server_action import ActionPhase, ActionReason, ActionType
from kumulus_api.server_status import ObservedPowerState, ReadyReason

CRASH_PAUSE = 30.0
"""Seconds that a guest must have run for its crash to be answered by an immediate start."""


class Power(StrEnum):
    """What libvirt says of the domain."""

    ABSENT = "Absent"
    OFF = "Off"
    RUNNING = "Running"
    PAUSED = "Paused"
    STOPPING = "Stopping"
    CRASHED = "Crashed"
    SUSPENDED = "Suspended"
    """Off, its memory on the disk."""


ALIVE = frozenset({Power.RUNNING, Power.PAUSED, Power.STOPPING})

POWER_STATES = {
    Power.ABSENT: ObservedPowerState.STOPPED,
    Power.OFF: ObservedPowerState.STOPPED,
    Power.RUNNING: ObservedPowerState.RUNNING,
    Power.STOPPING: ObservedPowerState.RUNNING,
    Power.PAUSED: ObservedPowerState.PAUSED,
    Power.CRASHED: ObservedPowerState.CRASHED,
    Power.SUSPENDED: ObservedPowerState.SUSPENDED,
}


class Claim(StrEnum):
    """What a live read of the API says about an instance that is on this host.

    ``OURS``: a Server is assigned to this host with this instance. ``DELETING``: the same, and its deletion was asked
    for. ``ABSENT``: no such Server. ``ELSEWHERE``: the Server has another host or another instance. ``INCOMING``: it
    migrates to this host.
    """

    OURS = "Ours"
    DELETING = "Deleting"
    ABSENT = "Absent"
    ELSEWHERE = "Elsewhere"
    INCOMING = "Incoming"


@dataclass(frozen=True, slots=True)
class Report:
    """What is told of an act: how it ended, why, and a sentence."""

    outcome: ActionPhase
    reason: str
    message: str = ""


DONE = Report(ActionPhase.SUCCEEDED, ActionReason.COMPLETED.value)


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of the root disk that was begun: whether its guest has to stay off, and how it ended, if it has."""

    offline: bool
    report: Report | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """An act that was begun and goes on beside everything else; how it ended, if it has."""

    report: Report | None = None


@dataclass(frozen=True, slots=True)
class Observed:
    """An instance as it is on this host.

    Attributes:
        power: of the domain.
        epoch: that the domain was started for; 0 without a domain.
        off_by_guest: the guest turned itself off, and nobody wanted anything else since.
        shutdown_recorded: and that is written down beside the domain.
        plugged: taps that are joined to their network.
        carried: VNIs of the networks that this host keeps up to date.
        remains: whether disks, seed or log of the instance exist.
        uptime: seconds since this agent started the domain; None if another did.
        stopping_for: seconds since the power button was pressed; None if it was not.
        revoked: the Host's list of revoked instances names it with its epoch or a later one.
        power_changes: the Server's count of changes of powerState that was acted upon last; None if it is not known.
        halted: a paused guest is so because somebody asked for it, not because of a fault or a migration.
        full: files of a paused guest whose disk had no room for a write; empty if it is paused for anything else.
        room: and there is room again.
        started_for: uid of the ServerAction that the last start belonged to, or empty.
        rescue: id of the rescue that the domain is the guest of, or empty.
        pressed_for: seconds since the power button was pressed for the action under way; None if it was not.
        rebuilt: the root disk has been made anew for the action under way.
        size: virtual CPUs and bytes of memory of the domain; None without one.
        devices: what is plugged into the domain; None without one.
        held: taps that count as being here.
        regrouped: those of them that count as being in other security groups than they shall.
        limits: what the domain can have while it runs; None without one.
        slots: how much more can be plugged into the guest while it runs; None without one.
        hardware: what the domain's machine was made of when it was started; None without one.
        copy: of the root disk, for the action under way; None if this agent has begun none.
        agent: a guest agent is there.
        asked_devices: how many devices of the host of each class it is to have.
        attempt: what goes on beside everything else for the action under way; None if this agent has begun nothing.
    """

    power: Power = Power.ABSENT
    epoch: int = 0
    off_by_guest: bool = False
    shutdown_recorded: bool = False
    plugged: frozenset[str] = frozenset()
    carried: frozenset[int] = frozenset()
    remains: bool = False
    uptime: float | None = None
    stopping_for: float | None = None
    revoked: bool = False
    power_changes: int | None = None
    halted: bool = True
    full: tuple[str, ...] = ()
    room: bool = False
    started_for: str = ""
    rescue: str = ""
    pressed_for: float | None = None
    rebuilt: bool = False
    size: tuple[int, int] | None = None
    devices: Devices | None = None
    held: frozenset[str] = frozenset()
    regrouped: frozenset[str] = frozenset()
    limits: Size | None = None
    slots: Slots | None = None
    hardware: Hardware | None = None
    copy: Copy | None = None
    agent: bool = False
    attempt: Attempt | None = None
    asked_devices: Mapping[str, int] = field(default_factory=dict)

    @property
    def passed(self) -> tuple[Passed, ...]:
        """What the domain has of the host."""
        return self.devices.passed if self.devices is not None else ()

    @property
    def has_other_devices(self) -> bool:
        """Whether the domain has others of the host than it gets at its next start."""
        there = Counter(item.resource_class for item in self.passed if item.resource_class)
        return self.power is not Power.ABSENT and there != self.asked_devices

    def machine(self, given: Hardware) -> Hardware:
        """Give what the guest's machine is made of now; without a guest, what it is given."""
        return self.hardware if self.hardware is not None else given


@dataclass(frozen=True, slots=True)
class Act:
    """A ServerAction that is open and this agent's to carry out.

    Attributes:
        name: the object's.
        uid: the object's; what was done for it is known by that.
        type: what is to be done.
        hard: of a Reboot: the guest is not asked.
        image: of a Rebuild: the base of the new root disk.
        image_name: of a CreateImage: what the copy is called.
        user: of a SetPassword: whose it is.
    """

    name: str
    uid: str
    type: ActionType
    hard: bool = False
    image: DesiredImage | None = None
    image_name: str = ""
    user: str = ""


class Action(StrEnum):
    """The verbs of the agent, in the order in which they come."""

    CARRY = "carry the networks"
    FETCH = "fetch the image"
    START = "start"
    ATTACH = "attach"
    PLUG = "plug in"
    DETACH = "detach"
    GROW = "grow"
    LIMIT = "limit the root disk"
    PAUSE = "pause"
    RESUME = "resume"
    SAVE = "write the memory to the disk"
    NOTE_WISH = "note the wish"
    PRESS_POWER_BUTTON = "press the power button"
    PRESS_FOR_ACTION = "press the power button for the action"
    SWITCH_OFF = "switch off"
    REBUILD = "make the root disk anew"
    COPY_DISK = "begin to copy the root disk"
    SET_PASSWORD = "have the password set"  # noqa: S105 - a word, and no secret
    FORGET_SHUTDOWN = "forget the guest's shutdown"
    FORGET_FAILURES = "forget what failed"
    DISCARD_MEMORY = "discard the saved memory"
    GIVE_BACK = "give the host's devices back"
    RECORD_SHUTDOWN = "record the guest's shutdown"
    UNPLUG = "take the interfaces away"
    REMOVE = "remove"
    RELEASE = "release the object"
    REPORT = "report as unclaimed"


@dataclass(frozen=True, slots=True)
class Step:
    """One act and why."""

    action: Action
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in order, and what the status says once they are done.

    Attributes:
        steps: what to do.
        ready: reason of the Ready condition afterwards; None leaves the status alone.
        power: power state afterwards.
        message: of the Ready condition.
        look_again: seconds after which to look again, if nothing calls before.
        report: what is told of the action under way, once the steps are done; None while it goes on.
    """

    steps: tuple[Step, ...] = ()
    ready: ReadyReason | None = None
    power: ObservedPowerState = ObservedPowerState.UNKNOWN
    message: str = ""
    look_again: float | None = None
    report: Report | None = None
    actions: frozenset[Action] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "actions", frozenset(step.action for step in self.steps))
