"""Reconcile a claim: find its claimant gone, wait out the quarantine, release it by one write."""

from __future__ import annotations

import time
from typing import Any

import structlog

from kumulus_api import AddressClaim, Network, NetworkIDClaim, Port
from kumulus_api.claims import ClaimReference
from kumulus_operator.cloud import Cloud
from kumulus_operator.metrics import ABANDONED_CLAIMS, RELEASED_CLAIMS
from kumulus_operator.views import Key

_LOG = structlog.stdlib.get_logger(__name__)


class ClaimController:
    """Sweeps claims. Keys are the claim's kind and name.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        ABANDONED_CLAIMS.set_function(lambda: len(cloud.abandoned))

    async def reconcile(self, key: Key) -> float | None:
        """Look at one claim; give the seconds until it may be released."""
        cloud, (kind, name) = self._cloud, key
        is_address = kind == AddressClaim.__name__
        claim = (cloud.address_claims if is_address else cloud.network_id_claims).get("", name)
        if claim is None:
            cloud.abandoned.pop(name, None)
            return None
        present = self._claimed(claim) or not await self._gone(claim.spec.claim_ref)
        if present or self._in_use(claim):
            # Looked at again when its claimant's deletion is seen.
            cloud.abandoned.pop(name, None)
            return None
        since = cloud.abandoned.setdefault(name, time.monotonic())
        left = since + cloud.settings.claim_quarantine - time.monotonic()
        if left > 0:
            return left
        await cloud.client.delete(type(claim), name, uid=claim.metadata.uid)
        cloud.take(type(claim), {"metadata": {"name": name, "uid": claim.metadata.uid}}, deleted=True)
        RELEASED_CLAIMS.inc()
        _LOG.info("claim released", claim=name)
        return None

    def _claimed(self, claim: AddressClaim | NetworkIDClaim) -> bool:
        """Give whether the watch shows the claimant; cheaper than asking, and enough to keep a claim."""
        holder = claim.spec.claim_ref
        if isinstance(claim, NetworkIDClaim):
            return self._cloud.networks.get(holder.namespace, holder.name) is not None
        port = self._cloud.ports.get(holder.namespace, holder.name)
        return port is not None and (port.spec.assignment is None or port.spec.assignment.port_id == holder.instance)

    async def _gone(self, holder: ClaimReference) -> bool:
        """Ask the API server whether the claimant is there no more."""
        if holder.kind == "Network":
            return await self._cloud.client.get(Network, holder.name, holder.namespace) is None
        body: dict[str, Any] | None = await self._cloud.client.get(Port, holder.name, holder.namespace)
        if body is None:
            return True
        port_id = (body["spec"].get("assignment") or {}).get("portID")
        return port_id is not None and port_id != holder.instance

    def _in_use(self, claim: AddressClaim | NetworkIDClaim) -> bool:
        """Give whether a server still carries the value, whatever became of the object that claimed it."""
        holder = claim.spec.claim_ref
        if isinstance(claim, NetworkIDClaim):
            return bool(self._cloud.users_of_network.get((holder.namespace, holder.name)))
        users = self._cloud.users_of_network.get((claim.spec.network.namespace or "", claim.spec.network.name), set())
        for user in users:
            server = self._cloud.servers.get(*user)
            assigned = server.spec.assignment if server is not None else None
            if assigned is not None and any(port.port_id == holder.instance for port in assigned.ports):
                return True
        return False
