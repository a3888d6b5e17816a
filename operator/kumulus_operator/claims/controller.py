"""Reconcile a claim: find its claimant gone, wait out the quarantine, release it by one write."""

from __future__ import annotations

import time
from typing import Any

import structlog

from kumulus_api import AddressClaim, DNSZone, DNSZoneClaim, FloatingIP, Kind, Network, NetworkIDClaim, Port, Router
from kumulus_operator.cloud import Cloud
from kumulus_operator.ipam.claims import PORT
from kumulus_operator.metrics import ABANDONED_CLAIMS, RELEASED_CLAIMS
from kumulus_operator.peerings.intake import has_address
from kumulus_operator.routers.index import addresses_of
from kumulus_operator.views import Key, View

_LOG = structlog.stdlib.get_logger(__name__)

Claim = AddressClaim | NetworkIDClaim | DNSZoneClaim
_CLAIMANTS: dict[str, tuple[type[Kind], str]] = {
    PORT: (Port, "portID"),
    Router.__name__: (Router, "routerID"),
    FloatingIP.__name__: (FloatingIP, "floatingIPID"),
}
"""Kinds that hold addresses, and the field of their assignment that says who they are."""


def _has(router: Router, claim: AddressClaim) -> bool:
    """Give whether a router has an address; one that has no assignment yet is about to."""
    given, spec = router.spec.assignment, claim.spec
    if given is None:
        return True
    return given.router_id == spec.claim_ref.instance and (spec.vni, spec.address) in addresses_of(router)


class ClaimController:
    """Sweeps claims. Keys are the claim's kind and name.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        views: tuple[View[Any], ...] = (cloud.address_claims, cloud.network_id_claims, cloud.dns_zone_claims)
        self._views: dict[str, View[Any]] = {view.kind.__name__: view for view in views}
        ABANDONED_CLAIMS.set_function(lambda: len(cloud.abandoned))

    async def reconcile(self, key: Key) -> float | None:
        """Look at one claim; give the seconds until it may be released."""
        cloud, (kind, name) = self._cloud, key
        claim = self._views[kind].get("", name)
        if claim is None:
            cloud.abandoned.pop(name, None)
            return None
        present = self._claimed(claim) or not await self._gone(claim)
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

    def _claimed(self, claim: Claim) -> bool:
        """Give whether the watch shows the claimant; cheaper than asking, and enough to keep a claim."""
        holder = claim.spec.claim_ref
        if isinstance(claim, NetworkIDClaim):
            return self._cloud.networks.get(holder.namespace, holder.name) is not None
        if isinstance(claim, AddressClaim) and holder.kind == Network.__name__:
            network = self._cloud.networks.get(holder.namespace, holder.name)
            return network is not None and has_address(network, claim)
        if isinstance(claim, DNSZoneClaim):
            zone = self._cloud.dns_zones.get(holder.namespace, holder.name)
            return zone is not None and zone.spec.domain == claim.spec.domain
        if holder.kind != PORT:
            return self._of_an_edge(claim)
        port = self._cloud.ports.get(holder.namespace, holder.name)
        return port is not None and (port.spec.assignment is None or port.spec.assignment.port_id == holder.instance)

    def _of_an_edge(self, claim: AddressClaim) -> bool:
        """Give whether the watch shows a router or floating IP that has the address, or is being given its first."""
        holder = claim.spec.claim_ref
        if holder.kind == FloatingIP.__name__:
            floating = self._cloud.floating_ips.get(holder.namespace, holder.name)
            given = floating.spec.assignment if floating is not None else None
            return floating is not None and (given is None or given.floating_ip_id == holder.instance)
        router = self._cloud.routers.get(holder.namespace, holder.name)
        return router is not None and _has(router, claim)

    async def _gone(self, claim: Claim) -> bool:
        """Ask the API server whether the claimant is there no more, or has given the value back."""
        holder = claim.spec.claim_ref
        if isinstance(claim, AddressClaim) and holder.kind == Network.__name__:
            found = await self._cloud.client.get(Network, holder.name, holder.namespace)
            return found is None or not has_address(Network.model_validate(found), claim)
        if holder.kind == "Network":
            return await self._cloud.client.get(Network, holder.name, holder.namespace) is None
        if isinstance(claim, DNSZoneClaim):
            zone = await self._cloud.client.get(DNSZone, holder.name, holder.namespace)
            return zone is None or zone["spec"]["domain"] != claim.spec.domain
        kind, identity = _CLAIMANTS[holder.kind]
        body: dict[str, Any] | None = await self._cloud.client.get(kind, holder.name, holder.namespace)
        if body is None:
            return True
        if isinstance(claim, AddressClaim) and kind is Router:
            return not _has(Router.model_validate(body), claim)
        instance = (body["spec"].get("assignment") or {}).get(identity)
        return instance is not None and instance != holder.instance

    def _in_use(self, claim: Claim) -> bool:
        """Give whether a server still carries the value, whatever became of the object that claimed it."""
        holder = claim.spec.claim_ref
        if isinstance(claim, DNSZoneClaim):
            return False
        if isinstance(claim, NetworkIDClaim):
            return bool(self._cloud.users_of_network.get((holder.namespace, holder.name)))
        users = self._cloud.users_of_network.get((claim.spec.network.namespace or "", claim.spec.network.name), set())
        for user in users:
            server = self._cloud.servers.get(*user)
            assigned = server.spec.assignment if server is not None else None
            if assigned is not None and any(port.port_id == holder.instance for port in assigned.ports):
                return True
        return False
