"""ServerAction: one imperative act on a server and its history (Nova's server actions and instance actions)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from kumulus_api.base import (
    Column,
    Definition,
    HostName,
    Kind,
    LocalReference,
    Model,
    Name,
    ObjectName,
    Reference,
    Rule,
    Status,
    Timestamp,
    UUIDText,
    validated,
)
from kumulus_api.server_assignment import AssignedImage


class ActionType(StrEnum):
    """What is to be done; each is legal in the states in which Nova allows it."""

    START = "Start"
    REBOOT = "Reboot"
    REBUILD = "Rebuild"
    RESCUE = "Rescue"
    UNRESCUE = "Unrescue"
    RESET_STATE = "ResetState"
    CREATE_IMAGE = "CreateImage"
    SET_PASSWORD = "SetPassword"  # noqa: S105 - a word, and no secret
    LOCK = "Lock"
    UNLOCK = "Unlock"
    CONFIRM_RESIZE = "ConfirmResize"
    REVERT_RESIZE = "RevertResize"
    MIGRATE = "Migrate"
    LIVE_MIGRATE = "LiveMigrate"


MIGRATIONS = frozenset({ActionType.MIGRATE, ActionType.LIVE_MIGRATE})
"""Acts in which two hosts have a part."""


class RebootType(StrEnum):
    """How a server is rebooted."""

    SOFT = "Soft"
    """The guest is asked; one that does not go down in time is switched off."""
    HARD = "Hard"
    """The guest is switched off and started as it is specified now."""


class Reboot(Model):
    """How to reboot."""

    type: RebootType = RebootType.SOFT


class Rebuild(Model):
    """What to make the root disk from; without image, from the one that the server has."""

    image: Reference | None = None


class Rescue(Model):
    """What to boot meanwhile; without image, the one that the server was made from."""

    image: Reference | None = None


class CreateImage(Model):
    """The image to make from the server's root disk, in the server's namespace."""

    name: Name


class PasswordSelector(Model):
    """A key of a Secret in the server's namespace; what it holds is the password, without an end of line."""

    name: ObjectName
    key: Annotated[str, Field(min_length=1, max_length=253)] = "password"


