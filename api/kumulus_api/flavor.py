"""Flavor: the size of a server (Nova's flavor)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from kumulus_api.base import Column, Definition, Kind, LabelMap, Model, Quantity, Rule, validated

_POSITIVE = "quantity(self.{0}).isGreaterThan(quantity('0'))"


class Resources(Model):
    """What a server takes of its host."""

    vcpus: Annotated[int, Field(ge=1, le=512)]
    memory: Quantity
    root_disk: Quantity
    max_vcpus: Annotated[int, Field(ge=1, le=512)] | None = None
    """Up to so many a guest that runs is given when its server's flavor changes; without it, none."""
    max_memory: Quantity | None = None
    """Up to so much a guest that runs is given when its server's flavor changes; without it, none."""


class FlavorSpec(Resources):
    """The size. It cannot change: servers were placed by it."""

    extra_specs: LabelMap = Field(default_factory=dict)
    """What else is asked of a host, in Nova's words: `trait:NAME: required` or `forbidden`, and
    `aggregate_instance_extra_specs:KEY: VALUE`, which the metadata of an aggregate of the host must match (VALUE may
    begin with an operator: `s== s!= s>= s> s<= s< = == != >= <= <in> <all-in> <or>`)."""

    model_config = validated(
        Rule("self == oldSelf", "a flavor cannot change, since servers were placed by it: make a new one"),
        Rule("!quantity(self.memory).isLessThan(quantity('16Mi'))", "memory is at least 16Mi"),
        Rule(_POSITIVE.format("rootDisk"), "rootDisk is more than 0"),
        Rule("!quantity(self.memory).isGreaterThan(quantity('16Ti'))", "memory is at most 16Ti"),
        Rule("!has(self.maxVcpus) || self.maxVcpus >= self.vcpus", "maxVcpus is at least vcpus", ".maxVcpus"),
        Rule(
            "!has(self.maxMemory) || (!quantity(self.maxMemory).isLessThan(quantity(self.memory))"
            " && !quantity(self.maxMemory).isGreaterThan(quantity('16Ti')))",
            "maxMemory is at least memory and at most 16Ti",
            ".maxMemory",
        ),
        Rule("!quantity(self.rootDisk).isGreaterThan(quantity('64Ti'))", "rootDisk is at most 64Ti"),
        Rule(
            "!has(self.extraSpecs) || self.extraSpecs.all(k,"
            " k.startsWith('trait:') || k.startsWith('aggregate_instance_extra_specs:'))",
            "an extra spec is trait:NAME or aggregate_instance_extra_specs:KEY; another would be ignored",
            ".extraSpecs",
        ),
        Rule(
            "!has(self.extraSpecs) || self.extraSpecs.all(k,"
            " !k.startsWith('trait:') || self.extraSpecs[k] in ['required', 'forbidden'])",
            "a trait is required or forbidden",
            ".extraSpecs",
        ),
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
