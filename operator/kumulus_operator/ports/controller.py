"""Reconcile a Port that a user made: give it addresses, let it go."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import structlog

from kumulus_api import FINALIZER, Port
from kumulus_api.port import PortAssignment
from kumulus_operator.bodies import MANAGER, identity
from kumulus_operator.cloud import Cloud
from kumulus_operator.ipam.plan import fixed_address_fault
from kumulus_operator.refusal import Refusal, Refused, refuse
from kumulus_operator.servers.interfaces import claim_addresses, mac_of
from kumulus_operator.servers.resolve import ready_network
from kumulus_operator.views import Key
from kumulus_runtime.conditions import set_condition
from kumulus_runtime.errors import Conflict, NotFound

_LOG = structlog.stdlib.get_logger(__name__)


class PortController:
    """Serves the ports of users; those of servers are made with their assignment.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

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
        cloud.port_waiters.wait(port.key, {("Network", reference.namespace or namespace, reference.name)})
        try:
            network = ready_network(namespace, reference, cloud)
            for address in port.spec.addresses:
                fault = fixed_address_fault(network.spec.subnets[0], address)
                if fault is not None:
                    raise refuse("AddressInvalid", f"address: {fault}; permanent: make another port")
            held = cloud.addresses.held_by(port.key)
            known = next((claim for claim in held if claim.metadata.name not in cloud.abandoned), None)
            port_id = known.spec.claim_ref.instance if known is not None else str(uuid.uuid4())
            wanted = port.spec.addresses or ([known.spec.address] if known is not None else [])
            addresses = await claim_addresses(cloud, network, (port.key, port_id), list(wanted))
        except Refused as refused:
            cloud.port_waiters.wait(port.key, refused.refusal.needs)
            await self._write_refusal(port, refused.refusal)
            return
        cloud.port_waiters.forget(port.key)
        given = PortAssignment(portID=port_id, mac=port.spec.mac or mac_of(port_id), addresses=addresses)
        body = identity(port) | {"spec": {"assignment": given.dump()}}
        cloud.take(Port, await cloud.client.apply(Port, body, manager=MANAGER))

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
        if wanted == found:
            return
        body = identity(port) | {"status": {"conditions": wanted}}
        try:
            self._cloud.take(Port, await self._cloud.client.apply_status(Port, body, manager=MANAGER))
        except (NotFound, Conflict):
            return

    async def _let_go(self, port: Port) -> None:
        """Remove the finalizer of a port that no server uses: no host has anything of it."""
        cloud = self._cloud
        if FINALIZER not in port.metadata.finalizers or cloud.ledger.held_by(("Port", *port.key)) is not None:
            return
        live = await cloud.client.get(Port, port.metadata.name, port.metadata.namespace)
        if live is None or not live["metadata"].get("deletionTimestamp"):
            return
        name, namespace = port.metadata.name, port.metadata.namespace
        await cloud.client.remove_finalizer(Port, name, FINALIZER, namespace, uid=port.metadata.uid)
