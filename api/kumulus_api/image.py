"""Image: a disk that servers start from (Glance's image)."""

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
    Model,
    Quantity,
    Rule,
    Status,
    Trait,
    validated,
)


class ImageFormat(StrEnum):
    """The disk formats that hosts boot."""

    RAW = "raw"
    QCOW2 = "qcow2"


class Architecture(StrEnum):
    """The machine that an image's programs are made for (Glance's `hw_architecture`)."""

    X86_64 = "x86_64"
    I686 = "i686"
    AARCH64 = "aarch64"
    ARMV7L = "armv7l"
    PPC64LE = "ppc64le"
    RISCV64 = "riscv64"
    S390X = "s390x"


class ImageSource(Model):
    """Where the image's bytes come from."""

    url: Annotated[str, Field(min_length=8, max_length=2048, pattern=r"^https?://[^\s]+$")]


class ImageSpec(Model):
    """Source, format and checksum. They cannot change: hosts keep copies."""

    source: ImageSource
    format: ImageFormat
    checksum: Digest | None = None
    """What the bytes must hash to; computed at import where it is not given."""
    min_disk: Quantity | None = None
    min_memory: Quantity | None = None
    architecture: Architecture | None = None
    """Only hosts of it run servers of this image; any host does if it is not given."""
    required_traits: Annotated[list[Trait], Field(max_length=64)] = Field(default_factory=list)
    """Traits that a host needs for servers of this image."""

    model_config = validated(
        Rule(
            "self.source == oldSelf.source && self.format == oldSelf.format"
            " && has(self.checksum) == has(oldSelf.checksum)"
            " && (!has(self.checksum) || self.checksum == oldSelf.checksum)",
            "source, format and checksum cannot change, since hosts keep copies: make a new image",
        )
    )


class ImageStatus(Status):
    """Where it is imported and what it turned out to be."""

    import_host: HostName | None = None
    """The host that downloads and inspects it first; set by the operator."""
    digest: Digest | None = None
    """sha256 of the bytes as downloaded; what hosts verify their copies by."""
    size: Annotated[int, Field(ge=0)] | None = None
    """Bytes of the file."""
    virtual_size: Annotated[int, Field(ge=0)] | None = None
    """Bytes of the disk that a guest sees."""


class ImageReason(StrEnum):
    """Reasons of an Image's Ready condition."""

    IMPORTED = "Imported"
    IMPORTING = "Importing"
    WAITING_FOR_HOST = "WaitingForHost"
    DOWNLOAD_FAILED = "DownloadFailed"
    CHECKSUM_MISMATCH = "ChecksumMismatch"
    FORMAT_MISMATCH = "FormatMismatch"
    UNSAFE = "UnsafeImage"
    CORRUPT = "CorruptImage"
    TOO_LARGE = "TooLarge"


class Image(Kind):
    """A disk that servers start from (Glance's image)."""

    definition: ClassVar = Definition(
        plural="images",
        short_names=("kimg",),
        columns=(
            Column("Ready", ".status.conditions[?(@.type=='Ready')].status"),
            Column("Reason", ".status.conditions[?(@.type=='Ready')].reason"),
            Column("Format", ".spec.format"),
            Column("Size", ".status.size", "integer"),
            Column("Virtual", ".status.virtualSize", "integer", 1),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
        selectable=(".status.importHost",),
    )

    spec: ImageSpec
    status: ImageStatus | None = None
