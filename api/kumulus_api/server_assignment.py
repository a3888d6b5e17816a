"""What the operator decides for a Server: its `spec.assignment`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kumulus_api.base import (
    Digest,
    HostName,
    IPAddressText,
    MACAddress,
    Model,
    Name,
    ObjectName,
    Quantity,
    Rule,
    UUIDText,
    list_map,
    ruled,
    whole,
)
from kumulus_api.flavor import Allocation
from kumulus_api.hardware import Hardware
from kumulus_api.image import ImageFormat


class AssignedImage(Model):
    """The image as it was when the server was placed."""

    name: ObjectName
    namespace: Name
    url: Annotated[str, Field(max_length=2048)]
    format: ImageFormat
    digest: Digest
    virtual_size: Annotated[int, Field(ge=0)]
    mirrors: Annotated[list[Annotated[str, Field(max_length=2048)]], Field(max_length=8)] | None = None
    """Further addresses of the same bytes."""
    properties: Annotated[dict[str, Annotated[str, Field(max_length=255)]], Field(max_length=64)] | None = None
    """Of the image, then; they and the flavor make the `hardware`."""
    min_memory: Quantity | None = None
    """Of the image, then: no flavor that the server gets later has less."""


class AssignedRescue(Model):
    """A rescue under way."""

    action: UUIDText
    """The uid of the ServerAction that began it."""
    image: AssignedImage


class FormerSize(Model):
    """What a server had before a resize that waits for its confirmation."""

    flavor: ObjectName
    resources: Allocation
    hardware: Hardware | None = None


class AssignedPort(Model):
    """A port that was given to the server."""

    name: Name
    """The interface's name in `spec.networks`."""
    port: ObjectName
    port_id: UUIDText = Field(alias="portID")
    network: ObjectName
    network_namespace: Name
    vni: Annotated[int, Field(ge=1, le=16777215)]
    mtu: Annotated[int, Field(ge=576, le=65535)] | None = None
    """Bytes, where the network says them; else the host's settings tell."""
    mac: MACAddress
    addresses: Annotated[list[IPAddressText], Field(max_length=16)]
    security_groups: Annotated[list[Name], Field(max_length=16)] | None = None
    """Those of the server's namespace that the port is in; the project's `default` if none is given."""


class AssignedVolume(Model):
    """A volume that was given to the server."""

    name: Name
    volume: ObjectName
    volume_id: UUIDText = Field(alias="volumeID")
    size: Quantity
    read_only: bool = False
    shared: bool = False
    """It lies where all hosts find it."""
    exporter: HostName | None = None
    """The host where it lies and which exports it, if the server is elsewhere; to all else it is like a shared one."""
    multi_attach: bool = False
    """Other servers may have it too."""
    boot: bool = False
    """The server boots from it, and has no root disk."""
    encrypted: bool = False
    """Its host asks for its key."""
    volume_class: ObjectName | None = None
    """Of a Local one, if its class has an `overcommit` of its own: by that it counts on the host's disk."""


class ServerAssignment(Model):
    """What the operator decided. It survives a restore from a backup, as the guest does."""

    instance_id: Annotated[
        UUIDText, Field(json_schema_extra=ruled(Rule("self == oldSelf", "instanceID cannot change")))
    ] = Field(alias="instanceID")
    """The server's identity: the domain's UUID. Unlike metadata.uid it is the same after a restore."""
    host: HostName
    target: HostName | None = None
    """Where the server is migrating to."""
    epoch: Annotated[int, Field(ge=1, json_schema_extra=ruled(Rule("self >= oldSelf", "epoch never falls")))]
    """Grows with each change of host: the lower one never acts."""
    resources: Allocation
    flavor: ObjectName | None = None
    """Whose resources these are."""
    former: FormerSize | None = None
    """What RevertResize leads back to; its room is kept."""
    hardware: Hardware | None = None
    """What its machine is made of, where flavor and image say it."""
    image: AssignedImage | None = None
    rescue: AssignedRescue | None = None
    """The server runs from this image, with its own root disk as the second disk."""
    shelved: bool = False
    """Its vCPUs and memory have been given back: it runs only when it has been admitted again."""
    ports: Annotated[list[AssignedPort], Field(max_length=16, json_schema_extra=list_map("name"))] = Field(
        default_factory=list
    )
    volumes: Annotated[list[AssignedVolume], Field(max_length=16, json_schema_extra=list_map("name"))] = Field(
        default_factory=list
    )

    model_config = whole(
        Rule("self.host == oldSelf.host || self.epoch > oldSelf.epoch", "a new host needs a higher epoch", ".host"),
    )
