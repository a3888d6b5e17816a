"""Where an Image's bytes are kept, and on which hosts they are before a server needs them."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from kumulus_api.aggregate import HostSelector
from kumulus_api.base import Digest, HostName, LocalReference, Model, Name, ObjectName, whole


class StoreType(StrEnum):
    """What keeps the bytes of images."""

    HOSTS = "Hosts"
    """Disks of several hosts."""
    S3 = "S3"
    """A bucket that all hosts reach."""


class S3Source(Model):
    """An object in a bucket of an S3 service."""

    endpoint: Annotated[str, Field(min_length=8, max_length=255, pattern=r"^https?://[^\s/]+$")]
    """Base URL of the service, without the bucket."""
    bucket: Annotated[str, Field(min_length=3, max_length=63, pattern=r"^[a-z0-9][a-z0-9.-]*[a-z0-9]$")]
    key: Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[^\s/][^\n]*$")]
    region: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9-]+$")] = "us-east-1"
    path_style: bool = True
    """The bucket stands in the path of URLs, not in the name of the server."""
    secret: LocalReference | None = None
    """A Secret of the project with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; without one nothing is signed."""


class ImageAssignment(Model):
    """What the operator decided for an Image."""

    store: StoreType
    hosts: Annotated[list[HostName], Field(max_length=64)] = Field(default_factory=list)
    """Of the store Hosts those that keep the bytes; one that has none yet gets them from another."""

    model_config = whole()


class PrePull(Model):
    """Hosts that fetch the image before a server needs it, and never evict it: all of them, unless some are selected.

    Administrators only, as it takes room on disks of hosts.
    """

    host_selector: HostSelector | None = None

    model_config = whole()


MOST_KEPT = 4096
"""Images that one host can say it keeps."""


class KeptImage(Model):
    """The bytes of an Image that a host has and does not evict."""

    namespace: Name
    name: ObjectName
    digest: Digest


class ReplicaReason(StrEnum):
    """Reasons of an Image's Replicated condition."""

    REPLICATED = "Replicated"
    """As many hosts as the operator's setting says have the bytes."""
    REPLICATING = "Replicating"
    """A host that is to keep them has not got them yet."""
    TOO_FEW_HOSTS = "TooFewHosts"
    """There are fewer hosts for it than are asked for."""
    NO_HOLDER = "NoHolder"
    """No host says that it has them."""
    IN_BUCKET = "InBucket"
    """They are in the bucket of the store S3."""
