"""Volume: a disk with a life of its own (Cinder's volume)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Final

from pydantic import Field

from kumulus_api.base import (
    Column,
    Definition,
    Digest,
    HostName,
    Kind,
    LocalReference,
    Model,
    Name,
    ObjectName,
    Quantity,
    Reference,
    Rule,
    Status,
    Text,
    UUIDText,
    validated,
    whole,
)
from kumulus_api.server_assignment import AssignedImage
from kumulus_api.volume_class import FolderPath
from kumulus_api.volume_encryption import AssignedEncryption, VolumeEncryption
from kumulus_api.volume_limits import AssignedLimits, VolumeLimits

RequestText = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""A word that tells one request from another."""


class AssignedBackup(Model):
    """The backup that a volume is restored from."""

    backup_id: UUIDText = Field(alias="backupID")
    chain: UUIDText
    digest: Digest
    """Of the whole."""


class VolumeOrigin(Model):
    """What the volume's data was at first: that of a snapshot in the same place, of an image, or of a backup."""

    volume_id: UUIDText | None = Field(default=None, alias="volumeID")
    snapshot_id: UUIDText | None = Field(default=None, alias="snapshotID")
    taken: bool = False
    """The snapshot is taken for this volume, whose id it has, and goes when the volume is made."""
    image: AssignedImage | None = None
    backup: AssignedBackup | None = None


class AssignedRevert(Model):
    """The snapshot that the volume goes back to, once for the request."""

    snapshot_id: UUIDText = Field(alias="snapshotID")
    request: RequestText


class GivenTo(Model):
    """The Volume of another project that has the data from now on."""

    namespace: Name
    name: ObjectName

    model_config = whole()


class VolumeElsewhere(Model):
    """Another place of a volume on its host: where it goes, or was."""

    request: UUIDText
    """Tells one move from another."""
    volume_class: ObjectName | None = None
    folder: FolderPath | None = None
    multi_attach: bool | None = None
    cancelled: bool = False
    """It is not wanted there any more: the host says `cleared`, or `moved` if a guest writes there already."""


MOST_HOLDERS: Final = 16
"""Servers that have one volume at once."""
Hosts = Annotated[list[HostName], Field(max_length=2, json_schema_extra={"x-kubernetes-list-type": "set"})]
"""That of a server, and its target while it migrates."""


class VolumeAssignment(Model):
    """Where the operator put the volume, and who holds it."""

    volume_id: UUIDText = Field(alias="volumeID")
    host: HostName
    """Where it lies; of one that is shared, the host that works on it."""
    attached_to: ObjectName | None = None
    """The Server that holds it, in the same namespace."""
    also_attached_to: (
        Annotated[
            list[ObjectName], Field(max_length=MOST_HOLDERS - 1, json_schema_extra={"x-kubernetes-list-type": "set"})
        ]
        | None
    ) = None
    """Further Servers that hold it, if its class is for several; there are none where nobody is `attachedTo`."""
    multi_attach: bool | None = None
    """Several servers may hold it: it is one raw file, from its first block on."""
    exported_to: Hosts | None = None
    """Where that Server is, if that is another host than where the volume lies: these, and no others, write to it."""
    volume_class: ObjectName | None = None
    folder: FolderPath | None = None
    """Of the share, if its class is shared."""
    size: Quantity | None = None
    """That was admitted."""
    origin: VolumeOrigin | None = None
    revert: AssignedRevert | None = None
    given_to: GivenTo | None = None
    """This Volume has it no more, and goes: no server gets it, and no host does anything for it."""
    moving: VolumeElsewhere | None = None
    """Where it is copied to, and lies when that is done. No server gets it meanwhile; one that has it goes on."""
    left: VolumeElsewhere | None = None
    """Where it has lain, and is removed."""
    encryption: AssignedEncryption | None = None
    """From its first block on; one without stays without."""
    limits: AssignedLimits | None = None
    """What guests may do with it, by its class and its own `qos`."""

    @property
    def holders(self) -> tuple[str, ...]:
        """The names of all Servers that hold it."""
        return (self.attached_to, *(self.also_attached_to or ())) if self.attached_to is not None else ()


