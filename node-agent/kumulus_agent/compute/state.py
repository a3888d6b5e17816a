"""What a domain's state means to us."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

import libvirt

from kumulus_agent.compute.domain_xml import InstanceRecord, machine_of
from kumulus_agent.compute.plugged import Devices
from kumulus_agent.compute.size_xml import Size
from kumulus_agent.compute.slots import Slots
from kumulus_api.hardware import Hardware


class PowerState(StrEnum):
    """What libvirt says of a domain, as far as anybody asks."""

    RUNNING = "Running"
    PAUSED = "Paused"
    STOPPING = "Stopping"
    OFF = "Off"
    CRASHED = "Crashed"
    SUSPENDED = "Suspended"
    """By the guest itself (ACPI S3)."""
    SAVED = "Saved"
    """Off, its memory on the host's disk: the next start goes on from there."""


BUTTON_SECONDS: Final = 600.0
"""How long a guest that goes off is taken to follow the power button that we pressed."""


def pressed_lately(record: InstanceRecord, now: datetime) -> bool:
    """Say whether the guest was told to go off so recently that its going off says nothing about its own will."""
    if not record.power_button:
        return False
    return abs((now - datetime.fromisoformat(record.power_button)).total_seconds()) < BUTTON_SECONDS


_STATES: Final = {
    libvirt.VIR_DOMAIN_RUNNING: PowerState.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: PowerState.RUNNING,
    libvirt.VIR_DOMAIN_PAUSED: PowerState.PAUSED,
    libvirt.VIR_DOMAIN_SHUTDOWN: PowerState.STOPPING,
    libvirt.VIR_DOMAIN_SHUTOFF: PowerState.OFF,
    libvirt.VIR_DOMAIN_CRASHED: PowerState.CRASHED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: PowerState.SUSPENDED,
}
_OFF_REASONS: Final = {
    libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN: "GuestShutdown",
    libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED: "Destroyed",
    libvirt.VIR_DOMAIN_SHUTOFF_CRASHED: "Crashed",
    libvirt.VIR_DOMAIN_SHUTOFF_MIGRATED: "Migrated",
    libvirt.VIR_DOMAIN_SHUTOFF_SAVED: "Saved",
    libvirt.VIR_DOMAIN_SHUTOFF_FAILED: "Failed",
    libvirt.VIR_DOMAIN_SHUTOFF_FROM_SNAPSHOT: "FromSnapshot",
    libvirt.VIR_DOMAIN_SHUTOFF_DAEMON: "HypervisorDaemon",
}
_PAUSED_REASONS: Final = {
    libvirt.VIR_DOMAIN_PAUSED_USER: "User",
    libvirt.VIR_DOMAIN_PAUSED_MIGRATION: "Migration",
    libvirt.VIR_DOMAIN_PAUSED_IOERROR: "DiskError",
    libvirt.VIR_DOMAIN_PAUSED_POSTCOPY: "Migration",
}


@dataclass(frozen=True, slots=True)
class InstanceState:
    """One of our domains as libvirt sees it now.

    Attributes:
        instance_id: from our metadata, equal to the domain's uuid.
        namespace: the Server's namespace at definition.
        name: the Server's name at definition.
        epoch: the assignment's epoch at definition.
        state: power state.
        reason: why, in CamelCase; ``Unknown`` after a host boot or where libvirt gives none.
        shutdown_by_guest: the guest turned itself off without our asking, recorded or seen.
        guest_shutdown: the recorded RFC 3339 time, or empty.
        image_digest: base image of its root disk, or empty.
        persistent: False for a domain that libvirt forgets when it ends (an incoming migration).
        action: uid of the ServerAction that the last start belonged to, or empty.
        power_changes: the Server's count of changes of powerState that was acted upon last; None if it is not known.
        rescue: id of the rescue that this is the guest of, or empty.
        vcpus: number of virtual CPUs.
        memory: bytes.
        devices: what is plugged in, of one that was looked at alone.
        size: what it has and can have, of one that was looked at alone.
        slots: that are free, of one that was looked at alone.
        hardware: what its machine was made of when it was started.
        agent: a guest agent is there, of one that was looked at alone.
        full: files whose disk had no room for a write, of a guest that stands still for nothing else.
    """

    instance_id: str
    namespace: str
    name: str
    epoch: int
    state: PowerState
    reason: str
    shutdown_by_guest: bool
    guest_shutdown: str
    image_digest: str
    persistent: bool
    action: str = ""
    power_changes: int | None = None
    rescue: str = ""
    vcpus: int = 0
    memory: int = 0
    devices: Devices | None = None
    size: Size | None = None
    slots: Slots | None = None
    hardware: Hardware = field(default_factory=Hardware)
    agent: bool = False
    full: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UnknownDomain:
    """A domain without our metadata, or whose metadata is not its own; it is reported and never touched."""

    uuid: str
    name: str
    running: bool


@dataclass(frozen=True, slots=True)
class Observed:
    """All domains of the host: ours by instance id, and the rest."""

    instances: dict[str, InstanceState]
    unknown: tuple[UnknownDomain, ...]


def instance_state(
    record: InstanceRecord,
    code: int,
    reason: int,
    *,
    persistent: bool,
    asked_off: bool,
) -> InstanceState:
    """Interpret libvirt's numbers.

    Args:
        record: our metadata in the domain.
        code: ``virDomainState``.
        reason: the state's reason, of the enumeration that belongs to ``code``.
        persistent: the domain is defined, not only running.
        asked_off: we asked this guest to stop, so that its going off says nothing about the guest's will.
    """
    state = _STATES.get(code, PowerState.OFF)
    went_off = state is PowerState.OFF and reason == libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN
    reasons = {PowerState.OFF: _OFF_REASONS, PowerState.PAUSED: _PAUSED_REASONS}.get(state, {})
    return InstanceState(
        instance_id=record.instance_id,
        namespace=record.namespace,
        name=record.name,
        epoch=record.epoch,
        state=state,
        # A guest that we ended has not crashed, though libvirt may see its QEMU vanish before it hears of us.
        reason="Destroyed" if state is PowerState.OFF and record.switched_off else reasons.get(reason, "Unknown"),
        shutdown_by_guest=bool(record.guest_shutdown) or (went_off and not asked_off),
        guest_shutdown=record.guest_shutdown,
        image_digest=record.image_digest,
        persistent=persistent,
        action=record.action,
        power_changes=record.power_changes,
        rescue=record.rescue,
        hardware=machine_of(record.machine),
    )
