"""Hold addresses for routers and floating IPs, in words that their owners understand."""

from __future__ import annotations

from dataclasses import dataclass

from kumulus_api import AddressClaim, FloatingIP, Network, Router
from kumulus_api.network import Subnet
from kumulus_api.router import RouterReason
from kumulus_operator.cloud import Cloud
from kumulus_operator.ipam.claims import AddressesExhausted, AddressTaken
from kumulus_operator.refusal import refuse
from kumulus_operator.waiting import Need


@dataclass(frozen=True)
class Claimant:
    """Who is to hold an address.

    Attributes:
        item: the object.
        instance: its identity.
        part: of the object, such as `gateway`; messages begin with it.
    """

    item: Router | FloatingIP
    instance: str
    part: str


def earlier_claims(cloud: Cloud, item: Router | FloatingIP) -> list[AddressClaim]:
    """Give the claims that an interrupted attempt has made, so that they are used and not leaked."""
    claims = cloud.addresses.held_by(item.key, type(item).__name__)
    return [claim for claim in claims if claim.metadata.name not in cloud.abandoned]


async def hold_address(
    cloud: Cloud, claimant: Claimant, network: Network, subnet: Subnet, address: str | None = None
) -> str:
    """Hold an address of a network; what is held already costs no request.

    Args:
        cloud: what the operator works with.
        claimant: who is to hold it.
        network: that is Ready.
        subnet: of the network.
        address: None for a free one.

    Raises:
        Refused: it is held by another, or none is free.
    """
    vni = network.status.vni if network.status is not None else None
    name, part, key = network.metadata.name, claimant.part, claimant.item.key
    kind = type(claimant.item).__name__
    freed: Need = ("AddressClaim", "", str(vni))
    if vni is None:
        message = f"{part}: network {name} is not Ready; transient: goes on when it is"
        raise refuse(RouterReason.NETWORK_NOT_READY, message, ("Network", *network.key))
    if address is not None and holds(cloud, claimant, vni, address):
        return address
    wanted = [address] if address is not None else []
    try:
        found = await cloud.addresses.claim(subnet, vni, network.key, (key, claimant.instance), wanted, kind=kind)
    except AddressTaken as taken:
        # The holder may belong to another project: it is not named.
        message = f"{part}: {taken.address} of network {name} is in use; transient: free when its holder is deleted"
        raise refuse(RouterReason.ADDRESS_IN_USE, message, freed) from taken
    except AddressesExhausted as error:
        message = f"{part}: {error}; transient: goes on when an address of network {name} is given back"
        raise refuse(RouterReason.ADDRESSES_EXHAUSTED, message, freed) from error
    return found[0]


def holds(cloud: Cloud, claimant: Claimant, vni: int, address: str) -> bool:
    """Give whether the watch shows that an address is held, and nobody is about to release it."""
    return any(
        (claim.spec.vni, claim.spec.address, claim.spec.claim_ref.instance) == (vni, address, claimant.instance)
        and claim.metadata.name not in cloud.abandoned
        for claim in cloud.addresses.held_by(claimant.item.key, type(claimant.item).__name__)
    )


def release_rest(cloud: Cloud, item: Router | FloatingIP, kept: set[tuple[int, str]]) -> None:
    """Have all claims of an object looked at that are not, by network number and address, among those it keeps."""
    for claim in cloud.addresses.held_by(item.key, type(item).__name__):
        if (claim.spec.vni, claim.spec.address) not in kept:
            cloud.queues.claims.add(("AddressClaim", claim.metadata.name))
