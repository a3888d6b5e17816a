"""ImageUpload: leave to send one image's bytes once."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from kumulus_api.base import Column, Definition, Kind, LocalReference, Model, Rule, Timestamp, validated


class ImageUploadSpec(Model):
    """Whose bytes are sent, and the hash of the token that lets them in. None of it can change."""

    image: LocalReference
    token_hash: Annotated[str, Field(min_length=64, max_length=64, pattern=r"^[0-9a-f]{64}$")]
    """SHA-256, in hexadecimal, of a secret that whoever makes the object has drawn and tells nobody but the proxy."""
    user: Annotated[str, Field(max_length=1024)] = ""
    """Who made the object; written at creation by the API server."""
    lifetime_seconds: Annotated[int, Field(ge=1, le=3600)] = 600
    """How long after its creation the token can be used. An upload that is under way then goes on."""

    model_config = validated(Rule("self == oldSelf", "an image upload cannot change: make a new one"))


class ImageUploadStatus(Model):
    """Whether the token was used, and when."""

    opened_at: Timestamp | None = None
    """When the token was used: it opens nothing more. The object goes when the connection is closed."""
    proxy: Annotated[str, Field(max_length=253)] = ""
    """The pod of the proxy that the bytes go through."""


class ImageUpload(Kind):
    """Leave to send one image's bytes once; deleting it ends the sending, which another can go on with."""

    definition: ClassVar = Definition(
        plural="imageuploads",
        short_names=("kupl",),
        columns=(
            Column("Image", ".spec.image.name"),
            Column("User", ".spec.user"),
            Column("Opened", ".status.openedAt", "date"),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
        in_all=False,
    )

    spec: ImageUploadSpec
    status: ImageUploadStatus | None = None
