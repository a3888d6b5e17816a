"""Flavor: the size of a server (Nova's flavor)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from kumulus_api.base import Column, Definition, Kind, Model, Quantity, Rule, validated

_POSITIVE = "quantity(self.{0}).isGreaterThan(quantity('0'))"


class Resources(Model):
    """What a server takes of its host."""

    vcpus: Annotated[int, Field(ge=1, le=512)]
    memory: Quantity
    root_disk: Quantity


class FlavorSpec(Resources):
    """The size. It cannot change: servers were placed by it."""

    model_config = validated(
        Rule("self == oldSelf", "a flavor cannot change, since servers were placed by it: make a new one"),
        Rule("!quantity(self.memory).isLessThan(quantity('16Mi'))", "memory is at least 16Mi"),
        Rule(_POSITIVE.format("rootDisk"), "rootDisk is more than 0"),
        Rule("!quantity(self.memory).isGreaterThan(quantity('16Ti'))", "memory is at most 16Ti"),
        Rule("!quantity(self.rootDisk).isGreaterThan(quantity('64Ti'))", "rootDisk is at most 64Ti"),
    )


class Flavor(Kind):
    """vCPUs, memory and root disk of a server (Nova's flavor)."""

    definition: ClassVar = Definition(
        plural="flavors",
        namespaced=False,
        short_names=("kflv",),
        columns=(
            Column("VCPUs", ".spec.vcpus", "integer"),
            Column("Memory", ".spec.memory"),
            Column("Disk", ".spec.rootDisk"),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
        in_all=False,
    )

    spec: FlavorSpec
