"""Which hosts may lead out into an external network, and which of them does (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kumulus_api import Host, Network
from kumulus_api.host import FAILOVER_PACKAGE
from kumulus_api.router import AssignedTakeover

FIRST_PRIORITY, LAST_PRIORITY = 100, 250
"""Of gateways' hosts in VRRP: a standby's is one more."""


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


def shares(host: Host | None) -> bool:
    """Give whether a host can share a gateway with another: it has what tells it who leads out."""
    return host is not None and host.status is not None and FAILOVER_PACKAGE not in host.status.missing_packages


def has_taken_over(host: Host | None, router_id: str) -> bool:
    """Give whether a standby says that it leads a router out."""
    return host is not None and host.status is not None and router_id in host.status.taken_over


def next_priority(former: AssignedTakeover | None, former_host: str | None, host: str, standby: str | None) -> int:
    """Give the priority of a gateway's host: above all that any host but a standby has had of this router.

    One that led out apart from the others, and knows no better, gives way when they hear each other again.
    """
    if former is None:
        return FIRST_PRIORITY
    known = former.standby.host if former.standby is not None else None
    if (host, standby) == (former_host, known):
        return former.priority
    step = 1 if host == known or known is None else 2
    return former.priority + step if former.priority + step <= LAST_PRIORITY else FIRST_PRIORITY


def least_used(able: Sequence[str], routers: Mapping[str, int]) -> str | None:
    """Choose the host that the fewest routers lead out on; of several the first by name."""
    return min(able, key=lambda name: (routers.get(name, 0), name), default=None)
