"""Reconcile a Router: hold its addresses, choose the host that it leads out on, say what came of it."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import structlog

from kumulus_api import IN_USE, Router
from kumulus_api.router import AssignedInterface, RouterAssignment, RouterReason
from kumulus_operator.cloud import Cloud
from kumulus_operator.firewall_groups.index import groups_on
from kumulus_operator.firewall_groups.plan import closed, firewalls_of
from kumulus_operator.ipam.holding import Claimant, earlier_claims, hold_address, release_rest
from kumulus_operator.refusal import Refusal, Refused
from kumulus_operator.routers.index import addresses_of, networks_of
from kumulus_operator.routers.plan import (
    Joint,
    Needed,
    in_use,
    interests,
    join,
    network_of,
    ranges_of,
    reachable_routes,
    router_status,
    standby_needed,
    with_prefix,
)
from kumulus_operator.routers.routed import RoutedPrefixes
from kumulus_operator.routers.way_out import WayOut
from kumulus_operator.servers.interfaces import mac_of
from kumulus_operator.views import Key
from kumulus_operator.vpn_connections.plan import tunnelled
from kumulus_operator.waiting import quota

_LOG = structlog.stdlib.get_logger(__name__)


class RouterController:
    """Serves routers.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._ways = WayOut(cloud)
        self._routed = RoutedPrefixes(cloud)

    async def reconcile(self, key: Key) -> float | None:
        """Bring one router to its desired state."""
        cloud = self._cloud
        cloud.router_waiters.forget(key)
        router = cloud.routers.get(*key)
        if router is None:
            return None
        if router.deleting and await self._let_go(router):
            return None
        # Registered before looking, so that a change in between is not missed.
        cloud.router_waiters.wait(key, interests(router))
        excess = cloud.counted_routers.admit(key, admitted=router.spec.assignment is not None)
        if excess is not None:
            message = f"quota: {excess}; transient: admitted when routers are deleted or the quota is raised"
            refusal = Refusal(RouterReason.QUOTA_EXCEEDED.value, message, frozenset({quota(key[0])}))
            await self._tell(router, [refusal])
            return None
        references = [item.network for item in router.spec.interfaces]
        references += [router.spec.gateway.network] if router.spec.gateway is not None else []
        try:
            with cloud.placing_on({network_of(key, item) for item in references}):
                router, faults = await self._bring(router)
        finally:
            cloud.edges.choosing.pop(key, None)
            self._routed.forget(key)
        needs = {need for fault in faults for need in fault.needs} | standby_needed(router)
        cloud.router_waiters.wait(key, needs)
        if router.deleting and (needing := self._needed(router).all()):
            faults = [in_use("deletion", needing), *faults]
        await self._tell(router, faults)
        return None

    async def _bring(self, router: Router) -> tuple[Router, list[Refusal]]:
        """Write what is decided, if it is news; give the router as it is then, and what is not as it should be."""
        cloud = self._cloud
        given = router.spec.assignment
        router_id = given.router_id if given is not None else self._new_id(router)
        needed = self._needed(router)
        joined = join(router, cloud, needed)
        faults = list(joined.faults)
        interfaces = list(joined.kept)
        for joint in joined.joints:
            try:
                interfaces.append(await self._interface(router, router_id, joint))
            except Refused as refused:
                faults.append(refused.refusal)
        inside = [item for interface in interfaces for item in ranges_of(interface.addresses)]
        gateway, objections = await self._ways.find(router, router_id, inside, needed)
        if gateway is not None:
            gateway, held = self._routed.choose(router, interfaces, gateway)
            faults += held
        routes, unreachable = reachable_routes(router, interfaces, gateway)
        firewalls = firewalls_of(router, {item.name for item in interfaces}, groups_on(cloud, router.key))
        faults += [*objections, *unreachable, *closed(firewalls, gateway)]
        wanted = RouterAssignment.model_validate(
            {
                "routerID": router_id,
                "interfaces": [item.dump() for item in sorted(interfaces, key=lambda item: item.name)],
                "gateway": gateway.dump() if gateway is not None else None,
                "routes": routes,
                "centralised": bool(firewalls),
                "firewalls": [item.dump() for item in firewalls],
            }
        )
        wanted = wanted.model_copy(update={"tunnelled": self._tunnelled(router, wanted)})
        if wanted != given:
            router = await self._assign(router, wanted)
        release_rest(cloud, router, addresses_of(router))
        return router, faults

    def _tunnelled(self, router: Router, wanted: RouterAssignment) -> list[str]:
        """Give the networks behind tunnels of a router that is about to have this assignment."""
        cloud = self._cloud
        becoming = router.model_copy(update={"spec": router.spec.model_copy(update={"assignment": wanted})})
        return tunnelled(becoming, cloud.vpn_connections.in_namespace(router.key[0]), cloud.counted_vpn_connections)

    def _new_id(self, router: Router) -> str:
        return next((item.spec.claim_ref.instance for item in earlier_claims(self._cloud, router)), str(uuid.uuid4()))

    async def _interface(self, router: Router, router_id: str, joint: Joint) -> AssignedInterface:
        claimant = Claimant(router, router_id, f"interface {joint.name}")
        network, vni = joint.network, joint.network.status.vni if joint.network.status is not None else None
        address = await hold_address(self._cloud, claimant, network, joint.subnet, joint.address)
        return AssignedInterface.model_validate(
            {
                "name": joint.name,
                "network": network.metadata.name,
                "networkNamespace": network.key[0],
                "vni": vni,
                "mac": mac_of(f"{router_id}/interface/{joint.name}"),
                "addresses": [with_prefix(address, joint.subnet)],
            }
        )

    def _needed(self, router: Router) -> Needed:
        by_address: dict[str, list[str]] = {}
        for key in self._cloud.edges.floating_by.get(router.key, ()):
            floating = self._cloud.floating_ips.get(*key)
            given = floating.spec.assignment if floating is not None else None
            if floating is None or given is None:
                continue
            fixed = [given.fixed_address] if given.fixed_address is not None else []
            for address in (*fixed, *(item.address for item in given.forwardings)):
                by_address.setdefault(address, []).append(floating.metadata.name)
        return Needed(by_address)

    async def _assign(self, router: Router, wanted: RouterAssignment) -> Router:
        cloud = self._cloud
        former = networks_of(router)
        written = await cloud.assign(router, wanted)
        for network in former - networks_of(written):
            cloud.unused(network)
        host = wanted.gateway.host if wanted.gateway is not None else None
        _LOG.info("router assigned", namespace=router.key[0], name=router.key[1], gateway_host=host)
        return written

    async def _tell(self, router: Router, faults: list[Refusal]) -> None:
        await self._cloud.tell(router, router_status(router, faults, datetime.now(UTC)), faults)

    async def _let_go(self, router: Router) -> bool:
        """Remove the finalizer of a router that no floating IP needs; give whether none does."""
        if IN_USE not in router.metadata.finalizers:
            return True
        if self._needed(router).all():
            return False
        await self._cloud.let_go(router, IN_USE)
        return True
