"""Give a server's interfaces their ports: claim addresses, make the Port objects."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from typing import Any

from kumulus_api import AddressClaim, Network, Port, Server
from kumulus_api.port import PortAssignment
from kumulus_api.server_status import ScheduledReason
from kumulus_operator.bodies import MANAGER, identity, owner_reference
from kumulus_operator.cloud import Cloud
from kumulus_operator.ipam.claims import AddressesExhausted, AddressTaken
from kumulus_operator.refusal import refuse
from kumulus_operator.servers.plan import assigned_port, reusable
from kumulus_operator.servers.resolve import Interface
from kumulus_operator.waiting import Need
from kumulus_runtime.errors import AlreadyExists


def mac_of(port_id: str) -> str:
    """Give the MAC address of a port: locally administered, random as its id is, and known again from it.

    An address claim names the port's id, so the MAC survives even if only the claims were kept.
    """
    return "02:" + hashlib.blake2s(port_id.encode(), digest_size=5).digest().hex(":")


async def give_ports(
    cloud: Cloud, server: Server, interfaces: tuple[Interface, ...], host: str, *, adopting: bool
) -> list[dict[str, Any]]:
    """Make all ports at once, or bind them to the host; give them in their order as they stand in the assignment.

    Raises:
        Refused: an address or a port is in use.
    """
    if len(interfaces) == 1:
        return [await _give_port(cloud, server, interfaces[0], host, adopting=adopting)]
    results = await asyncio.gather(
        *(_give_port(cloud, server, item, host, adopting=adopting) for item in interfaces), return_exceptions=True
    )
    given = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        given.append(result)
    return given


async def _give_port(
    cloud: Cloud, server: Server, interface: Interface, host: str, *, adopting: bool
) -> dict[str, Any]:
    if interface.port is not None and interface.port.spec.assignment is not None:
        await bind_port(cloud, interface.port, host)
        return assigned_port(interface.name, interface.network, interface.port_name, interface.port.spec.assignment)
    namespace = server.metadata.namespace or ""
    key = (namespace, interface.port_name)
    existing = cloud.ports.get(*key)
    if existing is not None and existing.spec.assignment is not None:
        if not reusable(existing, server, adopting=adopting):
            need: Need = ("Port", *key)
            message = f"port {interface.port_name} exists and is not this server's; transient: free when it is deleted"
            raise refuse(ScheduledReason.PORT_IN_USE, message, need)
        await bind_port(cloud, existing, host)
        return assigned_port(interface.name, interface.network, interface.port_name, existing.spec.assignment)
    known = _earlier_claim(cloud, key, server, interface.network, adopting=adopting)
    port_id = known.spec.claim_ref.instance if known is not None else str(uuid.uuid4())
    wanted = [known.spec.address] if known is not None else [interface.address] if interface.address else []
    addresses = await claim_addresses(cloud, interface.network, (key, port_id), wanted)
    given = PortAssignment(portID=port_id, mac=mac_of(port_id), addresses=addresses, host=host)
    await make_port(cloud, server, interface, given)
    return assigned_port(interface.name, interface.network, interface.port_name, given)


def _earlier_claim(
    cloud: Cloud, port: tuple[str, str], server: Server, network: Network, *, adopting: bool
) -> AddressClaim | None:
    """Find the claim that an interrupted attempt left, so that it is used and not leaked."""
    vni = network.status.vni if network.status else None
    born = server.metadata.creation_timestamp or ""
    for claim in cloud.addresses.held_by(port):
        young = (claim.metadata.creation_timestamp or "") >= born
        if claim.spec.vni == vni and (adopting or (young and claim.metadata.name not in cloud.abandoned)):
            return claim
    return None


async def claim_addresses(
    cloud: Cloud, network: Network, port: tuple[tuple[str, str], str], wanted: list[str]
) -> list[str]:
    """Claim addresses of a network for a port.

    Args:
        cloud: what the operator works with.
        network: with its VNI.
        port: namespace and name, and portID.
        wanted: fixed addresses; empty for an automatic one.

    Raises:
        Refused: an address is held by another, or none is free.
    """
    vni = network.status.vni if network.status else None
    if vni is None:
        message = f"network: {network.metadata.name} has no VNI; transient: goes on when it is Ready"
        raise refuse(ScheduledReason.NETWORK_NOT_READY, message, ("Network", *network.key))
    freed: Need = ("AddressClaim", "", str(vni))
    try:
        return await cloud.addresses.claim(network.spec.subnets[0], vni, network.key, port, wanted)
    except AddressTaken as taken:
        # The holder may belong to another project: it is not named.
        where = f"{taken.address} of network {network.metadata.name}"
        message = f"address: {where} is in use; transient: free when its port is deleted"
        raise refuse(ScheduledReason.ADDRESS_IN_USE, message, freed) from taken
    except AddressesExhausted as error:
        message = f"address: {error}; transient: placed when a port of network {network.metadata.name} is deleted"
        raise refuse(ScheduledReason.ADDRESSES_EXHAUSTED, message, freed) from error


async def bind_port(cloud: Cloud, port: Port, host: str) -> None:
    """Note the host of a port that has its addresses; the agent there may speak for it from then on, and no other."""
    given = port.spec.assignment
    if given is None or given.host == host:
        return
    body = identity(port) | {"spec": {"assignment": given.dump() | {"host": host}}}
    cloud.take(Port, await cloud.client.apply(Port, body, manager=MANAGER))


async def make_port(cloud: Cloud, server: Server, interface: Interface, given: PortAssignment) -> None:
    """Make the Port of a server's interface; one that is there with the same identity is success.

    Raises:
        Refused: another port has its name.
    """
    own = server.metadata.namespace or ""
    body = {
        "metadata": {
            "name": interface.port_name,
            "namespace": own,
            "ownerReferences": [owner_reference(server)],
        },
        "spec": {
            "network": {"name": interface.network.metadata.name, "namespace": interface.network.metadata.namespace},
            "assignment": given.dump(),
        },
    }
    try:
        cloud.take(Port, await cloud.client.create(Port, body))
    except AlreadyExists:
        found = await cloud.client.get(Port, interface.port_name, own)
        port = Port.model_validate(found) if found is not None else None
        if port is None or port.spec.assignment is None or port.spec.assignment.port_id != given.port_id:
            need: Need = ("Port", own, interface.port_name)
            message = f"port {interface.port_name} exists and is not this server's; transient: free when it is deleted"
            raise refuse(ScheduledReason.PORT_IN_USE, message, need) from None
