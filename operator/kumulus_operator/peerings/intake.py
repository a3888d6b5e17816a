"""What changes mean for the peering of networks (see `kumulus_operator.intake`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kumulus_api import Host, Network, Project
from kumulus_operator.networks.plan import tunnel_of
from kumulus_operator.peerings.plan import addresses_in

if TYPE_CHECKING:
    from kumulus_api import AddressClaim
    from kumulus_operator.cloud import Cloud


def network_seen(cloud: Cloud, former: Network | None, new: Network | None) -> None:
    """Have hosts told of who comes from pods; and others looked at, if this network may have left them its place."""
    before = former.spec.assignment if former is not None else None
    now = new.spec.assignment if new is not None else None
    if before is None and now is None:
        return
    key = (new or former).key  # type: ignore[union-attr]
    if before != now:
        cloud.queues.endpoints.add(key)
    left = set(before.subnets if before is not None else ()) - set(now.subnets if now is not None else ())
    if left:
        for network in cloud.networks:
            if network.spec.peering is not None and network.key != key:
                cloud.queues.networks.add(network.key)
    if new is None:
        for claim in cloud.addresses.held_by(key, Network.__name__):
            cloud.queues.claims.add(("AddressClaim", claim.metadata.name))


def host_seen(cloud: Cloud, former: Host | None, new: Host | None) -> None:
    """Have peered networks looked at when a host comes, goes, or is reached elsewhere."""
    before, now = (tunnel_of(host) if host is not None else None for host in (former, new))
    if before == now:
        return
    for network in cloud.networks:
        if network.spec.peering is not None or network.spec.assignment is not None:
            cloud.queues.networks.add(network.key)
            cloud.queues.endpoints.add(network.key)


def project_seen(cloud: Cloud, former: Project | None, new: Project | None) -> None:
    """Have a project's networks looked at when it is granted something else."""
    before, now = (item.spec.peering if item is not None else None for item in (former, new))
    if before == now:
        return
    name = (new or former).metadata.name  # type: ignore[union-attr]
    for network in cloud.networks.in_namespace(name):
        if network.spec.peering is not None:
            cloud.queues.networks.add(network.key)


def has_address(network: Network, claim: AddressClaim) -> bool:
    """Give whether a network has an address for pods, or may be about to; one made anew under the name has not."""
    same = network.metadata.uid == claim.spec.claim_ref.instance
    return same and claim.spec.address in addresses_in(network.spec.assignment)
