"""Weigh the hosts that passed the filters (pure): the heaviest is taken, the name settles a tie."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kumulus_api.server_group import GroupPolicy
from kumulus_operator.placement.facts import NOTHING, Amounts, Candidate, Group, HostFacts, Weights


def scale_of(hosts: Iterable[HostFacts]) -> Amounts:
    """Give the most of each resource that one host has: shares of it can be compared between hosts."""
    totals = [host.total for host in hosts]
    return Amounts(
        max((total.vcpus for total in totals), default=0),
        max((total.memory for total in totals), default=0),
        max((total.disk for total in totals), default=0),
    )


def room_weights(free: Amounts, scale: Amounts, weights: Weights) -> dict[str, float]:
    """Give how much each resource that is free counts."""
    return {
        "memory": weights.memory * _share(free.memory, scale.memory),
        "vcpus": weights.vcpus * _share(free.vcpus, scale.vcpus),
        "disk": weights.disk * _share(free.disk, scale.disk),
    }


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def room_weight(free: Amounts, scale: Amounts, weights: Weights) -> float:
    """Give the sum of `room_weights`, rounded so that equal hosts weigh equal."""
    return round(sum(room_weights(free, scale, weights).values()), 12)


def group_weight(group: Group | None, here: int, weights: Weights) -> float:
    """Give how much the servers of the group on a host count: for it, or against it."""
    if group is None or not here:
        return 0.0
    if group.policy is GroupPolicy.SOFT_AFFINITY:
        return weights.group * here
    return -weights.group * here if group.policy is GroupPolicy.SOFT_ANTI_AFFINITY else 0.0


def weight(candidate: Candidate, group: Group | None, scale: Amounts, weights: Weights) -> float:
    """Give the weight of a host for a server."""
    here = candidate.crowd.get(candidate.host.name, 0)
    return room_weight(candidate.free, scale, weights) + group_weight(group, here, weights)


def best(
    hosts: Iterable[HostFacts],
    used: Mapping[str, Amounts],
    weights: Weights | None = None,
    scale: Amounts | None = None,
) -> HostFacts | None:
    """Give the heaviest host for a server without group, or None.

    Args:
        hosts: those that passed the filters.
        used: what is given out on each.
        weights: what counts how much.
        scale: see `scale_of`; of these hosts if it is not given.
    """
    items = list(hosts)
    measure = scale or scale_of(items)

    def rank(host: HostFacts) -> tuple[float, str]:
        free = host.total.minus(used.get(host.name, NOTHING))
        return -room_weight(free, measure, weights or Weights()), host.name

    return min(items, key=rank, default=None)
