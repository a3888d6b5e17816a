"""Take in what was seen of routers and floating IPs, and have those looked at that something else concerns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from kumulus_api import AddressClaim, FloatingIP, Host, Router
from kumulus_operator.dns.book import servers_changed
from kumulus_operator.firewall_groups.index import router_changed
from kumulus_operator.routers.index import networks_of, ports_of
from kumulus_operator.routers.routed import need_of, of_gateway
from kumulus_operator.views import Key
from kumulus_operator.waiting import STANDBY, quota

if TYPE_CHECKING:
    from kumulus_operator.cloud import Cloud


def take_router(cloud: Cloud, former: Router | None, new: Router | None) -> None:
    """Take in a router."""
    item = new or former
    if item is None:
        return
    cloud.queues.routers.add(item.key)
    cloud.edges.router(former, new)
    router_changed(cloud, item.key)
    if new is not None and new.spec.assignment is not None:
        cloud.counted_routers.admit(item.key, admitted=True)
    if (former and former.spec.assignment) != (new and new.spec.assignment) or new is None or new.deleting:
        for floating in cloud.edges.floating_by.get(item.key, ()):
            cloud.queues.floating_ips.add(floating)
        cloud.wake(("Router", *item.key))
        _endpoints_of(cloud, networks_of(former) | networks_of(new))
    led = of_gateway(former)
    if led is not None and led != of_gateway(new):
        cloud.wake(need_of(led[0]))
    if new is None:
        cloud.counted_routers.withdraw(item.key)
        cloud.wake(quota(item.key[0]))
        _released(cloud, item)


def take_floating_ip(cloud: Cloud, former: FloatingIP | None, new: FloatingIP | None) -> None:
    """Take in a floating IP."""
    item = new or former
    if item is None:
        return
    cloud.queues.floating_ips.add(item.key)
    cloud.edges.floating_ip(former, new)
    was, now = (one.spec.assignment if one is not None else None for one in (former, new))
    if now is not None:
        cloud.counted_floating_ips.admit(item.key, admitted=True)
    if was != now:
        networks = {(one.network_namespace, one.network) for one in (was, now) if one is not None}
        _endpoints_of(cloud, networks)
        for router in {one.router for one in (was, now) if one is not None and one.router is not None}:
            cloud.queues.routers.add((item.key[0], router))
        cloud.wake(("FloatingIP", *item.key))
        for network in networks:
            servers_changed(cloud, network)
    for port in ports_of(former) | ports_of(new):
        holder = cloud.ledger.held_by(("Port", *port))
        if holder is not None:
            cloud.queues.floating_told.add((port[0], holder))
    if new is None:
        cloud.counted_floating_ips.withdraw(item.key)
        cloud.wake(quota(item.key[0]), ("FloatingIP", *item.key))
        _released(cloud, item)


def _released(cloud: Cloud, gone: Router | FloatingIP) -> None:
    networks = set()
    for claim in cloud.addresses.held_by(gone.key, type(gone).__name__):
        cloud.queues.claims.add(("AddressClaim", claim.metadata.name))
        networks.add((claim.spec.network.namespace or "", claim.spec.network.name))
    for network in networks:
        cloud.unused(network)


def names_changed(cloud: Cloud, floating: Key) -> None:
    """Have the names looked at that a floating IP gives in its external network's zone."""
    item = cloud.floating_ips.get(*floating)
    given = item.spec.assignment if item is not None else None
    if given is not None:
        servers_changed(cloud, (given.network_namespace, given.network))


def _endpoints_of(cloud: Cloud, networks: Iterable[Key]) -> None:
    """Have the endpoints of external overlays written: routers and floating IPs are among them."""
    for key in networks:
        network = cloud.networks.get(*key)
        if network is not None and network.spec.external and network.spec.provider is None:
            cloud.queues.endpoints.add(key)


def claim_gone(cloud: Cloud, claim: AddressClaim) -> None:
    """Have the holder of a claim looked at: it may still need the address."""
    holder = claim.spec.claim_ref
    queues = {"Router": cloud.queues.routers, "FloatingIP": cloud.queues.floating_ips}
    if holder.kind in queues:
        queues[holder.kind].add((holder.namespace, holder.name))


def ports_moved(cloud: Cloud, ports: Iterable[Key]) -> None:
    """Have the floating IPs looked at that lead to ports which came, went, or are on another host."""
    for port in ports:
        for floating in cloud.edges.floating_to.get(port, ()):
            cloud.queues.floating_ips.add(floating)
            names_changed(cloud, floating)


def host_changed(cloud: Cloud, former: Host | None, new: Host | None) -> None:
    """Have what leads out on a host looked at, or may do so."""
    name = (new or former).metadata.name  # type: ignore[union-attr]
    for router in cloud.edges.gateways_on(name):
        cloud.queues.routers.add(router)
    cloud.wake(STANDBY)
    if _ways(former) != _ways(new):
        for server in cloud.servers_on.get(name, ()):
            ports_moved(cloud, cloud.ports_of(server))


def _ways(host: Host | None) -> object:
    status = host.status if host is not None else None
    return (status.tunnel_address is None, status.physical_networks) if status is not None else None
