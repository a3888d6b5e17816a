"""VolumeBackup: a volume, or a root disk, as it was at one moment, apart from it in a bucket (Cinder's backup)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from kumulus_api.base import (
    Column,
    Definition,
    Digest,
    HostName,
    Kind,
    LocalReference,
    Model,
    ObjectName,
    Quantity,
    Reference,
    Rule,
    Status,
    Timestamp,
    UUIDText,
    ruled,
    validated,
    whole,
)
from kumulus_api.volume import RequestText, StorageFault
from kumulus_api.volume_class import FolderPath
from kumulus_api.volume_encryption import AssignedEncryption
from kumulus_api.volume_snapshot import Consistency

POLICY_LABEL = "kumulus.dev/backup-policy"
"""Names the BackupPolicy that a VolumeBackup was made by."""
RUN_LABEL = "kumulus.dev/backup-run"
"""Tells for which moment of its schedule: `20260131T2300Z`."""


class BackupSource(Model):
    """What it is of: exactly one."""

    volume: LocalReference | None = None
    """A Volume of the namespace, as it is when the backup begins."""
    volume_snapshot: LocalReference | None = None
    """A VolumeSnapshot of the namespace."""
    server: LocalReference | None = None
    """The root disk of a Server of the namespace, what its image has included; volumes have backups of their own."""
    existing: UUIDText | None = None
    """Id of a backup of this project that the bucket has, and no VolumeBackup tells of any more."""

    model_config = validated(
        Rule(
            "[has(self.volume), has(self.volumeSnapshot), has(self.server), has(self.existing)].exists_one(x, x)",
            "give exactly one of volume, volumeSnapshot, server or existing",
        )
    )


class BackedUpRootDisk(Model):
    """Whose root disk it is of, and what that server's machine was made of: what a new one is to be made of, too."""

    instance_id: UUIDText = Field(alias="instanceID")
    server: ObjectName
    flavor: ObjectName | None = None
    image: Reference | None = None
    image_properties: Annotated[dict[str, Annotated[str, Field(max_length=255)]], Field(max_length=64)] | None = None
    """Of the image, as the server was made with them: firmware, buses …"""
    min_memory: Quantity | None = None
    """Of the image, likewise."""


class BackupSeal(Model):
    """The encrypted volume that it is of: with its key everything is sealed that is put into the bucket."""

    volume: ObjectName
    encryption: AssignedEncryption


class BackupAssignment(Model):
    """What it is called in the bucket, and which host works on it."""

    backup_id: Annotated[
        UUIDText, Field(json_schema_extra=ruled(Rule("self == oldSelf", "a backup keeps its identity")))
    ] = Field(alias="backupID")
    host: HostName
    volume_id: UUIDText | None = Field(default=None, alias="volumeID")
    snapshot_id: UUIDText | None = Field(default=None, alias="snapshotID")
    """Of the snapshot that it is of."""
    volume_class: ObjectName | None = None
    folder: FolderPath | None = None
    """Of a volume that is shared."""
    root_disk: BackedUpRootDisk | None = None
    """That it is of; it is of no volume then."""
    seal: BackupSeal | None = None
    """Of a volume that is encrypted."""
    chain: UUIDText | None = None
    """Id of the full backup that it shares its chunks with: its own if it is full."""
    parent: UUIDText | None = None
    """Id of the backup that it follows, if it is incremental."""
    remove: bool = False
    """It is deleted, and nobody adds to its chain: its objects may go."""

    model_config = whole()


class VolumeBackupSpec(Model):
    """What it is of, and how."""

    source: Annotated[
        BackupSource, Field(json_schema_extra=ruled(Rule("self == oldSelf", "source cannot change: make another")))
    ]
    incremental: Annotated[
        bool, Field(json_schema_extra=ruled(Rule("self == oldSelf", "incremental cannot change: make another")))
    ] = False
    """Only what the last backup of the same volume has not is put; each can be restored and deleted by itself."""
    verify: RequestText | None = None
    """Read the whole backup back, once for each word."""
    assignment: BackupAssignment | None = None
    """Written by the operator only."""


