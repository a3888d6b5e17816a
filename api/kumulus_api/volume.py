"""Volume: a disk with a life of its own (Cinder's volume)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from kumulus_api.base import (
    Column,
    Definition,
    HostName,
    Kind,
    Model,
    ObjectName,
    Quantity,
    Rule,
    Status,
    UUIDText,
    validated,
)


class VolumeAssignment(Model):
    """Where the operator put the volume, and who holds it."""

    volume_id: UUIDText = Field(alias="volumeID")
    host: HostName
    attached_to: ObjectName | None = None
    """The Server that holds it, in the same namespace."""


class VolumeSpec(Model):
    """Size of a blank disk."""

    size: Quantity
    assignment: VolumeAssignment | None = None
    """Written by the operator only."""

    model_config = validated(
        Rule("self.size == oldSelf.size", "size cannot change yet", ".size"),
        Rule("!quantity(self.size).isLessThan(quantity('1Mi'))", "size is at least 1Mi", ".size"),
        Rule("!quantity(self.size).isGreaterThan(quantity('64Ti'))", "size is at most 64Ti", ".size"),
        Rule(
            "!has(oldSelf.assignment) || (has(self.assignment)"
            " && self.assignment.volumeID == oldSelf.assignment.volumeID"
            " && (self.assignment.host == oldSelf.assignment.host || (has(self.assignment.attachedTo)"
            " && has(oldSelf.assignment.attachedTo) && self.assignment.attachedTo == oldSelf.assignment.attachedTo)))",
            "a volume keeps its identity, and its host unless it migrates with its server",
            ".assignment",
        ),
    )


class VolumeStatus(Status):
    """What the agent found on the disk."""

    used_bytes: Annotated[int, Field(ge=0)] | None = None


class VolumeReason(StrEnum):
    """Reasons of a Volume's Ready condition."""

    WAITING_FOR_FIRST_SERVER = "WaitingForFirstServer"
    AVAILABLE = "Available"
    IN_USE = "InUse"
    QUOTA_EXCEEDED = "QuotaExceeded"


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
            Column("Host", ".spec.assignment.host", priority=1),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
        selectable=(".spec.assignment.host",),
    )

    spec: VolumeSpec
    status: VolumeStatus | None = None
