"""Provider networks: networks outside the cloud that hosts reach by an interface of their own (Neutron's word)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from kumulus_api.base import Model, Name, Rule, Text, list_map, validated

DEFAULT_MTU = 1500

InterfaceName = Annotated[str, Field(min_length=1, max_length=15, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
"""A network interface of a host, as the kernel calls it."""

PHYSICAL_NETWORK = "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"

BridgeMappings = Annotated[dict[str, InterfaceName], Field(max_length=16)]
"""The interface that leads to each physical network (Neutron: `bridge_mappings`)."""

MAPPING_RULES = (
    Rule(
        f"!has(self.bridgeMappings) || self.bridgeMappings.all(k, k.matches(r'{PHYSICAL_NETWORK}'))",
        "a physical network's name is of small letters, digits and dashes, at most 63",
        ".bridgeMappings",
    ),
    Rule(
        "!has(self.bridgeMappings) || self.bridgeMappings.all(a, self.bridgeMappings.all(b, a == b"
        " || self.bridgeMappings[a] != self.bridgeMappings[b]))",
        "an interface leads to one physical network",
        ".bridgeMappings",
    ),
)


class SegmentType(StrEnum):
    """How the network's frames are told from others on the physical network."""

    FLAT = "Flat"
    """Not at all: they are the frames without a tag."""
    VLAN = "VLAN"
    """By a VLAN tag (IEEE 802.1Q)."""


class Segment(Model):
    """A part of a physical network. It has one Network at most."""

    physical_network: Name
    """The name that hosts map to an interface (Neutron: `provider:physical_network`)."""
    type: SegmentType = SegmentType.FLAT
    """Neutron: `provider:network_type`."""
    segmentation_id: Annotated[int, Field(ge=1, le=4094)] | None = Field(default=None, alias="segmentationID")
    """The VLAN's number (Neutron: `provider:segmentation_id`)."""

    model_config = validated(
        Rule(
            "(self.type == 'VLAN') == has(self.segmentationID)",
            "a segment of type VLAN has a segmentationID, a flat one has none",
            ".segmentationID",
        ),
    )

    @property
    def shown(self) -> str:
        """Give it in words."""
        number = f" {self.segmentation_id}" if self.segmentation_id is not None else ""
        return f"{self.physical_network} ({self.type.value}{number})"


class Provider(Segment):
    """Where a provider network is."""

    mtu: Annotated[int, Field(ge=576, le=65535)] = DEFAULT_MTU
    """Bytes of a packet that all of the physical network carries; told to guests. A host whose interface carries less
    does not reach it."""


class ReachReason(StrEnum):
    """Why a host does not reach a physical network."""

    INTERFACE_ABSENT = "InterfaceAbsent"
    INTERFACE_IN_USE = "InterfaceInUse"
    """The host itself uses it: to take it would cut the host off."""
    INTERFACE_DOWN = "InterfaceDown"
    VLAN_UNSUPPORTED = "VLANUnsupported"
    """The host's kernel lacks 8021q."""


class Obstacle(Model):
    """Why networks of one type do not reach the host."""

    type: SegmentType
    reason: ReachReason
    message: Text = ""


class PhysicalNetwork(Model):
    """A physical network that is mapped on a host."""

    name: Name
    interface: InterfaceName
    mtu: Annotated[int, Field(ge=0)] | None = None
    """Bytes; absent as the interface is."""
    reaches: Annotated[list[SegmentType], Field(max_length=2)] = Field(default_factory=list)
    """The types of networks that it carries here."""
    obstacles: Annotated[list[Obstacle], Field(max_length=2, json_schema_extra=list_map("type"))] = Field(
        default_factory=list
    )
    """Why it does not carry the others."""


def segment_claim_name(segment: Segment) -> str:
    """Give the name of the claim on a segment: `segment-physnet1-flat`, `segment-physnet1-vlan-100`."""
    number = f"-{segment.segmentation_id}" if segment.segmentation_id is not None else ""
    return f"segment-{segment.physical_network}-{segment.type.value.lower()}{number}"
