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
    LocalReference,
    Model,
    Name,
    ObjectName,
    Quantity,
    Reference,
    Rule,
    Status,
    Trait,
    UUIDText,
    validated,
    whole,
)
from kumulus_api.hardware import IMAGE_WORDS, keys, word_rules
from kumulus_api.image_store import ImageAssignment, PrePull, S3Source
from kumulus_api.image_volume import OriginalVolume


class ImageFormat(StrEnum):
    """The disk formats that hosts boot."""

    RAW = "raw"
    QCOW2 = "qcow2"
    ISO = "iso"
    """A CD: its servers get it in a drive, beside an empty root disk, which is started from once it can be."""
    VMDK = "vmdk"
    """VMware's, of one file: monolithicSparse or streamOptimized. This and what follows hosts convert to qcow2."""
    VHD = "vhd"
    VHDX = "vhdx"
    VDI = "vdi"


class Architecture(StrEnum):
    """The machine that an image's programs are made for (Glance's `hw_architecture`)."""

    X86_64 = "x86_64"
    I686 = "i686"
    AARCH64 = "aarch64"
    ARMV7L = "armv7l"
    PPC64LE = "ppc64le"
    RISCV64 = "riscv64"
    S390X = "s390x"


class ImageVisibility(StrEnum):
    """Who may use an image (Glance's visibility)."""

    PRIVATE = "Private"
    """Its own project."""
    SHARED = "Shared"
    """The projects of `members`, too, once they have accepted it."""
    PUBLIC = "Public"
    """All projects; for those who may update hosts to say."""


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


SourceURL = Annotated[str, Field(min_length=8, max_length=2048, pattern=r"^https?://[^\s]+$")]


class UploadSource(Model):
    """The user sends the bytes: `kubectl kumulus image upload`."""

    size: Quantity | None = None
    """Bytes of the file; another file is refused before it is sent."""


IMAGE_SOURCES = ("url", "s3", "upload", "server", "image", "volume", "volumeSnapshot")
"""An image has exactly one of them."""


class ImageSource(Model):
    """Where the bytes come from: an address, a bucket, the user, a server's disk, a volume, another image."""

    url: SourceURL | None = None
    mirrors: Annotated[list[SourceURL], Field(min_length=1, max_length=8)] | None = None
    """Further addresses of the same bytes, tried in this order after `url`. The image needs a checksum."""
    s3: S3Source | None = None
    server: ServerSource | None = None
    """Written by the operator for a ServerAction CreateImage."""
    upload: UploadSource | None = None
    """The image waits for its bytes; hosts keep them then."""
    image: Reference | None = None
    """An image that the project may use: this one has the same bytes, and goes on without it."""
    volume: LocalReference | None = None
    """A Volume of the namespace, as it is when its host begins; a server may have it meanwhile, and goes on."""
    volume_snapshot: LocalReference | None = None
    """A VolumeSnapshot of the namespace."""

    model_config = validated(
        Rule(
            f"[{', '.join(f'has(self.{name})' for name in IMAGE_SOURCES)}].exists_one(x, x)",
            f"a source is exactly one of {', '.join(name for name in IMAGE_SOURCES if name != 'server')}",
        ),
        Rule("!has(self.mirrors) || has(self.url)", "mirrors are of a url", ".mirrors"),
    )


class ImageOriginal(Model):
    """What the operator found behind `source.image`, or a volume or snapshot, when it could be used."""

    model_config = whole()

    digest: Digest | None = None
    """sha256 of the file that the store had of the image."""
    volume: OriginalVolume | None = None


class ImageSignature(Model):
    """By whom the bytes were signed: as `cosign sign-blob --key` does, or `openssl dgst -sha256 -sign`."""

    public_key: Annotated[str, Field(min_length=64, max_length=2048, pattern="^-----BEGIN PUBLIC KEY-----\n")]
    """In PEM, of ECDSA (P-256, P-384 or P-521)."""
    value: Annotated[str, Field(min_length=64, max_length=512, pattern="^[A-Za-z0-9+/]+=*$")]
    """The signature of the bytes' SHA-256 in DER, in base64."""


