"""ImageAcceptance: a project's word that it uses an image which another shares with it (Glance's member status)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from kumulus_api.base import (
    Column,
    Definition,
    Digest,
    Kind,
    LabelMap,
    Model,
    Name,
    ObjectName,
    Rule,
    Status,
    Trait,
    whole,
)
from kumulus_api.image import Architecture, ImageFormat, ImageVisibility


class AcceptedImage(Model):
    """An image of another project."""

    name: ObjectName
    namespace: Name

    model_config = whole(Rule("self == oldSelf", "an acceptance is of one image: make another acceptance"))


class ImageAcceptanceSpec(Model):
    """The image that is accepted."""

    image: AcceptedImage


class OfferedImage(Model):
    """What a project has to know of an image that it cannot read."""

    model_config = whole()

    ready: bool = False
    active: bool = True
    hidden: bool = False
    visibility: ImageVisibility
    format: ImageFormat
    digest: Digest | None = None
    size: int | None = None
    """Bytes of the file."""
    virtual_size: int | None = None
    """Bytes of the disk that a guest sees."""
    min_disk: Annotated[str, Field(max_length=32)] | None = None
    min_memory: Annotated[str, Field(max_length=32)] | None = None
    architecture: Architecture | None = None
    required_traits: Annotated[list[Trait], Field(max_length=64)] = Field(default_factory=list)
    properties: LabelMap = Field(default_factory=dict)


class ImageAcceptanceStatus(Status):
    """Whether servers of the project may use the image, and what it is."""

    image: OfferedImage | None = None
    """Only while they may."""


class ImageAcceptanceReason(StrEnum):
    """Reasons of an ImageAcceptance's Ready condition."""

    ACCEPTED = "Accepted"
    NOT_SHARED = "NotShared"
    """The image is not there, or not shared with the project: which of both is not told."""


class ImageAcceptance(Kind):
    """A project's word that it uses an image which another shares with it (Glance's member status)."""

    definition: ClassVar = Definition(
        plural="imageacceptances",
        short_names=("kimgacc",),
        columns=(
            Column("Ready", ".status.conditions[?(@.type=='Ready')].status"),
            Column("Reason", ".status.conditions[?(@.type=='Ready')].reason"),
            Column("Project", ".spec.image.namespace"),
            Column("Image", ".spec.image.name"),
            Column("Format", ".status.image.format"),
            Column("Size", ".status.image.size", "integer"),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
    )

    spec: ImageAcceptanceSpec
    status: ImageAcceptanceStatus | None = None
