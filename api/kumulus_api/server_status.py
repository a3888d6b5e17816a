"""What is reported of a Server, and the reasons that its conditions give."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from kumulus_api.base import (
    HostName,
    IPAddressText,
    MACAddress,
    Model,
    ObjectName,
    Quantity,
    Status,
    Timestamp,
    UUIDText,
    list_map,
    whole,
)
from kumulus_api.passthrough import GivenDevice

_BASE64 = r"[A-Za-z0-9+/]+={0,2}"
_LONGEST_PASSWORD = 1020
"""As long as Nova takes it."""


class ObservedPowerState(StrEnum):
    """What libvirt says that the server does (Nova's power states, and the states in which it is kept)."""

    RUNNING = "Running"
    STOPPED = "Stopped"
    PAUSED = "Paused"
    SUSPENDED = "Suspended"
    SHELVED = "Shelved"
    RESCUED = "Rescued"
    """It runs from a rescue image, its own root disk beside it."""
    CRASHED = "Crashed"
    UNKNOWN = "Unknown"


class ServerAddress(Model):
    """An address of the server."""

    network: ObjectName
    address: IPAddressText
    mac: MACAddress


class FloatingAddress(Model):
    """An address that leads to the server from outside (of type `floating` among Nova's addresses)."""

    name: ObjectName
    """The FloatingIP."""
    network: ObjectName
    """The external network."""
    address: IPAddressText
    fixed_address: IPAddressText
    """The server's own that it is translated to."""

    model_config = whole()


class StartDuration(Model):
    """How long a step of the last start took."""

    step: Annotated[str, Field(max_length=32)]
    milliseconds: Annotated[int, Field(ge=0)]


class MigrationPart(Model):
    """What one host's agent says of its part in a migration."""

    host: HostName
    action: ObjectName
    """The ServerAction."""
    state: Annotated[str, Field(max_length=64)]
    message: Annotated[str, Field(max_length=2048)] | None = None
    downtime_milliseconds: Annotated[int, Field(ge=0)] | None = None
    """How long the guest stood still, as its hypervisor measured it."""
    total_milliseconds: Annotated[int, Field(ge=0)] | None = None
    """How long it took to carry the guest over."""


class Migration(Model):
    """A migration: each of the two agents tells its part."""

    source: MigrationPart | None = None
    target: MigrationPart | None = None


class GuestSize(Model):
    """What the guest has now."""

    vcpus: Annotated[int, Field(ge=1)]
    memory: Quantity


class GuestSystem(Model):
    """The guest's operating system, in the words of its os-release(5)."""

    id: Annotated[str, Field(max_length=64)] | None = None
    """One word: `debian`, `mswindows`."""
    name: Annotated[str, Field(max_length=128)] | None = None
    """For people, as a rule with the version."""
    version: Annotated[str, Field(max_length=64)] | None = None
    kernel: Annotated[str, Field(max_length=128)] | None = None
    """The kernel's release."""
    machine: Annotated[str, Field(max_length=32)] | None = None
    """The architecture that the kernel was built for."""


class GuestAddress(Model):
    """An address that the guest has, whoever gave it."""

    interface: Annotated[str, Field(max_length=64)]
    """What the guest calls the interface."""
    mac: MACAddress | None = None
    address: IPAddressText
    prefix: Annotated[int, Field(ge=0, le=128)]


class GuestAgent(Model):
    """What the guest says of itself through qemu-guest-agent. It is the guest's word: nothing is decided by it."""

    connected_since: Timestamp
    """When its agent was first seen there, in this life of the guest."""
    os: GuestSystem | None = None
    hostname: Annotated[str, Field(max_length=253)] | None = None
    addresses: Annotated[list[GuestAddress], Field(max_length=32)] = Field(default_factory=list)
    """Without loopback and link-local ones; those of the server's own interfaces first."""


def is_guest_password(text: str) -> bool:
    """Tell whether a text is what `guestPassword` may be."""
    return len(text) <= _LONGEST_PASSWORD and len(text) % 4 == 0 and re.fullmatch(_BASE64, text) is not None


class ServerStatus(Status):
    """What the agent found; the operator's word where no agent can speak."""

    resources: GuestSize | None = None
    """Of a guest that is in memory, there or on the disk."""
    power_state: ObservedPowerState | None = None
    addresses: Annotated[list[ServerAddress], Field(max_length=64)] = Field(default_factory=list)
    floating_ips: Annotated[list[FloatingAddress], Field(max_length=64, alias="floatingIPs")] = Field(
        default_factory=list
    )
    """Written by the operator."""
    start_durations: Annotated[list[StartDuration], Field(max_length=16, json_schema_extra=list_map("step"))] = Field(
        default_factory=list
    )
    migration: Migration | None = None
    """The last migration, or the one that goes on."""
    guest_agent: GuestAgent | None = None
    """Only there while a guest agent is; one that does not answer shows nothing but since when."""
    devices: Annotated[list[GivenDevice], Field(max_length=32)] = Field(default_factory=list)
    """What it has of its host, also while it is off."""
    guest_password: Annotated[str, Field(max_length=_LONGEST_PASSWORD, pattern=f"^{_BASE64}$")] | None = None
    """What the guest has told the metadata service as its administrator's password: encrypted with the user's public
    key, in base64 (Nova's get-password). It is told once; a Rebuild clears it."""
    detached: Annotated[list[UUIDText], Field(max_length=32)] = Field(default_factory=list)
    """Ids of ports and volumes that it was given, that its spec does not name any more, and that are unplugged."""


class ServerConditionType(StrEnum):
    """Conditions of a Server; Ready sums the others up."""

    READY = "Ready"
    SCHEDULED = "Scheduled"
    IMAGE_READY = "ImageReady"
    VOLUMES_READY = "VolumesReady"
    NETWORK_READY = "NetworkReady"
    LIVE_MIGRATABLE = "LiveMigratable"
    RESTART_REQUIRED = "RestartRequired"
    """The guest has another size, or other volumes, than it was given: it gets them when it is stopped and started, or
    rebooted hard."""
    FLAVOR_APPLIED = "FlavorApplied"
    """Whether a changed flavor was admitted; only there once one was not."""
    DEVICES_APPLIED = "DevicesApplied"
    """Whether changed networks, security groups and volumes were admitted; only there once one was not."""


class LiveMigratableReason(StrEnum):
    """Whether a Server could migrate while it runs, and why not."""

    MIGRATABLE = "Migratable"
    NOT_RUNNING = "NotRunning"
    """A server that is off migrates cold."""
    RESCUED = "Rescued"
    PINNED = "PinnedToHost"
    """Its placement names its host; an administrator may name another in the action."""
    DEDICATED_CPUS = "DedicatedCPUs"
    """Its vCPUs are tied to CPUs of this host; it migrates cold."""
    HOST_DEVICES = "HostDevices"
    """It has devices of this host; it migrates cold, and gets others there."""
    VOLUME_BOUND = "VolumeBoundToHost"
    """A volume of it that is not shared has snapshots or copies, or is read-only."""


class DeviceReason(StrEnum):
    """Reasons for which VolumesReady or NetworkReady of a running Server is not True."""

    ATTACH_FAILED = "AttachFailed"
    DETACH_PENDING = "DetachPending"
    """The guest has not let go of a device that is taken away; it is asked again and again."""
    RESTART_REQUIRED = "RestartRequired"
    """On its bus (IDE, SATA) no disk comes or leaves while the guest runs."""
    NO_FREE_SLOT = "NoFreeSlot"
    """The running guest's machine has no place for it: it comes with the next start."""


class RestartReason(StrEnum):
    """Reasons of a Server's condition RestartRequired."""

    FLAVOR_CHANGED = "FlavorChanged"
    FIXED_SIZE = "FixedSize"
    """The flavor has changed, and a guest with dedicated CPUs, NUMA nodes or huge pages does not grow as it runs."""
    VOLUMES_CHANGED = "VolumesChanged"
    """On the guest's bus (IDE, SATA) no disk comes or leaves while it runs."""
    NO_FREE_SLOT = "NoFreeSlot"
    """The running guest's machine has no place for all its volumes and interfaces."""
    APPLIED = "Applied"


class ScheduledReason(StrEnum):
    """Why a Server is placed, or is not (all of the latter are lifted by a change that the message names)."""

    ASSIGNED = "Assigned"
    ADOPTED = "Adopted"
    NOT_IN_PROJECT = "NotInProject"
    QUOTA_EXCEEDED = "QuotaExceeded"
    NO_VALID_HOST = "NoValidHost"
    SERVER_GROUP_NOT_FOUND = "ServerGroupNotFound"
    FLAVOR_NOT_FOUND = "FlavorNotFound"
    IMAGE_NOT_FOUND = "ImageNotFound"
    IMAGE_NOT_READY = "ImageNotReady"
    IMAGE_DEACTIVATED = "ImageDeactivated"
    DISK_TOO_SMALL = "FlavorDiskTooSmall"
    MEMORY_TOO_SMALL = "FlavorMemoryTooSmall"
    HARDWARE_CONFLICT = "HardwareConflict"
    """Flavor and image ask for what does not go together."""
    NETWORK_NOT_FOUND = "NetworkNotFound"
    NETWORK_NOT_READY = "NetworkNotReady"
    NETWORK_AMBIGUOUS = "NetworkAmbiguous"
    PORT_NOT_FOUND = "PortNotFound"
    PORT_IN_USE = "PortInUse"
    SECURITY_GROUP_NOT_FOUND = "SecurityGroupNotFound"
    SECURITY_GROUP_NOT_READY = "SecurityGroupNotReady"
    """It is beyond the project's quota."""
    SECURITY_GROUP_CONFLICT = "SecurityGroupConflict"
    """A port would be in stateful and stateless groups at once."""
    ADDRESS_IN_USE = "AddressInUse"
    ADDRESS_INVALID = "AddressInvalid"
    ADDRESSES_EXHAUSTED = "AddressesExhausted"
    VOLUME_NOT_FOUND = "VolumeNotFound"
    VOLUME_NOT_READY = "VolumeNotReady"
    VOLUME_IN_USE = "VolumeInUse"
    VOLUME_NOT_BOOTABLE = "VolumeNotBootable"
    VOLUME_ELSEWHERE = "VolumeOnAnotherHost"
    KEY_PAIR_NOT_FOUND = "KeyPairNotFound"
    USER_DATA_NOT_FOUND = "UserDataNotFound"
    USER_DATA_TOO_LARGE = "UserDataTooLarge"
    INSTANCE_CONFLICT = "InstanceConflict"
    FINALIZER_MISSING = "FinalizerMissing"


class ReadyReason(StrEnum):
    """Reasons of a Server's Ready condition."""

    RUNNING = "Running"
    STOPPED = "Stopped"
    STOPPED_BY_GUEST = "StoppedByGuest"
    STARTING = "Starting"
    STOPPING = "Stopping"
    CRASHED = "Crashed"
    PAUSED = "Paused"
    SUSPENDED = "Suspended"
    SHELVED = "Shelved"
    RESCUED = "Rescued"
    ILLEGAL_STATE = "IllegalState"
    """The powerState asked for has no meaning for the guest as it is."""
    PENDING = "Pending"
    HOST_SILENT = "HostSilent"
    HOST_FULL = "HostFull"
    HOST_DISK_FULL = "HostDiskFull"
    """The guest stands still since its host's disk had no room for a write; it goes on by itself."""
    IMAGE_FAILED = "ImageFailed"
    BOOT_DATA_FAILED = "BootDataFailed"
    NETWORK_FAILED = "NetworkFailed"
    START_FAILED = "StartFailed"
    DEVICES_FAILED = "DevicesFailed"
    """The host could not start it with the devices that it was to get."""
    DEVICES_UNAVAILABLE = "DevicesUnavailable"
    """Its host has too few free devices of a class."""
    SUSPEND_FAILED = "SuspendFailed"
    MIGRATING = "Migrating"