class SetPassword(Model):
    """The password of a user whom the guest knows, set by its guest agent."""

    user: Annotated[str, Field(min_length=1, max_length=32, pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*$")] = "root"
    secret: PasswordSelector


class Lock(Model):
    """Why nobody may change the server."""

    reason: Annotated[str, Field(max_length=255)] = ""


class Migrate(Model):
    """Where to; without host, the scheduler chooses."""

    host: HostName | None = None
    """This host only; for those who may update Hosts."""


class LiveMigrate(Model):
    """Where to and how; without host, the scheduler chooses."""

    host: HostName | None = None
    """This host only; for those who may update Hosts."""
    bandwidth: Annotated[int, Field(ge=1, le=1048576)] | None = None
    """MiB/s that the copy may take; without it, all there is."""
    auto_converge: bool = True
    """Slow the guest down if it changes memory faster than it can be copied."""
    post_copy: bool = False
    """Go on at the target with what has been copied if it does not converge: a failure then may cost the guest its
    memory. Refused where guests are emulated."""


_PARAMETERS = ("reboot", "rebuild", "rescue", "createImage", "setPassword", "lock", "migrate", "liveMigrate")


class ServerActionSpec(Model):
    """The act. It cannot change, except that it may be given up."""

    server: LocalReference
    type: ActionType
    reboot: Reboot | None = None
    rebuild: Rebuild | None = None
    rescue: Rescue | None = None
    create_image: CreateImage | None = None
    set_password: SetPassword | None = None
    lock: Lock | None = None
    migrate: Migrate | None = None
    live_migrate: LiveMigrate | None = None
    abort: bool = False
    """Give up a LiveMigrate; the guest stays where it is. It cannot be taken back."""
    requested_by: Annotated[str, Field(max_length=512)] | None = None
    """Who asked for it; written at admission, whatever was given."""

    model_config = validated(
        *(
            Rule(
                f"!has(self.{name}) || self.type == '{name[0].upper() + name[1:]}'",
                f"{name} goes with type {name[0].upper() + name[1:]} only",
                f".{name}",
            )
            for name in _PARAMETERS
        ),
        Rule(
            "self.type != 'CreateImage' || has(self.createImage)", "CreateImage needs createImage.name", ".createImage"
        ),
        Rule(
            "self.type != 'SetPassword' || has(self.setPassword)",
            "SetPassword needs setPassword.secret",
            ".setPassword",
        ),
        Rule("!self.abort || self.type == 'LiveMigrate'", "only a LiveMigrate can be aborted", ".abort"),
        Rule("self.abort || !oldSelf.abort", "abort cannot be taken back", ".abort"),
        Rule("self.server == oldSelf.server && self.type == oldSelf.type", "an action cannot change: make another"),
        *(
            Rule(
                f"has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || self.{name} == oldSelf.{name})",
                "an action cannot change: make another",
                f".{name}",
            )
            for name in (*_PARAMETERS, "requestedBy")
        ),
    )


class ActionPhase(StrEnum):
    """How far an action is."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


ENDED = frozenset({ActionPhase.SUCCEEDED, ActionPhase.FAILED})
"""Phases after which nothing more comes of an action."""


class ActionReason(StrEnum):
    """Why an action waits or has failed."""

    WAITING = "Waiting"
    """For an earlier action of the same server."""
    IN_PROGRESS = "InProgress"
    COMPLETED = "Completed"
    SERVER_NOT_FOUND = "ServerNotFound"
    NOT_PLACED = "NotPlaced"
    ILLEGAL_STATE = "IllegalState"
    LOCKED = "Locked"
    BOOTS_FROM_VOLUME = "BootsFromVolume"
    """It has no root disk, which the action is about."""
    HOST_SILENT = "HostSilent"
    HOST_LOST = "HostLost"
    IMAGE_NOT_FOUND = "ImageNotFound"
    IMAGE_NOT_READY = "ImageNotReady"
    IMAGE_DEACTIVATED = "ImageDeactivated"
    DISK_TOO_SMALL = "FlavorDiskTooSmall"
    MEMORY_TOO_SMALL = "FlavorMemoryTooSmall"
    QUOTA_EXCEEDED = "QuotaExceeded"
    """The project has as many snapshots as it may."""
    IMAGE_EXISTS = "ImageExists"
    """There is an image of the name that a CreateImage gives."""
    IMAGE_DELETED = "ImageDeleted"
    """The image was deleted before it was whole."""
    DISK_FULL = "HostDiskFull"
    """The host has no room for a copy of the disk."""
    COPY_FAILED = "CopyFailed"
    GUEST_FROZEN = "GuestFrozen"
    """The guest's agent does not answer since the file systems were frozen; it is asked until it does."""
    SECRET_NOT_FOUND = "SecretNotFound"  # noqa: S105
    """The password's Secret, or its key, is not there."""
    PASSWORD_INVALID = "PasswordInvalid"  # noqa: S105
    """What the Secret holds is no password that a guest could be given."""
    BOOT_DATA_FAILED = "BootDataFailed"
    """The host could not fetch the password from the operator."""
    NO_GUEST_AGENT = "NoGuestAgent"
    GUEST_SILENT = "GuestAgentSilent"
    """The guest's agent is there and does not answer in time."""
    GUEST_REFUSED = "GuestRefused"
    """The guest's agent has answered with an error."""
    UNSUPPORTED = "Unsupported"
    """A host's agent is older than the action."""
    ABORTED = "Aborted"
    VOLUME_MOVES = "VolumeMoves"
    """A volume of the server is on its way to another class."""
    NO_VALID_HOST = "NoValidHost"
    """No other host takes the server now."""
    PREPARED = "Prepared"
    """The target can take the guest."""
    COPYING = "Copying"
    POST_COPY_UNSUPPORTED = "PostCopyUnsupported"
    """The host has no KVM, and a post-copy was asked for."""
    POST_COPY = "PostCopy"
    """The guest runs at the target, and fetches from its source what is not there yet."""
    MEMORY_LOST = "MemoryLost"
    """A post-copy broke and could not be taken up: the server starts anew from its disk, at the target if the action
    has succeeded, else where it was."""
    HANDED_OVER = "HandedOver"
    """The guest has left its host, and the target has it."""
    RECEIVED = "Received"
    """The guest is at the target."""
    TARGET_FAILED = "TargetFailed"
    """The target could not prepare for the guest."""
    MIGRATION_FAILED = "MigrationFailed"
    """The guest was not carried over; it is where it was."""
    OUTCOME_UNKNOWN = "OutcomeUnknown"
    """Settled as soon as both hypervisors can be asked."""


class ActionReport(Model):
    """What the agent of a host says of its part."""

    outcome: ActionPhase
    reason: Annotated[str, Field(min_length=1, max_length=64)]
    message: Annotated[str, Field(max_length=2048)] = ""
    progress: Annotated[int, Field(ge=0, le=100)] | None = None
    """Per cent, where there is a measure."""


class ServerActionStatus(Status):
    """What came of it. The operator opens and closes it, the agents named in it report."""

    phase: ActionPhase | None = None
    reason: Annotated[str, Field(max_length=64)] | None = None
    message: Annotated[str, Field(max_length=2048)] | None = None
    host: HostName | None = None
    """Whose agent acts."""
    target: HostName | None = None
    """Where the server migrates to; that host's agent acts too."""
    instance_id: UUIDText | None = Field(default=None, alias="instanceID")
    epoch: Annotated[int, Field(ge=1)] | None = None
    image: AssignedImage | None = None
    """The image of a Rebuild or Rescue, as it was when that was opened."""
    started_at: Timestamp | None = None
    finished_at: Timestamp | None = None
    report: ActionReport | None = None
    """Of the agent of `host`."""
    target_report: ActionReport | None = None
    """Of the agent of `target`."""


class ServerAction(Kind):
    """One imperative act on a server, and what came of it (Nova's server actions and instance actions)."""

    definition: ClassVar = Definition(
        plural="serveractions",
        short_names=("kact",),
        columns=(
            Column("Server", ".spec.server.name"),
            Column("Type", ".spec.type"),
            Column("Phase", ".status.phase"),
            Column("Reason", ".status.reason"),
            Column("Host", ".status.host", priority=1),
            Column("Target", ".status.target", priority=1),
            Column("By", ".spec.requestedBy", priority=1),
            Column("Message", ".status.message", priority=1),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
        selectable=(".spec.server.name", ".status.host", ".status.target"),
    )

    spec: ServerActionSpec
    status: ServerActionStatus | None = None
