"""HostAggregate: hosts that have something in common (Nova's host aggregate and availability zone)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from kumulus_api.base import Column, Definition, HostName, Kind, LabelMap, Model, Name, Rule, Status, Trait, validated


class HostSelector(Model):
    """Which hosts: those that have all the labels and, where names are given, one of the names."""

    match_labels: LabelMap | None = None
    """Labels of the Host objects."""
    names: Annotated[list[HostName], Field(max_length=4096)] | None = None

    model_config = validated(
        Rule(
            "has(self.names) || has(self.matchLabels) && self.matchLabels.size() > 0",
            "give matchLabels, names or both; a selector without any would take every host",
        )
    )

    def takes(self, name: str, labels: Mapping[str, str]) -> bool:
        """Give whether a Host of this name and these labels is selected."""
        if self.names is not None and name not in self.names:
            return False
        if self.match_labels is None:
            return self.names is not None
        return all(labels.get(key) == value for key, value in self.match_labels.items())


class HostAggregateSpec(Model):
    """Which hosts, and what they are by belonging to it."""

    host_selector: HostSelector
    zone: Name | None = None
    """The availability zone of these hosts. A host that two aggregates put into different zones is in none."""
    traits: Annotated[list[Trait], Field(max_length=256)] = Field(default_factory=list)
    """What each of these hosts can do, beside what it says itself."""
    metadata: LabelMap = Field(default_factory=dict)
    """What `aggregate_instance_extra_specs:` of flavors is matched with; a value may list several, with commas."""


class HostAggregateStatus(Status):
    """Who belongs to it."""

    hosts: Annotated[list[HostName], Field(max_length=4096)] = Field(default_factory=list)
    host_count: int | None = None


class HostAggregateReason(StrEnum):
    """Reasons of a HostAggregate's Ready condition."""

    HOSTS_SELECTED = "HostsSelected"
    NO_HOSTS = "NoHosts"
    ZONE_CONFLICT = "ZoneConflict"


class HostAggregate(Kind):
    """Hosts that have something in common: zone, traits, metadata (Nova's host aggregate, availability zone)."""

    definition: ClassVar = Definition(
        plural="hostaggregates",
        namespaced=False,
        short_names=("kagg",),
        columns=(
            Column("Ready", ".status.conditions[?(@.type=='Ready')].status"),
            Column("Reason", ".status.conditions[?(@.type=='Ready')].reason"),
            Column("Zone", ".spec.zone"),
            Column("Hosts", ".status.hostCount", "integer"),
            Column("Members", ".status.hosts", priority=1),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
        in_all=False,
    )

    spec: HostAggregateSpec
    status: HostAggregateStatus | None = None