class OfferedTransfer(Model):
    """A VolumeTransfer of another project."""

    namespace: Name
    name: ObjectName

    model_config = whole()


class VolumeSource(Model):
    """What a new volume is a copy of, or is: exactly one."""

    snapshot: LocalReference | None = None
    """A VolumeSnapshot of the namespace."""
    volume: LocalReference | None = None
    """A Volume of the namespace, as it is when the copy is made."""
    image: Reference | None = None
    """An Image that the project may use."""
    transfer: OfferedTransfer | None = None
    """A volume that another project gives to this one: it is that volume, where it lies, and the other's goes."""
    volume_backup: LocalReference | None = None
    """A VolumeBackup of the namespace: it is restored on a host that has room."""

    model_config = validated(
        Rule(
            "[has(self.snapshot), has(self.volume), has(self.image), has(self.transfer), has(self.volumeBackup)]"
            ".exists_one(x, x)",
            "give exactly one of snapshot, volume, image, transfer or volumeBackup; none at all for a blank volume",
        )
    )


class VolumeRevert(Model):
    """Put the volume back to a snapshot of it, once for each request, while no server has it."""

    snapshot: LocalReference
    request: RequestText
    """Any word; another one than before asks again."""


class VolumeSpec(Model):
    """Size, class and source of a disk."""

    size: Quantity
    """It can grow, also in use; a volume that is a copy is at least as large as what it is of."""
    volume_class: LocalReference | None = None
    """Where it is kept; the default class if none is given. Another one moves the volume, also in use."""
    source: VolumeSource | None = None
    """What it is a copy of; it is blank without."""
    read_only: bool = False
    """Servers cannot write to it; a change holds from the next attachment on."""
    protected: bool = False
    """It cannot be deleted."""
    revert: VolumeRevert | None = None
    encryption: VolumeEncryption | None = None
    """With a key of one's own, where the class encrypts; else one is made."""
    qos: VolumeLimits | None = None
    """Limits of its own where its class has `qosPerVolume`; of these and those of the class the lower count."""
    assignment: VolumeAssignment | None = None
    """Written by the operator only."""

    model_config = validated(
        Rule("!quantity(self.size).isLessThan(quantity(oldSelf.size))", "size can only grow", ".size"),
        Rule("!quantity(self.size).isLessThan(quantity('1Mi'))", "size is at least 1Mi", ".size"),
        Rule("!quantity(self.size).isGreaterThan(quantity('64Ti'))", "size is at most 64Ti", ".size"),
        Rule(
            "has(self.source) == has(oldSelf.source) && (!has(self.source) || self.source == oldSelf.source)",
            "source cannot change: make another volume of this one",
        ),
        Rule(
            "has(self.encryption) == has(oldSelf.encryption)"
            " && (!has(self.encryption) || self.encryption == oldSelf.encryption)",
            "encryption cannot change: make another volume",
        ),
        Rule(
            "!has(self.encryption) || !has(self.source) || has(self.source.image) || has(self.source.volumeBackup)",
            "a copy has the key of what it is a copy of: leave encryption out",
        ),
        Rule(
            "!has(oldSelf.assignment) || (has(self.assignment)"
            " && self.assignment.volumeID == oldSelf.assignment.volumeID"
            " && (self.assignment.host == oldSelf.assignment.host || has(self.assignment.folder)"
            " || (has(self.assignment.attachedTo)"
            " && has(oldSelf.assignment.attachedTo) && self.assignment.attachedTo == oldSelf.assignment.attachedTo)))",
            "a volume keeps its identity, and its host unless it migrates with its server or is shared",
            ".assignment",
        ),
    )


class StorageFault(Model):
    """Why the agent cannot do what it was asked."""

    reason: Annotated[str, Field(max_length=64)]
    message: Text


class VolumeExport(Model):
    """How other hosts reach a volume."""

    port: Annotated[int, Field(ge=1, le=65535)]
    """TCP, at the tunnel address of the volume's host."""
    hosts: Hosts
    """That are let in."""


class VolumeMove(Model):
    """How far the copy of a volume is that goes to another place."""

    request: UUIDText
    progress: Annotated[int, Field(ge=0, le=100)]
    """Percent."""


