"""The Ports of a load balancer, so that all that is true of ports is true of them.

One has its address, the other one that by which the standby reaches members.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from ipaddress import ip_interface

from kumulus_api import AddressClaim, LoadBalancer, Network, Port
from kumulus_api.load_balancer_status import LoadBalancerReason
from kumulus_api.port import PortAssignment
from kumulus_operator.bodies import owner_reference
from kumulus_operator.cloud import Cloud
from kumulus_operator.ipam.plan import fixed_fault
from kumulus_operator.refusal import refuse
from kumulus_operator.security_groups.plan import names_of, references
from kumulus_operator.servers.interfaces import asked_and_held, claim_addresses, mac_of
from kumulus_runtime.errors import AlreadyExists


@dataclass(frozen=True)
class VIP:
    """The port of a load balancer."""

    load_balancer_id: str
    name: str
    port_id: str
    mac: str
    addresses: tuple[str, ...]


async def give_port(cloud: Cloud, balancer: LoadBalancer, network: Network, groups: tuple[str, ...]) -> VIP:
    """Give a load balancer its port: as it was decided, or a new one; made anew if it is not there.

    Raises:
        Refused: its address cannot be had, or another port has the name.
    """
    given, name = balancer.spec.assignment, f"{balancer.metadata.name}-vip"
    had = VIP(given.port_id, given.port, given.port_id, given.mac, tuple(given.addresses)) if given else None
    vip = await _have(cloud, balancer, network, groups, had or (name, balancer.spec.address))
    return replace(vip, load_balancer_id=given.load_balancer_id) if given is not None else vip


async def give_own_port(cloud: Cloud, balancer: LoadBalancer, network: Network, groups: tuple[str, ...]) -> VIP:
    """Give the port by which the standby reaches members, as `give_port` does.

    Raises:
        Refused: there is no address for it, or another port has the name.
    """
    given, name = balancer.spec.assignment, f"{balancer.metadata.name}-own"
    takeover = given.takeover if given is not None else None
    if takeover is None:
        return await _have(cloud, balancer, network, groups, (name, None))
    had = VIP(takeover.port_id, takeover.port, takeover.port_id, takeover.mac, tuple(takeover.addresses))
    return await _have(cloud, balancer, network, groups, had)


async def _have(
    cloud: Cloud, balancer: LoadBalancer, network: Network, groups: tuple[str, ...], found: VIP | tuple[str, str | None]
) -> VIP:
    """Have a port as it was decided, with prefix lengths; or a new one of a name, with the address asked for."""
    if isinstance(found, VIP):
        addresses = [str(ip_interface(item).ip) for item in found.addresses]
        vip = replace(found, addresses=tuple(addresses))
        held = {claim.spec.address for claim in _claims(cloud, balancer, vip.name, vip.port_id)}
        if not set(addresses) <= held:
            # After a restore claims may be missing.
            await claim_addresses(cloud, network, ((balancer.key[0], vip.name), vip.port_id), addresses)
    else:
        vip = await _new(cloud, balancer, network, *found)
    port = cloud.ports.get(balancer.key[0], vip.name)
    if port is None or port.deleting:
        await _make(cloud, balancer, network, vip, groups)
    elif not _is(port, vip):
        raise _taken(balancer, vip.name)
    elif port.spec.port_security_enabled and names_of(port.spec.security_groups) != groups:
        patch = {"spec": {"securityGroups": references(groups)}}
        cloud.take(Port, await cloud.client.patch_merge(Port, port.metadata.name, patch, port.metadata.namespace))
    return vip


async def _new(cloud: Cloud, balancer: LoadBalancer, network: Network, name: str, asked: str | None) -> VIP:
    """Claim the addresses of a new port; what an interrupted attempt has made or claimed is used."""
    namespace = balancer.key[0]
    found = cloud.ports.get(namespace, name)
    had = found.spec.assignment if found is not None else None
    if found is not None and had is not None and _owned(found, balancer):
        return VIP(had.port_id, name, had.port_id, had.mac, tuple(had.addresses))
    if found is not None:
        raise _taken(balancer, name)
    if asked is not None and (fault := fixed_fault(network.spec.subnets, asked, None)) is not None:
        raise refuse(LoadBalancerReason.ADDRESS_INVALID, f"address: {fault}; permanent: make another load balancer")
    vni = network.status.vni if network.status is not None else None
    earlier = [claim for claim in _claims(cloud, balancer, name, None) if claim.spec.vni == vni]
    port_id = earlier[0].spec.claim_ref.instance if earlier else str(uuid.uuid4())
    own = [claim for claim in earlier if claim.spec.claim_ref.instance == port_id]
    mac = mac_of(port_id)
    fixed = asked_and_held([asked] if asked is not None else [], own)
    addresses = await claim_addresses(cloud, network, ((namespace, name), port_id), fixed, mac)
    return VIP(port_id, name, port_id, mac, tuple(addresses))


def _claims(cloud: Cloud, balancer: LoadBalancer, port: str, port_id: str | None) -> list[AddressClaim]:
    """Give the claims of its port; of a new one those that are younger than the load balancer."""
    born = balancer.metadata.creation_timestamp or ""
    return [
        claim
        for claim in cloud.addresses.held_by((balancer.key[0], port))
        if claim.metadata.name not in cloud.abandoned
        and (
            claim.spec.claim_ref.instance == port_id
            if port_id is not None
            else (claim.metadata.creation_timestamp or "") >= born
        )
    ]


async def _make(cloud: Cloud, balancer: LoadBalancer, network: Network, vip: VIP, groups: tuple[str, ...]) -> None:
    given = PortAssignment(portID=vip.port_id, mac=vip.mac, addresses=list(vip.addresses))
    body = {
        "metadata": {
            "name": vip.name,
            "namespace": balancer.key[0],
            "ownerReferences": [owner_reference(balancer)],
        },
        "spec": {
            "network": {"name": network.metadata.name, "namespace": network.metadata.namespace},
            "securityGroups": references(groups),
            "assignment": given.dump(),
        },
    }
    try:
        cloud.take(Port, await cloud.client.create(Port, body))
    except AlreadyExists:
        found = await cloud.client.get(Port, vip.name, balancer.key[0])
        if found is None or not _is(Port.model_validate(found), vip):
            raise _taken(balancer, vip.name) from None


def _is(port: Port, vip: VIP) -> bool:
    given = port.spec.assignment
    return given is not None and given.port_id == vip.port_id


def _owned(port: Port, balancer: LoadBalancer) -> bool:
    return any(owner.uid == balancer.metadata.uid for owner in port.metadata.owner_references)


def _taken(balancer: LoadBalancer, name: str) -> Exception:
    message = f"port {name} exists and is not this load balancer's; transient: goes on when it is deleted"
    return refuse(LoadBalancerReason.PORT_IN_USE, message, ("Port", balancer.key[0], name))
