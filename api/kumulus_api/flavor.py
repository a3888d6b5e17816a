"""Flavor: the size of a server (Nova's flavor)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from kumulus_api.base import (
    ASKED_RESOURCE,
    Column,
    CustomResources,
    Definition,
    Kind,
    LabelMap,
    Model,
    Quantity,
    Rule,
    validated,
)
from kumulus_api.hardware import FLAVOR_WORDS, disk_rules, keys, vif_rules, word_rules

_ALL_OF_LAYOUT = "['hw:cpu_sockets', 'hw:cpu_cores', 'hw:cpu_threads']"
_FIXED_SIZE = (
    "('hw:numa_nodes' in self.extraSpecs"
    " || ('hw:cpu_policy' in self.extraSpecs && self.extraSpecs['hw:cpu_policy'] == 'dedicated')"
    " || ('hw:mem_page_size' in self.extraSpecs && !(self.extraSpecs['hw:mem_page_size'] in ['small', 'any'])))"
)
_COUNT = f"(has(self.maxVcpus) && !{_FIXED_SIZE} ? self.maxVcpus : self.vcpus)"
_POSITIVE = "quantity(self.{0}).isGreaterThan(quantity('0'))"


class Resources(Model):
    """The size of a server."""

    vcpus: Annotated[int, Field(ge=1, le=512)]
    memory: Quantity
    root_disk: Quantity
    max_vcpus: Annotated[int, Field(ge=1, le=512)] | None = None
    """Up to so many a guest that runs is given when its server's flavor changes; without it, none."""
    max_memory: Quantity | None = None
    """Up to so much a guest that runs is given when its server's flavor changes; without it, none."""


class Allocation(Resources):
    """What a placed server takes of its host (Placement's allocation)."""

    custom: CustomResources | None = None
    """Of each custom resource class, those of devices included; and of VGPU."""


class FlavorSpec(Resources):
    """The size. It cannot change: servers were placed by it."""

    extra_specs: LabelMap = Field(default_factory=dict)
    """What else is asked of a host, in Nova's words: `trait:NAME: required` or `forbidden`, `resources:CUSTOM_NAME:
    COUNT` (what an administrator counts, or devices of the host such as `resources:CUSTOM_PCI_8086_10D3: "1"` and
    `resources:VGPU: "1"`), and `aggregate_instance_extra_specs:KEY: VALUE`, which the metadata of an aggregate of the
    host must match (VALUE may begin with an operator: `s== s!= s>= s> s<= s< = == != >= <= <in> <all-in> <or>`). And
    what the guest's machine is made of: `hw:cpu_policy`, `hw:cpu_sockets`, `hw:tpm_version`, `hw:watchdog_action` …; a
    host that cannot give it is no candidate. And how much each of its interfaces carries whose Port says nothing of it:
    `quota:vif_inbound_average`, `…_peak`, `…_burst` and `quota:vif_outbound_…`, in kB and kB/s. And how fast it may use
    its root disk: `quota:disk_total_bytes_sec`, `…_read_…`, `…_write_…`, `quota:disk_total_iops_sec` …, and `…_max` for
    a moment."""

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
            "!has(self.extraSpecs) || !('pci_passthrough:alias' in self.extraSpecs)",
            "there are no aliases of PCI devices: ask for their class, such as resources:CUSTOM_PCI_8086_10D3",
            ".extraSpecs",
        ),
        Rule(
            "!has(self.extraSpecs) || self.extraSpecs.all(k,"
            " k.startsWith('trait:') || k.startsWith('aggregate_instance_extra_specs:')"
            f" || k.matches(r'^resources:{ASKED_RESOURCE[1:]}')"
            f" || k in [{', '.join(repr(word.key) for word in FLAVOR_WORDS)}])",
            "an extra spec is trait:NAME, resources:CUSTOM_NAME, resources:VGPU or"
            f" aggregate_instance_extra_specs:KEY, or one of {keys(FLAVOR_WORDS)};"
            " another would be ignored",
            ".extraSpecs",
        ),
        Rule(
            "!has(self.extraSpecs) || self.extraSpecs.all(k,"
            " !k.startsWith('trait:') || self.extraSpecs[k] in ['required', 'forbidden'])",
            "a trait is required or forbidden",
            ".extraSpecs",
        ),
        Rule(
            "!has(self.extraSpecs) || self.extraSpecs.all(k,"
            " !k.startsWith('resources:') || self.extraSpecs[k].matches(r'^[1-9][0-9]{0,8}$'))",
            "of a resource a number from 1 to 999999999 is asked for",
            ".extraSpecs",
        ),
        *word_rules("extraSpecs", FLAVOR_WORDS),
        *vif_rules("extraSpecs"),
        *disk_rules("extraSpecs"),
        Rule(
            f"!has(self.extraSpecs) || !{_ALL_OF_LAYOUT}.all(k, k in self.extraSpecs) || !{_ALL_OF_LAYOUT}.all(k,"
            " self.extraSpecs[k].matches(r'^[1-9][0-9]{0,2}$')) || int(self.extraSpecs['hw:cpu_sockets'])"
            " * int(self.extraSpecs['hw:cpu_cores']) * int(self.extraSpecs['hw:cpu_threads'])"
            f" == {_COUNT}",
            "hw:cpu_sockets times hw:cpu_cores times hw:cpu_threads is maxVcpus; without it, or with dedicated CPUs,"
            " NUMA nodes or huge pages, vcpus",
            ".extraSpecs",
        ),
        Rule(
            "!has(self.extraSpecs) || !('hw:numa_nodes' in self.extraSpecs)"
            " || !self.extraSpecs['hw:numa_nodes'].matches(r'^[1-9][0-9]?$')"
            " || int(self.extraSpecs['hw:numa_nodes']) <= self.vcpus",
            "hw:numa_nodes is at most the number of vcpus",
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
