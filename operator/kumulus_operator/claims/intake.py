"""What claims that come and go mean for the others (see `kumulus_operator.intake`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kumulus_api import AddressClaim, NetworkIDClaim
from kumulus_operator.ipam.plan import subnet_of
from kumulus_operator.routers.intake import claim_gone

if TYPE_CHECKING:
    from kumulus_operator.cloud import Cloud


def address_claim_seen(cloud: Cloud, former: AddressClaim | None, new: AddressClaim | None) -> None:
    """Take in a claim on an address as seen; one that is gone wakes those that waited for its value."""
    if new is not None:
        cloud.addresses.seen(new)
        if former is None:
            cloud.queues.claims.add_after(("AddressClaim", new.metadata.name), cloud.settings.claim_quarantine)
            _note_subnet(cloud, new)
    elif former is not None:
        cloud.addresses.gone(former)
        cloud.abandoned.pop(former.metadata.name, None)
        cloud.wake(("AddressClaim", "", str(former.spec.vni)))
        claim_gone(cloud, former)
        # Perhaps its subnet is not in use any more.
        cloud.queues.networks.add((former.spec.network.namespace or "", former.spec.network.name))


def _note_subnet(cloud: Cloud, claim: AddressClaim) -> None:
    """Have a subnet noted as in use if it is not yet: such as one of which a router or a restore claims an address."""
    network = cloud.networks.get(claim.spec.network.namespace or "", claim.spec.network.name)
    if network is None or network.status is None:
        return
    subnet = subnet_of(network.spec.subnets, claim.spec.address)
    if subnet is not None and subnet.name not in network.status.subnets_in_use:
        cloud.queues.networks.add(network.key)


def network_id_claim_seen(cloud: Cloud, former: NetworkIDClaim | None, new: NetworkIDClaim | None) -> None:
    """Take in a claim on a network's number or segment as seen."""
    if new is not None and former is None:
        cloud.queues.claims.add_after(("NetworkIDClaim", new.metadata.name), cloud.settings.claim_quarantine)
    elif new is None and former is not None:
        cloud.abandoned.pop(former.metadata.name, None)
        for network in cloud.networks:
            lacks_number = network.status is None or network.status.vni is None
            if lacks_number or (former.spec.segment is not None and network.spec.provider is not None):
                cloud.queues.networks.add(network.key)
