"""VolumeClass: where volumes are kept (Cinder's volume type and its backend)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from kumulus_api.base import Column, Definition, Kind, Model, Name, Quantity, Rule, Status, ruled, validated
from kumulus_api.host import Ratio
from kumulus_api.volume_encryption import VolumeClassEncryption
from kumulus_api.volume_limits import VolumeLimits

FolderPath = Annotated[str, Field(min_length=2, max_length=255, pattern=r"^(/[A-Za-z0-9][A-Za-z0-9._-]*)+$")]
"""An absolute path of plain names."""


class DriverName(StrEnum):
    """How volumes are kept."""

    LOCAL = "Local"
    """In a folder of the host where a server first uses them."""
    SHARED = "Shared"
    """In a folder that all hosts mount."""


class SharedParameters(Model):
    """What the driver Shared needs."""

    folder: FolderPath
    """Where all hosts have mounted the share; in it is a file `kumulus-volume-class` with the name of this class."""


class VolumeClassSpec(Model):
    """Driver, with parameters that cannot change, since volumes are there; and what volumes get."""

    driver: Annotated[
        DriverName, Field(json_schema_extra=ruled(Rule("self == oldSelf", "driver cannot change: make a new class")))
    ]
    shared: (
        Annotated[
            SharedParameters,
            Field(json_schema_extra=ruled(Rule("self == oldSelf", "shared cannot change: make a new class"))),
        ]
        | None
    ) = None
    export: bool = False
    """Servers on other hosts may use its volumes over the network; only Local ones need it."""
    multi_attach: bool = False
    """Several servers may have each of its volumes at once, and write to it; for Shared ones."""
    default: bool = False
    """For volumes that name no class; of several the first by name. Where there is none, they are kept as by Local."""
    public: bool = True
    """For all projects; else for those of `projects` only."""
    projects: Annotated[list[Name], Field(max_length=256, json_schema_extra={"x-kubernetes-list-type": "set"})] = Field(
        default_factory=list
    )
    """Who may use it if it is not public."""
    encryption: VolumeClassEncryption | None = None
    """Volumes that are made from then on are encrypted; those that are there stay as they are."""
    qos: VolumeLimits | None = None
    """What guests may do with each volume; a change reaches guests that run."""
    qos_per_volume: bool = False
    """Volumes may have limits of their own, which are no higher than these count."""
    overcommit: Ratio | None = None
    """How many times over the disk of a host, or the share, is promised to its volumes (Cinder:
    `max_over_subscription_ratio`). Without it Local ones count by the ratio of their host's disk, and Shared ones are
    not counted."""
    reserved_percent: Annotated[int, Field(ge=0, le=99)] | None = None
    """How much of the disk of a host, or of the share, its volumes leave unpromised and free (Cinder:
    `reserved_percentage`); none if it is left out."""

    model_config = validated(
        Rule("(self.driver == 'Shared') == has(self.shared)", "shared is for the driver Shared, which needs it"),
        Rule(
            "!has(self.export) || !self.export || self.driver == 'Local'",
            "export is for the driver Local: any host finds volumes of the others",
        ),
        Rule("!has(self.overcommit) || double(self.overcommit) > 0.0", "a ratio is more than 0", ".overcommit"),
        Rule(
            "!self.multiAttach || (self.driver == 'Shared' && !has(self.encryption))",
            "multiAttach is for the driver Shared without encryption: several hosts write to the same file",
        ),
        Rule("self.multiAttach == oldSelf.multiAttach", "multiAttach cannot change: make a new class"),
    )


class VolumeClassStatus(Status):
    """What there is for its volumes, as hosts tell of it; written anew when a number has moved by a hundredth."""

    capacity: Quantity | None = None
    """Of the share's file system."""
    free: Quantity | None = None
    """Of the share's file system, as it was found."""
    provisioned: Quantity | None = None
    """Bytes that its volumes were promised, on the share, or on all hosts."""


class VolumeClass(Kind):
    """Where volumes are kept, and who may have some there (Cinder's volume type)."""

    definition: ClassVar = Definition(
        plural="volumeclasses",
        namespaced=False,
        short_names=("kvolclass",),
        columns=(
            Column("Driver", ".spec.driver"),
            Column("Default", ".spec.default", "boolean"),
            Column("Public", ".spec.public", "boolean"),
            Column("Ratio", ".spec.overcommit", priority=1),
            Column("Capacity", ".status.capacity", priority=1),
            Column("Provisioned", ".status.provisioned", priority=1),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
    )

    spec: VolumeClassSpec
    status: VolumeClassStatus | None = None
