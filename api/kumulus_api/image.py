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
    LabelMap,
    Model,
    ObjectName,
    Quantity,
    Rule,
    Status,
    Trait,
    UUIDText,
    validated,
)
from kumulus_api.hardware import IMAGE_WORDS, keys, word_rules


class ImageFormat(StrEnum):
    """The disk formats that hosts boot."""

    RAW = "raw"
    QCOW2 = "qcow2"
    ISO = "iso"
    """A CD: its servers get it in a drive, beside an empty root disk, which is started from once it can be."""


class Architecture(StrEnum):
    """The machine that an image's programs are made for (Glance's `hw_architecture`)."""

    X86_64 = "x86_64"
    I686 = "i686"
    AARCH64 = "aarch64"
    ARMV7L = "armv7l"
    PPC64LE = "ppc64le"
    RISCV64 = "riscv64"
    S390X = "s390x"


HELD_SCHEME = "kumulus-image"
"""Scheme of the address of an image that a host holds: `kumulus-image:///<namespace>/<name>`."""


class ServerSource(Model):
    """The server whose root disk was copied, as it was then."""

    name: ObjectName
    instance_id: Annotated[UUIDText, Field(alias="instanceID")]
    action: UUIDText
    """The uid of the ServerAction CreateImage that made the copy."""
    host: HostName
    """The host that made it, and holds it."""


class ImageSource(Model):
    """Where the image's bytes come from: an address, or a server of which a host holds a copy."""

    url: Annotated[str, Field(min_length=8, max_length=2048, pattern=r"^https?://[^\s]+$")] | None = None
    server: ServerSource | None = None
    """Written by the operator for a ServerAction CreateImage."""

    model_config = validated(Rule("has(self.url) != has(self.server)", "a source is a url"))


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
    properties: LabelMap = Field(default_factory=dict)
    """What the machine of a server of this image is made of, as Glance spells it: `hw_firmware_type: uefi`,
    `os_secure_boot: required`, `hw_machine_type: q35`, `hw_disk_bus: scsi` … A server gets it when it is placed or
    rebuilt."""

    model_config = validated(
        Rule(
            "self.source == oldSelf.source && self.format == oldSelf.format"
            " && has(self.checksum) == has(oldSelf.checksum)"
            " && (!has(self.checksum) || self.checksum == oldSelf.checksum)",
            "source, format and checksum cannot change, since hosts keep copies: make a new image",
        ),
        Rule(
            "!has(self.properties) || self.properties.all(k,"
            f" k in [{', '.join(repr(word.key) for word in IMAGE_WORDS)}])",
            f"a property is one of {keys(IMAGE_WORDS)}; another would be ignored",
            ".properties",
        ),
        *word_rules("properties", IMAGE_WORDS),
        *(
            Rule(
                f"!has(self.properties) || !('os_secure_boot' in self.properties && '{key}' in self.properties)"
                f" || self.properties['os_secure_boot'] != 'required' || self.properties['{key}'] == '{value}'",
                f"os_secure_boot required goes with {key} {value}",
                ".properties",
            )
            for key, value in (("hw_firmware_type", "uefi"), ("hw_machine_type", "q35"))
        ),
        Rule(
            "!has(self.properties) || !('hw_disk_bus' in self.properties && 'hw_machine_type' in self.properties)"
            " || self.properties['hw_disk_bus'] != 'ide' || self.properties['hw_machine_type'] == 'pc'",
            "hw_disk_bus ide goes with hw_machine_type pc",
            ".properties",
        ),
    )


class ImageStatus(Status):
    """Where it is imported and what it turned out to be."""

    import_host: HostName | None = None
    """The host that downloads and inspects it first, or holds the copy of a server's disk; set by the operator."""
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
    COPYING = "Copying"
    """The disk of a server is being copied."""
    COPIED = "Copied"
    NOT_HELD = "NotHeld"
    """The copy has come to nothing; the image goes."""
    HOST_LOST = "HostLost"
    """The host that held the only copy never returns."""


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
        selectable=(".status.importHost", ".spec.source.server.instanceID"),
    )

    spec: ImageSpec
    status: ImageStatus | None = None

    @property
    def address(self) -> str:
        """Where hosts get the bytes from: a URL, or the name under which other hosts hold them."""
        return self.spec.source.url or held_address(*self.key)


def held_address(namespace: str, name: str) -> str:
    """Give the address of an image that a host holds."""
    return f"{HELD_SCHEME}:///{namespace}/{name}"