class VolumeStatus(Status):
    """What the agent found on the disk."""

    used_bytes: Annotated[int, Field(ge=0)] | None = None
    """That its files take, those of its snapshots included."""
    size_bytes: Annotated[int, Field(ge=0)] | None = None
    """That the guest sees."""
    reverted: RequestText | None = None
    """The request of the last revert that was done."""
    export: VolumeExport | None = None
    moving: VolumeMove | None = None
    """The move whose copy is being made."""
    moved: UUIDText | None = None
    """The request of the move whose copy is whole, and is the volume from then on."""
    cleared: UUIDText | None = None
    """The request of the move whose former place is empty."""
    fault: StorageFault | None = None


class VolumeConditionType(StrEnum):
    """Conditions of a Volume."""

    READY = "Ready"
    RESIZED = "Resized"
    """Once the size was changed: whether it is the one that is asked for."""
    REVERTED = "Reverted"
    """Once a revert was asked for: whether it was done."""
    RETYPED = "Retyped"
    """Once another class was asked for: whether it lies there."""
    LIMITED = "Limited"
    """Once it has limits of its own: whether they hold as they are."""


class VolumeReason(StrEnum):
    """Reasons of a Volume's Ready condition."""

    WAITING_FOR_FIRST_SERVER = "WaitingForFirstServer"
    AVAILABLE = "Available"
    IN_USE = "InUse"
    EXPORTING = "Exporting"
    HOST_SILENT = "HostSilent"
    MAKING = "Making"
    QUOTA_EXCEEDED = "QuotaExceeded"
    CLASS_NOT_FOUND = "VolumeClassNotFound"
    SOURCE_NOT_FOUND = "SourceNotFound"
    SOURCE_NOT_READY = "SourceNotReady"
    SOURCE_ELSEWHERE = "SourceOfAnotherClass"
    SIZE_TOO_SMALL = "SizeTooSmall"
    HOST_FULL = "HostFull"
    CLASS_FULL = "VolumeClassFull"
    """Its share has room for no more promises."""
    HAS_SNAPSHOTS = "HasSnapshots"
    GROWING = "Growing"
    RESIZED = "Resized"
    REVERTING = "Reverting"
    REVERTED = "Reverted"
    SNAPSHOT_NOT_FOUND = "SnapshotNotFound"
    TRANSFERRED = "Transferred"
    """Another project has it."""
    RETYPING = "Retyping"
    RETYPED = "Retyped"
    LIMITED = "Limited"
    QOS_NOT_ALLOWED = "QoSNotAllowed"
    QOS_OF_ANOTHER_KIND = "QoSOfAnotherKind"
    """It limits reading and writing, and the class both together, or the other way round."""
    QOS_BEYOND_CLASS = "QoSBeyondClass"
    KEY_NOT_FOUND = "EncryptionKeyMissing"
    KEY_INVALID = "EncryptionKeyInvalid"
    CLASS_NOT_ENCRYPTED = "ClassNotEncrypted"
    MULTI_ATTACH = "MultiAttach"
    """That cannot be done with volumes that are for several servers."""
    ENCRYPTED = "Encrypted"
    """That cannot be done with volumes that are encrypted."""


class Volume(Kind):
    """A disk with a life of its own; it binds to a host when a server first uses it (Cinder's volume)."""

    definition: ClassVar = Definition(
        plural="volumes",
        short_names=("kvol",),
        columns=(
            Column("Ready", ".status.conditions[?(@.type=='Ready')].status"),
            Column("Reason", ".status.conditions[?(@.type=='Ready')].reason"),
            Column("Size", ".spec.size"),
            Column("Server", ".spec.assignment.attachedTo"),
            Column("AlsoServers", ".spec.assignment.alsoAttachedTo", priority=1),
            Column("Class", ".spec.assignment.volumeClass", priority=1),
            Column("Moving", ".status.moving.progress", "integer", priority=1),
            Column("Host", ".spec.assignment.host", priority=1),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
        selectable=(".spec.assignment.host",),
    )

    spec: VolumeSpec
    status: VolumeStatus | None = None
