"""Reconcile a Port that a user made: give it addresses, let it go."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import structlog

from kumulus_api import FINALIZER, Network, Port
from kumulus_api.port import PortAssignment
from kumulus_operator.cloud import Cloud, network_of
from kumulus_operator.ipam.plan import fixed_fault
from kumulus_operator.refusal import Refusal, Refused, refuse
from kumulus_operator.security_groups.plan import names_of, need_of, require
from kumulus_operator.servers.interfaces import asked_and_held, claim_addresses, mac_of
from kumulus_operator.servers.resolve import ready_network
from kumulus_operator.views import Key
from kumulus_runtime.conditions import set_condition
from kumulus_runtime.errors import NotFound

_LOG = structlog.stdlib.get_logger(__name__)


class PortController:
    """Serves the ports of users; those of servers are made with their assignment.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._giving: dict[tuple[Key, str], Key] = {}
        """By network and MAC, the ports that are just being given a MAC that their user chose."""

    async def reconcile(self, key: Key) -> float | None:
        """Bring one port to its desired state."""
        cloud = self._cloud
        cloud.port_waiters.forget(key)
        port = cloud.ports.get(*key)
        if port is None:
            return None
        if port.deleting:
            await self._let_go(port)
        elif port.spec.assignment is None and not port.metadata.owner_references:
            await self._give(port)
        elif port.status is not None and port.status.host is not None and cloud.host_lost(port.status.host):
            await self._unwire(port)
        return None

    async def _give(self, port: Port) -> None:
        cloud, namespace = self._cloud, port.metadata.namespace or ""
        reference = port.spec.network
        groups = {need_of(namespace, name) for name in names_of(port.spec.security_groups)}
        cloud.port_waiters.wait(port.key, {("Network", reference.namespace or namespace, reference.name), *groups})
        mac: tuple[Key, str] | None = None
        try:
            network = ready_network(namespace, reference, cloud)
            require(namespace, names_of(port.spec.security_groups), cloud.security_groups)
            if port.spec.mac is not None:
                self._check_mac(port, network, port.spec.mac)
                mac = (network.key, port.spec.mac)
                self._giving[mac] = port.key
            await self._give_on(port, network)
        except Refused as refused:
            cloud.port_waiters.wait(port.key, refused.refusal.needs)
            await self._write_refusal(port, refused.refusal)
        finally:
            if mac is not None:
                del self._giving[mac]

    def _check_mac(self, port: Port, network: Network, mac: str) -> None:
        """Have a MAC be no other port's of the network.

        Raises:
            Refused: it is. The other port may belong to another project: it is not named.
        """
        holder = self._giving.get((network.key, mac)) or next(
            (
                other.key
                for other in self._cloud.ports
                if other.key != port.key
                and other.spec.assignment is not None
                and other.spec.assignment.mac == mac
                and network_of(other) == network.key
            ),
            None,
        )
        if holder is not None:
            where = f"{mac} of network {network.metadata.name}"
            message = f"mac: {where} is in use; transient: free when its port is deleted"
            raise refuse("MACInUse", message, ("Port", *holder))

    async def _give_on(self, port: Port, network: Network) -> None:
        """Give a port its addresses on its network; raises Refused."""
        cloud = self._cloud
        for address in port.spec.addresses:
            fault = fixed_fault(network.spec.subnets, address, port.spec.mac)
            if fault is not None:
                raise refuse("AddressInvalid", f"address: {fault}; permanent: make another port")
        held = cloud.addresses.held_by(port.key)
        known = [claim for claim in held if claim.metadata.name not in cloud.abandoned]
        port_id = known[0].spec.claim_ref.instance if known else str(uuid.uuid4())
        mac = port.spec.mac or mac_of(port_id)
        fixed = asked_and_held(port.spec.addresses, (c for c in known if c.spec.claim_ref.instance == port_id))
        addresses = await claim_addresses(cloud, network, (port.key, port_id), fixed, mac)
        cloud.port_waiters.forget(port.key)
        await cloud.assign(port, PortAssignment(portID=port_id, mac=mac, addresses=addresses))

    async def _unwire(self, port: Port) -> None:
        """Say for a host that is no more that the port is not there, so that another may have it."""
        cloud, metadata = self._cloud, port.metadata
        patch = {
            "metadata": {"resourceVersion": metadata.resource_version},
            "status": {"wired": False, "host": None},
        }
        try:
            body = await cloud.client.patch_merge(Port, metadata.name, patch, metadata.namespace, subresource="status")
        except NotFound:
            return
        cloud.take(Port, body)
        _LOG.info("port of a lost host unwired", namespace=port.key[0], name=port.key[1])

    async def _write_refusal(self, port: Port, refusal: Refusal) -> None:
        found: list[dict[str, Any]] = [item.dump() for item in port.status.conditions] if port.status else []
        generation = port.metadata.generation
        now = datetime.now(UTC)
        wanted = set_condition(found, "Ready", False, refusal.reason, refusal.message, generation, now)
        if wanted != found:
            await self._cloud.write_status(port, {"conditions": wanted})

    async def _let_go(self, port: Port) -> None:
        """Remove the finalizer of a port that no server uses: no host has anything of it."""
        cloud = self._cloud
        if FINALIZER in port.metadata.finalizers and cloud.ledger.held_by(("Port", *port.key)) is None:
            await cloud.let_go(port, FINALIZER)
