"""Give a server's interfaces their ports: claim addresses, make the Port objects."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Coroutine, Iterable
from typing import Any

from kumulus_api import AddressClaim, Network, Port, Server
from kumulus_api.addresses import canonical
from kumulus_api.port import PortAssignment
from kumulus_api.server_status import ScheduledReason
from kumulus_operator.bodies import MANAGER, identity, owner_reference
from kumulus_operator.cloud import Cloud
from kumulus_operator.ipam.claims import AddressBook, AddressesExhausted, AddressTaken
from kumulus_operator.ipam.plan import self_made, subnet_of
from kumulus_operator.refusal import refuse
from kumulus_operator.security_groups.plan import references
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
        return assigned_port(interface, interface.port.spec.assignment)
    namespace = server.metadata.namespace or ""
    key = (namespace, interface.port_name)
    existing = cloud.ports.get(*key)
    if existing is not None and existing.spec.assignment is not None:
        if not reusable(existing, server, adopting=adopting):
            need: Need = ("Port", *key)
            message = f"port {interface.port_name} exists and is not this server's; transient: free when it is deleted"
            raise refuse(ScheduledReason.PORT_IN_USE, message, need)
        await bind_port(cloud, existing, host)
        return assigned_port(interface, existing.spec.assignment)
    known = _earlier_claims(cloud, key, server, interface.network, adopting=adopting)
    port_id = known[0].spec.claim_ref.instance if known else str(uuid.uuid4())
    mac = mac_of(port_id)
    fixed = asked_and_held([interface.address] if interface.address else [], known)
    addresses = await claim_addresses(cloud, interface.network, (key, port_id), fixed, mac)
    given = PortAssignment(portID=port_id, mac=mac, addresses=addresses, host=host)
    await make_port(cloud, server, interface, given)
    return assigned_port(interface, given)


def _earlier_claims(
    cloud: Cloud, port: tuple[str, str], server: Server, network: Network, *, adopting: bool
) -> list[AddressClaim]:
    """Find the claims that an interrupted attempt left, so that they are used and not leaked; all of one identity."""
    vni = network.status.vni if network.status else None
    born = server.metadata.creation_timestamp or ""
    found = []
    for claim in cloud.addresses.held_by(port):
        young = (claim.metadata.creation_timestamp or "") >= born
        if claim.spec.vni == vni and (adopting or (young and claim.metadata.name not in cloud.abandoned)):
            found.append(claim)
    return [claim for claim in found if claim.spec.claim_ref.instance == found[0].spec.claim_ref.instance]


def asked_and_held(asked: list[str], held: Iterable[AddressClaim]) -> list[str]:
    """Give the addresses that were asked for, and those of other families that an earlier attempt got besides."""
    families = {":" in address for address in asked}
    return [*asked, *(claim.spec.address for claim in held if (":" in claim.spec.address) not in families)]


async def claim_addresses(
    cloud: Cloud, network: Network, port: tuple[tuple[str, str], str], fixed: list[str], mac: str | None = None
) -> list[str]:
    """Claim addresses of a network for a port.

    Args:
        cloud: what the operator works with.
        network: with its VNI.
        port: namespace and name, and portID.
        fixed: addresses that it must have.
        mac: of the port, to which automatic addresses are given besides; None if it gets the fixed ones alone.

    Raises:
        Refused: an address is held by another, or none is free.
    """
    vni = network.status.vni if network.status else None
    if vni is None:
        message = f"network: {network.metadata.name} has no VNI; transient: goes on when it is Ready"
        raise refuse(ScheduledReason.NETWORK_NOT_READY, message, ("Network", *network.key))
    book, held = cloud.addresses, list(map(canonical, fixed))
    freed: Need = ("AddressClaim", "", str(vni))
    while True:
        try:
            chosen = book.choose(network.spec.subnets, vni, mac, held) if mac is not None else held
        except AddressesExhausted as error:
            message = f"address: {error}; transient: placed when a port of network {network.metadata.name} is deleted"
            raise refuse(ScheduledReason.ADDRESSES_EXHAUSTED, message, freed) from error
        with book.reserved(vni, chosen):
            network = await keep_subnets(cloud, network, chosen)
            taken = await _taken(book, vni, chosen, network, port)
        if not taken:
            return chosen
        bound = {canonical(address) for address in fixed}
        other = next((item for item in taken if item.address in bound or follows(network, item.address)), None)
        if other is not None:
            # The holder may belong to another project: it is not named.
            where = f"{other.address} of network {network.metadata.name}"
            message = f"address: {where} is in use; transient: free when its port is deleted"
            raise refuse(ScheduledReason.ADDRESS_IN_USE, message, freed) from other
        # Another leader was faster: what is held stays, the rest is chosen anew.
        lost = {item.address for item in taken}
        held = [address for address in chosen if address not in lost and not follows(network, address)]


def follows(network: Network, address: str) -> bool:
    """Whether an address lies in a subnet in which servers make their own."""
    subnet = subnet_of(network.spec.subnets, address)
    return subnet is not None and self_made(subnet)


async def _taken(
    book: AddressBook, vni: int, addresses: list[str], network: Network, port: tuple[tuple[str, str], str]
) -> list[AddressTaken]:
    """Hold addresses, at once if they are several; give those that others hold."""
    if len(addresses) == 1:
        results: list[BaseException | None] = [await _held(book.hold(vni, addresses[0], network.key, port))]
    else:
        holding = (_held(book.hold(vni, address, network.key, port)) for address in addresses)
        results = list(await asyncio.gather(*holding, return_exceptions=True))
    for result in results:
        if result is not None and not isinstance(result, AddressTaken):
            raise result
    return [result for result in results if isinstance(result, AddressTaken)]


async def _held(holding: Coroutine[Any, Any, None]) -> AddressTaken | None:
    try:
        await holding
    except AddressTaken as taken:
        return taken
    return None


async def keep_subnets(cloud: Cloud, network: Network, addresses: Iterable[str]) -> Network:
    """Note that subnets of a network are in use before addresses of them are claimed: from then on they stay.

    Returns:
        The network as it is now.

    Raises:
        Refused: a subnet that an address lies in was removed just now.
    """
    chosen = tuple(addresses)
    if _noted(network, chosen):
        return network
    async with cloud.addresses.noting[network.status.vni or 0 if network.status else 0]:
        network = cloud.networks.get(*network.key) or network
        if _noted(network, chosen):
            return network
        names = _subnet_names(network, chosen)
        found = network.status.dump() if network.status is not None else {}
        status = found | {"subnetsInUse": sorted({*found.get("subnetsInUse", ()), *names})}
        body = await cloud.client.apply_status(Network, identity(network) | {"status": status}, manager=MANAGER)
        cloud.take(Network, body)
    now = Network.model_validate(body)
    if _subnet_names(now, chosen) != names:
        message = f"network: a subnet of {network.metadata.name} was removed just now; transient: tried again"
        raise refuse(ScheduledReason.NETWORK_NOT_READY, message, ("Network", *network.key))
    return now


def _subnet_names(network: Network, addresses: Iterable[str]) -> set[str]:
    found = (subnet_of(network.spec.subnets, address) for address in addresses)
    return {subnet.name for subnet in found if subnet is not None}


def _noted(network: Network, addresses: Iterable[str]) -> bool:
    noted = set(network.status.subnets_in_use) if network.status is not None else set()
    return _subnet_names(network, addresses) <= noted


async def bind_port(cloud: Cloud, port: Port, host: str) -> None:
    """Note the host of a port that has its addresses; the agent there may speak for it from then on, and no other."""
    given = port.spec.assignment
    if given is None or given.host == host:
        return
    await cloud.assign(port, given.model_copy(update={"host": host}))


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
            "securityGroups": references(interface.groups),
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
