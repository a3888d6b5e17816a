"""Weigh the hosts that passed the filters (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kumulus_operator.placement.facts import Amounts, HostFacts


def best(hosts: Iterable[HostFacts], used: Mapping[str, Amounts]) -> HostFacts | None:
    """Give the host with the most free memory, so that servers spread; the name settles a tie."""

    def rank(host: HostFacts) -> tuple[float, float, str]:
        free = host.total.minus(used.get(host.name, Amounts()))
        return (-free.memory, -free.vcpus, host.name)

    return min(hosts, key=rank, default=None)
