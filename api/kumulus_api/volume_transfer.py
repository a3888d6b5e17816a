"""VolumeTransfer: a project's word that it gives a volume to another (Cinder's volume transfer)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from kumulus_api.base import (
    Column,
    Definition,
    Kind,
    LocalReference,
    Model,
    Name,
    Rule,
    Status,
    UUIDText,
    ruled,
    validated,
    whole,
)


class OfferedVolume(Model):
    """The volume that the offer is of, whichever has its name later."""

    volume_id: UUIDText = Field(alias="volumeID")

    model_config = whole()


class VolumeTransferSpec(Model):
    """What is given to whom."""

    volume: Annotated[
        LocalReference, Field(json_schema_extra=ruled(Rule("self == oldSelf", "volume cannot change: make another")))
    ]
    """In the same namespace, without snapshots; no server can have it while it is offered."""
    project: Annotated[
        Name, Field(json_schema_extra=ruled(Rule("self == oldSelf", "project cannot change: make another")))
    ]
    """Who may take it, by a Volume with `source.transfer`."""
    assignment: OfferedVolume | None = None
    """Written by the operator only."""

    model_config = validated(
        Rule(
            "!has(oldSelf.assignment) || (has(self.assignment) && self.assignment == oldSelf.assignment)",
            "a transfer keeps its volume",
            ".assignment",
        ),
    )


class VolumeTransferReason(StrEnum):
    """Reasons of a VolumeTransfer's Ready condition."""

    OFFERED = "Offered"
    TAKING = "Taking"
    """The other project has it, and this one's Volume goes."""
    VOLUME_NOT_FOUND = "VolumeNotFound"
    VOLUME_NOT_READY = "VolumeNotReady"
    """It has no data yet, or its host has something to do with it."""
    IN_USE = "InUse"
    PROTECTED = "Protected"
    HAS_SNAPSHOTS = "HasSnapshots"
    ENCRYPTED = "Encrypted"


class VolumeTransfer(Kind):
    """A project's word that it gives a volume to another; it goes when that has it (Cinder's volume transfer)."""

    definition: ClassVar = Definition(
        plural="volumetransfers",
        short_names=("kvtrans",),
        columns=(
            Column("Ready", ".status.conditions[?(@.type=='Ready')].status"),
            Column("Reason", ".status.conditions[?(@.type=='Ready')].reason"),
            Column("Volume", ".spec.volume.name"),
            Column("Project", ".spec.project"),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
    )

    spec: VolumeTransferSpec
    status: Status | None = None
