"""Plan a HostAggregate's status (pure)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from kumulus_api import Host, HostAggregate
from kumulus_api.aggregate import HostAggregateReason
from kumulus_operator.placement.inventory import selects
from kumulus_runtime.conditions import set_condition

_NAMED = 3
"""How many hosts a message names."""


def members(aggregate: HostAggregate, hosts: Iterable[Host]) -> list[str]:
    """Give the names of the hosts that belong to an aggregate, in order."""
    return sorted(host.metadata.name for host in hosts if selects(aggregate, host))


def disputed(aggregate: HostAggregate, others: Iterable[HostAggregate], hosts: Iterable[Host]) -> dict[str, str]:
    """Give those of the hosts that another aggregate puts into another zone, with the other's name."""
    zone, known = aggregate.spec.zone, list(hosts)
    if zone is None:
        return {}
    found: dict[str, str] = {}
    for other in others:
        if other.spec.zone in (None, zone) or other.deleting or other.key == aggregate.key:
            continue
        found |= {h.metadata.name: other.metadata.name for h in known if selects(other, h) and selects(aggregate, h)}
    return found


def aggregate_status(
    aggregate: HostAggregate, others: Iterable[HostAggregate], hosts: Iterable[Host], now: datetime
) -> dict[str, Any] | None:
    """Give the status to write, or None if it says so already.

    Args:
        aggregate: which.
        others: all aggregates.
        hosts: all hosts.
        now: the present.
    """
    known = list(hosts)
    names = members(aggregate, known)
    conflict = disputed(aggregate, others, known)
    found = aggregate.status.dump() if aggregate.status is not None else {}
    reason, message = HostAggregateReason.HOSTS_SELECTED, f"{len(names)} hosts belong to it"
    if conflict:
        first = ", ".join(f"{host} ({other})" for host, other in sorted(conflict.items())[:_NAMED])
        more = ", …" if len(conflict) > _NAMED else ""
        reason = HostAggregateReason.ZONE_CONFLICT
        message = (
            f"other aggregates put {len(conflict)} of its hosts into another zone: {first}{more}; such a host is in no "
            "zone; transient: over when each host is in aggregates of one zone"
        )
    elif not names:
        reason = HostAggregateReason.NO_HOSTS
        message = "no Host is selected; transient: over when a Host has the labels, and the name if names are given"
    ready = reason is HostAggregateReason.HOSTS_SELECTED
    generation = aggregate.metadata.generation
    conditions = set_condition(found.get("conditions", []), "Ready", ready, reason, message, generation, now)
    wanted = {
        "observedGeneration": generation,
        "conditions": conditions,
        "hosts": names[:4096],
        "hostCount": len(names),
    }
    return None if wanted == found else wanted
