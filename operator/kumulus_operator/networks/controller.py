"""Reconcile a Network: hold a number, and the segment of a provider network; say so."""

from __future__ import annotations

from datetime import UTC, datetime
from random import SystemRandom
from typing import Any

import structlog

from kumulus_api import IN_USE, Network, NetworkIDClaim
from kumulus_api.claims import network_id_claim_name
from kumulus_api.network import NetworkReason
from kumulus_api.provider import Provider, segment_claim_name
from kumulus_operator.cloud import Cloud, network_of
from kumulus_operator.networks.plan import choose_vni, network_fault, network_status, segment_fault, users_text
from kumulus_operator.peerings.deciding import Peerings
from kumulus_operator.views import Key
from kumulus_runtime.errors import AlreadyExists

_LOG = structlog.stdlib.get_logger(__name__)


class NetworkController:
    """Gives networks their numbers, and provider networks their segments.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._chance = SystemRandom()
        self._peerings = Peerings(cloud)

    async def reconcile(self, key: Key) -> float | None:
        """Bring one network to its desired state."""
        network = self._cloud.networks.get(*key)
        if network is None:
            return None
        if network.deleting:
            await self._let_go(network)
            return None
        vni = network.status.vni if network.status is not None else None
        fault = network_fault(network)
        if fault is None and network.spec.provider is not None:
            fault = await self._claim_segment(network, network.spec.provider)
        if vni is None and fault is None:
            vni = await self._claim(network)
            if vni is None:
                text = "VNI: all identifiers of the pool are in use; transient: goes on when a network is deleted"
                fault = (NetworkReason.POOL_EXHAUSTED, text)
        peered = await self._peerings.decide(network, vni if fault is None else None)
        status = network_status(network, vni, fault, datetime.now(UTC), self._in_use(network, vni), peered=peered)
        if status is not None:
            await self._write(network, status)
        return None

    async def _let_go(self, network: Network) -> None:
        """Remove the finalizer of a network that nothing uses any more, else say what does."""
        cloud, metadata = self._cloud, network.metadata
        if IN_USE not in metadata.finalizers or cloud.placing[network.key]:
            return
        servers = cloud.users_of_network.get(network.key, set())
        owned = {key for server in servers for key in cloud.ports_of(server)}
        ports = [port.key for port in cloud.ports if network_of(port) == network.key]
        edges = cloud.edges.routers_in.get(network.key, set()), cloud.edges.floating_in.get(network.key, set())
        users = users_text(network.key, servers, [key for key in ports if key not in owned], *edges)
        if users is not None:
            fault = (NetworkReason.IN_USE, f"deletion: {users}; transient: the network goes when they are deleted")
            vni = network.status.vni if network.status is not None else None
            status = network_status(network, vni, fault, datetime.now(UTC), self._in_use(network, vni))
            if status is not None:
                await self._write(network, status)
            return
        await cloud.client.remove_finalizer(Network, metadata.name, IN_USE, metadata.namespace, uid=metadata.uid)

    def _in_use(self, network: Network, vni: int | None) -> list[str]:
        return [] if vni is None else self._cloud.addresses.subnets_in_use(network.spec.subnets, vni)

    async def _write(self, network: Network, status: dict[str, Any]) -> None:
        if await self._cloud.write_status(network, status):
            _LOG.info("network status written", namespace=network.key[0], name=network.key[1], vni=status.get("vni"))

    async def _claim_segment(self, network: Network, provider: Provider) -> tuple[NetworkReason, str] | None:
        """Hold the network's segment; give the fault if another network does."""
        cloud, name = self._cloud, segment_claim_name(provider)
        claim = cloud.network_id_claims.get("", name)
        if claim is None:
            value = {"segment": provider.model_dump(mode="json", by_alias=True, exclude={"mtu"}, exclude_none=True)}
            body = _claim_body(name, value, network)
            try:
                found = await cloud.client.create(NetworkIDClaim, body)
            except AlreadyExists:
                found = await cloud.client.get(NetworkIDClaim, name) or body
            cloud.take(NetworkIDClaim, found)
            claim = NetworkIDClaim.model_validate(found)
        holder = (claim.spec.claim_ref.namespace, claim.spec.claim_ref.name)
        return None if holder == network.key else segment_fault(network, holder)

    async def _claim(self, network: Network) -> int | None:
        cloud = self._cloud
        for claim in cloud.network_id_claims:
            holder = claim.spec.claim_ref
            own = (holder.namespace, holder.name) == network.key and claim.metadata.name not in cloud.abandoned
            if own and claim.spec.vni is not None:
                return claim.spec.vni
        while True:
            used = {claim.spec.vni for claim in cloud.network_id_claims if claim.spec.vni is not None}
            vni = choose_vni(cloud.settings.vni_first, cloud.settings.vni_last, used, self._chance)
            if vni is None:
                return None
            try:
                body = _claim_body(network_id_claim_name(vni), {"vni": vni}, network)
                cloud.take(NetworkIDClaim, await cloud.client.create(NetworkIDClaim, body))
            except AlreadyExists:
                found = await cloud.client.get(NetworkIDClaim, network_id_claim_name(vni))
                if found is not None:
                    cloud.take(NetworkIDClaim, found)
                continue
            return vni


def _claim_body(name: str, value: dict[str, Any], network: Network) -> dict[str, Any]:
    holder = {"kind": "Network", "namespace": network.key[0], "name": network.key[1], "instance": network.metadata.uid}
    return {"metadata": {"name": name}, "spec": {**value, "claimRef": holder}}
