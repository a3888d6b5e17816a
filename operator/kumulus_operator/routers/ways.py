"""Which hosts may lead out into an external network, and which of them does (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kumulus_api import Host, Network


def reaches(host: Host, network: Network) -> bool:
    """Give whether a host has a way into a network: a tunnel into an overlay, a cable to a physical network."""
    if host.status is None or host.status.tunnel_address is None:
        return False
    provider = network.spec.provider
    if provider is None:
        return True
    mapped = host.status.physical_networks
    return any(
        item.name == provider.physical_network and provider.type in item.reaches and (item.mtu or 0) >= provider.mtu
        for item in mapped
    )


def objection(host: Host | None, network: Network) -> str | None:
    """Say what keeps a host that speaks from leading out into a network, or None.

    Whether it is `schedulable` is about servers: a host without any may well be there to lead out.
    """
    if host is None or host.deleting:
        return "gone"
    if host.spec.decommissioned:
        return "decommissioned"
    if host.spec.maintenance:
        return "in maintenance"
    conditions = host.status.conditions if host.status is not None else []
    if not any(item.type == "Ready" and item.status == "True" for item in conditions):
        return "not Ready"
    if reaches(host, network):
        return None
    provider = network.spec.provider
    return f"without physical network {provider.shown}" if provider is not None else "without a tunnel address"


def least_used(able: Sequence[str], routers: Mapping[str, int]) -> str | None:
    """Choose the host that the fewest routers lead out on; of several the first by name."""
    return min(able, key=lambda name: (routers.get(name, 0), name), default=None)