class BackupProgress(Model):
    """How far the host is, in bytes of the volume."""

    done_bytes: Annotated[int, Field(ge=0)]
    total_bytes: Annotated[int, Field(ge=0)]


class BackupVerified(Model):
    """That all of it was read back."""

    request: RequestText
    at: Timestamp
    sound: bool
    """Every chunk has the digest that it was made with."""
    message: Annotated[str, Field(max_length=1024)] = ""
    """What is missing or damaged."""


class VolumeBackupStatus(Status):
    """What the host has put into the bucket."""

    size: Annotated[int, Field(ge=0)] | None = None
    """Bytes of the volume: what one that is made of it needs at least."""
    digest: Digest | None = None
    """Of the whole; there is a backup from then on."""
    stored_bytes: Annotated[int, Field(ge=0)] | None = None
    """That were put for it, compressed, beside what its chain had."""
    chain: UUIDText | None = None
    parent: UUIDText | None = None
    """Id of the backup that it follows."""
    root_disk: BackedUpRootDisk | None = None
    """That it is of, as the bucket says."""
    sealed: bool = False
    """What is in the bucket is encrypted, with the key that the volume had."""
    consistency: Consistency | None = None
    taken_at: Timestamp | None = None
    """The moment that it shows."""
    progress: BackupProgress | None = None
    """While it is made, restored from or read back."""
    verified: BackupVerified | None = None
    failed: bool = False
    """It cannot be made any more: the fault says why."""
    fault: StorageFault | None = None


class BackupReason(StrEnum):
    """Reasons of a VolumeBackup's Ready condition; beside them those of the agent's faults."""

    AVAILABLE = "Available"
    MAKING = "Making"
    VERIFYING = "Verifying"
    DAMAGED = "BackupDamaged"
    WAITING = "Waiting"
    """For another backup of the volume, which is being made or removed."""
    NO_PARENT = "NoEarlierBackup"
    VOLUME_NOT_FOUND = "VolumeNotFound"
    VOLUME_NOT_READY = "VolumeNotReady"
    VOLUME_ENCRYPTED = "VolumeEncrypted"
    SNAPSHOT_NOT_FOUND = "SnapshotNotFound"
    SERVER_NOT_FOUND = "ServerNotFound"
    SERVER_NOT_READY = "ServerNotReady"
    """It has no root disk yet."""
    BOOTS_FROM_VOLUME = "BootsFromVolume"
    NO_HOST = "NoHost"
    HOST_LOST = "HostLost"
    KNOWN_ALREADY = "BackupKnownAlready"
    QUOTA_EXCEEDED = "QuotaExceeded"
    MIGRATING = "ServerMigrating"
    IN_USE = "InUse"
    MULTI_ATTACH = "MultiAttach"
    REMOVING = "Removing"


class VolumeBackup(Kind):
    """A volume or root disk as it was at one moment, in a bucket; volumes are made of it anywhere (Cinder's backup)."""

    definition: ClassVar = Definition(
        plural="volumebackups",
        short_names=("kvbak",),
        columns=(
            Column("Ready", ".status.conditions[?(@.type=='Ready')].status"),
            Column("Reason", ".status.conditions[?(@.type=='Ready')].reason"),
            Column("Volume", ".spec.source.volume.name"),
            Column("Server", ".spec.source.server.name"),
            Column("Size", ".status.size", "integer"),
            Column("Stored", ".status.storedBytes", "integer"),
            Column("Incremental", ".spec.incremental", "boolean"),
            Column("Taken", ".status.takenAt", "date"),
            Column("Parent", ".status.parent", priority=1),
            Column("ID", ".spec.assignment.backupID", priority=1),
            Column("Consistency", ".status.consistency", priority=1),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
        selectable=(".spec.assignment.host",),
    )

    spec: VolumeBackupSpec
    status: VolumeBackupStatus | None = None
