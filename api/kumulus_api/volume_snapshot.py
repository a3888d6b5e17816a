"""VolumeSnapshot: a volume as it was at one moment (Cinder's snapshot)."""

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
    ObjectName,
    Rule,
    Status,
    UUIDText,
    ruled,
    whole,
)
from kumulus_api.volume import StorageFault
from kumulus_api.volume_class import FolderPath


class SnapshotAssignment(Model):
    """Which host takes the snapshot, and keeps it."""

    snapshot_id: Annotated[
        UUIDText, Field(json_schema_extra=ruled(Rule("self == oldSelf", "a snapshot keeps its identity")))
    ] = Field(alias="snapshotID")
    volume_id: Annotated[
        UUIDText, Field(json_schema_extra=ruled(Rule("self == oldSelf", "a snapshot keeps its volume")))
    ] = Field(alias="volumeID")
    host: HostName
    """That of the volume."""
    volume_class: ObjectName | None = None
    folder: FolderPath | None = None
    """Of a volume that is shared."""

    model_config = whole()


class VolumeSnapshotSpec(Model):
    """What it is of."""

    volume: Annotated[
        LocalReference, Field(json_schema_extra=ruled(Rule("self == oldSelf", "volume cannot change: make another")))
    ]
    """In the same namespace. It stays until its snapshots are deleted."""
    protected: bool = False
    """It cannot be deleted."""
    assignment: SnapshotAssignment | None = None
    """Written by the operator only."""


class Consistency(StrEnum):
    """What the data of a snapshot is like."""

    CRASH = "Crash"
    """As after a loss of power: what the guest had flushed."""
    FILE_SYSTEM = "FileSystem"
    """The guest's agent had frozen its file systems."""
    OFFLINE = "Offline"
    """No guest had the volume."""


class VolumeSnapshotStatus(Status):
    """What the agent has taken."""

    restore_size: Annotated[int, Field(ge=0)] | None = None
    """Bytes that a volume made of it needs at least."""
    consistency: Consistency | None = None
    fault: StorageFault | None = None
    """Why it is not taken, or not removed."""


class SnapshotReason(StrEnum):
    """Reasons of a VolumeSnapshot's Ready condition; beside them those of the agent's faults."""

    AVAILABLE = "Available"
    TAKING = "Taking"
    VOLUME_NOT_FOUND = "VolumeNotFound"
    VOLUME_NOT_READY = "VolumeNotReady"
    QUOTA_EXCEEDED = "QuotaExceeded"
    MIGRATING = "ServerMigrating"
    MULTI_ATTACH = "MultiAttach"


class VolumeSnapshot(Kind):
    """A volume as it was at one moment; others can be made of it (Cinder's snapshot)."""

    definition: ClassVar = Definition(
        plural="volumesnapshots",
        short_names=("kvsnap",),
        columns=(
            Column("Ready", ".status.conditions[?(@.type=='Ready')].status"),
            Column("Reason", ".status.conditions[?(@.type=='Ready')].reason"),
            Column("Volume", ".spec.volume.name"),
            Column("RestoreSize", ".status.restoreSize", "integer"),
            Column("Consistency", ".status.consistency", priority=1),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
        selectable=(".spec.assignment.host",),
    )

    spec: VolumeSnapshotSpec
    status: VolumeSnapshotStatus | None = None
