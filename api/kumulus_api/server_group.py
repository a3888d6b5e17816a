"""ServerGroup: servers that are to be together or apart (Nova's server group)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from kumulus_api.base import Column, Definition, Kind, Model, Rule, validated


class GroupPolicy(StrEnum):
    """How the servers of a group lie to each other; a soft policy gives way where no host would be left."""

    AFFINITY = "Affinity"
    ANTI_AFFINITY = "AntiAffinity"
    SOFT_AFFINITY = "SoftAffinity"
    SOFT_ANTI_AFFINITY = "SoftAntiAffinity"


class ServerGroupSpec(Model):
    """The policy. It cannot change: servers were placed by it."""

    policy: GroupPolicy
    max_servers_per_host: Annotated[int, Field(ge=1, le=1000)] | None = None
    """With AntiAffinity: so many of the group may share a host (Nova's `max_server_per_host`); 1 if it is not given."""

    model_config = validated(
        Rule("self == oldSelf", "a server group cannot change, since servers were placed by it: make a new one"),
        Rule(
            "!has(self.maxServersPerHost) || self.policy == 'AntiAffinity'",
            "maxServersPerHost goes with policy AntiAffinity",
            ".maxServersPerHost",
        ),
    )


class ServerGroup(Kind):
    """Servers that run on one host, or on different ones; they name it in `spec.placement.group`."""

    definition: ClassVar = Definition(
        plural="servergroups",
        short_names=("kgrp",),
        columns=(
            Column("Policy", ".spec.policy"),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
        in_all=False,
    )

    spec: ServerGroupSpec