class ImageSpec(Model):
    """Source, format and checksum. They cannot change: hosts keep copies."""

    source: ImageSource
    format: ImageFormat
    checksum: Digest | None = None
    """What the bytes must hash to; computed at import where it is not given."""
    signature: ImageSignature | None = None
    """Verified before the image is Ready."""
    min_disk: Quantity | None = None
    """A flavor with a smaller root disk is refused."""
    min_memory: Quantity | None = None
    """A flavor with less memory is refused."""
    architecture: Architecture | None = None
    """Only hosts of it run servers of this image; any host does if it is not given."""
    required_traits: Annotated[list[Trait], Field(max_length=64)] = Field(default_factory=list)
    """Traits that a host needs for servers of this image."""
    properties: LabelMap = Field(default_factory=dict)
    """What the machine of a server of this image is made of, as Glance spells it: `hw_firmware_type: uefi`,
    `os_secure_boot: required`, `hw_machine_type: q35`, `hw_disk_bus: scsi` … A server gets it when it is placed or
    rebuilt."""
    visibility: ImageVisibility = ImageVisibility.PRIVATE
    members: Annotated[list[Name], Field(max_length=256, json_schema_extra={"x-kubernetes-list-type": "set"})] = Field(
        default_factory=list
    )
    """Names of the projects that a Shared image is offered to; each accepts it by an ImageAcceptance of its own."""
    protected: bool = False
    """Whether its deletion is refused."""
    hidden: bool = False
    """Whether it is left out where images are offered to choose from; who knows its name may use it."""
    active: bool = True
    """Whether new servers, rebuilds and copies may use it; those that have it go on with it in any case."""
    original: ImageOriginal | None = None
    """Written by the operator only, for an image that is made of another, or of a volume."""
    pre_pull: PrePull | None = None
    """Which hosts have it before a server needs it."""
    assignment: ImageAssignment | None = None
    """What the operator decided."""

    model_config = validated(
        Rule(
            "!has(self.source.mirrors) || has(self.checksum)",
            "mirrors need a checksum: nothing else tells that they have the same bytes",
            ".checksum",
        ),
        Rule(
            "self.source == oldSelf.source && self.format == oldSelf.format"
            " && has(self.checksum) == has(oldSelf.checksum)"
            " && (!has(self.checksum) || self.checksum == oldSelf.checksum)"
            " && has(self.signature) == has(oldSelf.signature)"
            " && (!has(self.signature) || self.signature == oldSelf.signature)",
            "source, format, checksum and signature cannot change, since hosts keep copies: make a new image",
        ),
        Rule("!has(self.checksum) || !has(self.source.image)", "bytes of another image need no checksum", ".checksum"),
        Rule(
            "!(has(self.source.volume) || has(self.source.volumeSnapshot))"
            " || (self.format == 'qcow2' && !has(self.checksum) && !has(self.signature))",
            "an image of a volume is qcow2, and nobody knows its checksum or has signed it before it is made",
        ),
        Rule("self.visibility == 'Shared' || size(self.members) == 0", "only a Shared image has members", ".members"),
        Rule(
            "!has(oldSelf.original) || (has(self.original) && self.original == oldSelf.original)",
            "an image keeps the bytes that it was made of",
            ".original",
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


class StoredImage(Model):
    """The file that hosts use: what came, or the qcow2 that was made of it."""

    digest: Digest
    size: Annotated[int, Field(ge=0)]
    """Bytes of the file; a sparse one takes less of a disk."""
    format: ImageFormat
    """raw or qcow2."""


class ImageStatus(Status):
    """Where it is imported and what it turned out to be."""

    import_host: HostName | None = None
    """The host that downloads and inspects it first, or holds what was uploaded or copied of a server's disk; set by
    the operator."""
    digest: Digest | None = None
    """sha256 of the bytes as downloaded; what hosts verify their copies by."""
    size: Annotated[int, Field(ge=0)] | None = None
    """Bytes as downloaded."""
    virtual_size: Annotated[int, Field(ge=0)] | None = None
    """Bytes of the disk that a guest sees."""
    accepted_by: Annotated[list[Name], Field(max_length=256)] | None = None
    """Those of `members` that have accepted the image."""
    stored: StoredImage | None = None
    """What the store keeps, and hosts use."""
    downloaded_bytes: Annotated[int, Field(ge=0)] | None = None
    """How many have come, while they do: written when it takes longer than a few seconds, and then seldom."""
    progress: Annotated[int, Field(ge=0, le=100)] | None = None
    """Percent of them; absent where the source does not tell how many there are. 100 when the image is ready."""
    replicas: Annotated[list[HostName], Field(max_length=4096)] | None = None
    """The hosts that have told that they keep it, those left out that are lost; set by the operator."""
    pre_pulled: Annotated[str, Field(max_length=16)] | None = None
    """On how many of the hosts that `spec.prePull` selects it is: `3/5`; set by the operator."""


class ImageReason(StrEnum):
    """Reasons of an Image's Ready condition."""

    IMPORTED = "Imported"
    IMPORTING = "Importing"
    CONVERTING = "Converting"
    """It has come, and a file that servers' disks can lie on is being made of it."""
    WAITING_FOR_HOST = "WaitingForHost"
    DOWNLOAD_FAILED = "DownloadFailed"
    CHECKSUM_MISMATCH = "ChecksumMismatch"
    SIGNATURE_INVALID = "SignatureInvalid"
    FORMAT_MISMATCH = "FormatMismatch"
    UNSAFE = "UnsafeImage"
    CORRUPT = "CorruptImage"
    TOO_LARGE = "TooLarge"
    COPYING = "Copying"
    """The disk of a server, or a volume, is being copied."""
    COPIED = "Copied"
    COPY_FAILED = "CopyFailed"
    """The volume could not be copied; it is tried again."""
    VOLUME_NOT_FOUND = "VolumeNotFound"
    """The volume or snapshot that it shall be made of is not there."""
    VOLUME_NOT_READY = "VolumeNotReady"
    VOLUME_ENCRYPTED = "VolumeEncrypted"
    VOLUME_MULTI_ATTACH = "VolumeMultiAttach"
    NOT_HELD = "NotHeld"
    """The copy has come to nothing; the image goes."""
    WAITING_FOR_UPLOAD = "WaitingForUpload"
    """Nobody sends its bytes now."""
    UPLOADING = "Uploading"
    HOST_LOST = "HostLost"
    """The host that held the only copy never returns."""
    QUOTA_EXCEEDED = "QuotaExceeded"
    """The project has as many images, or bytes of them, as it may."""
    IMAGE_NOT_FOUND = "ImageNotFound"
    """The image that it shall be made of is not there, or the project may not use it."""
    IMAGE_NOT_READY = "ImageNotReady"
    IMAGE_DEACTIVATED = "ImageDeactivated"
    SOURCE_GONE = "SourceGone"
    """The image or volume that it shall be made of went, with its bytes, before they were this one's."""


class Image(Kind):
    """A disk that servers start from (Glance's image)."""

    definition: ClassVar = Definition(
        plural="images",
        short_names=("kimg",),
        columns=(
            Column("Ready", ".status.conditions[?(@.type=='Ready')].status"),
            Column("Reason", ".status.conditions[?(@.type=='Ready')].reason"),
            Column("Progress", ".status.progress", "integer"),
            Column("Format", ".spec.format"),
            Column("Size", ".status.size", "integer"),
            Column("Virtual", ".status.virtualSize", "integer", 1),
            Column("Kept", ".status.conditions[?(@.type=='Replicated')].reason"),
            Column("Replicas", ".status.replicas", priority=1),
            Column("Pre-pulled", ".status.prePulled", priority=1),
            Column("Visibility", ".spec.visibility", priority=1),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
        selectable=(".status.importHost", ".spec.source.server.instanceID"),
    )

    spec: ImageSpec
    status: ImageStatus | None = None

    @property
    def address(self) -> str:
        """Where the bytes come from at first: a URL, or an image's name, by which the API tells more."""
        original = self.spec.source.image
        if original is not None:
            return held_address(original.namespace or self.key[0], original.name)
        return self.spec.source.url or held_address(*self.key)

    @property
    def of_volume(self) -> bool:
        """Whether it is made of a volume, or of a snapshot of one."""
        return self.spec.source.volume is not None or self.spec.source.volume_snapshot is not None

    @property
    def expected(self) -> str | None:
        """What the bytes must hash to, if that is known before they have come."""
        return self.spec.original.digest if self.spec.original is not None else self.spec.checksum

    @property
    def stored_digest(self) -> str | None:
        """sha256 of the file that hosts use, once there is one."""
        status = self.status
        return (status.stored.digest if status.stored is not None else status.digest) if status is not None else None

    @property
    def stored_format(self) -> ImageFormat:
        """The format of the file that hosts use; a CD's remains that of a CD."""
        stored = self.status.stored if self.status is not None else None
        return stored.format if stored is not None and self.spec.format is not ImageFormat.ISO else self.spec.format

    @property
    def stored_address(self) -> str:
        """Where hosts get that file: by the image's name once a store has it, and not from the source again."""
        return held_address(*self.key) if self.spec.assignment is not None else self.address


def held_address(namespace: str, name: str) -> str:
    """Give the address of an image that a host holds."""
    return f"{HELD_SCHEME}:///{namespace}/{name}"
