"""Reconcile a FloatingIP: hold its address, have it lead where its user wants, say what came of it."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import structlog

from kumulus_api import IN_USE, FloatingIP
from kumulus_api.floating_ip import FloatingIPAssignment, FloatingIPReason
from kumulus_api.router import RouterReason
from kumulus_operator.cloud import Cloud
from kumulus_operator.floating_ips.plan import (
    Leads,
    World,
    assignment_of,
    external_subnets,
    floating_status,
    lead,
)
from kumulus_operator.ipam.holding import Claimant, earlier_claims, hold_address, release_rest
from kumulus_operator.load_balancers.intake import host_of_port, is_shared
from kumulus_operator.refusal import Refusal, Refused
from kumulus_operator.routers.index import Spot
from kumulus_operator.routers.ways import reaches
from kumulus_operator.servers.interfaces import mac_of
from kumulus_operator.servers.resolve import ready_network
from kumulus_operator.views import Key
from kumulus_operator.waiting import quota

_LOG = structlog.stdlib.get_logger(__name__)


class FloatingIPController:
    """Serves floating IPs.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._deciding: dict[Spot, Key] = {}
        """What is just being written: others decide before the watch shows it."""

    async def reconcile(self, key: Key) -> float | None:
        """Bring one floating IP to its desired state."""
        cloud = self._cloud
        cloud.floating_ip_waiters.forget(key)
        floating = cloud.floating_ips.get(*key)
        if floating is None:
            return None
        if floating.deleting:
            await self._let_go(floating)
            return None
        reference = floating.spec.network
        network: Key = (reference.namespace or key[0], reference.name)
        # Registered before looking, so that a change in between is not missed.
        cloud.floating_ip_waiters.wait(key, {quota(key[0]), ("Network", *network), ("Router", key[0], "*")})
        try:
            with cloud.placing_on({network}):
                floating, faults = await self._bring(floating)
        except Refused as refused:
            faults = (refused.refusal,)
        cloud.floating_ip_waiters.wait(key, {need for fault in faults for need in fault.needs})
        await self._tell(floating, faults)
        return None

    async def _bring(self, floating: FloatingIP) -> tuple[FloatingIP, tuple[Refusal, ...]]:
        """Write what is decided, if it is news; give the floating IP as it is then, and what it lacks.

        Raises:
            Refused: it gets no address.
        """
        self._admit(floating)
        former = floating.spec.assignment
        given = former if former is not None else await self._address(floating)
        lost = await self._keep(floating, given) if former is not None else ()
        try:
            leads = lead(floating, given, self._world(floating, given))
        except Refused as refused:
            leads = Leads(faults=(refused.refusal,))
        wanted = assignment_of(given, leads)
        if wanted != former:
            floating = await self._assign(floating, wanted)
            release_rest(self._cloud, floating, {(given.vni, given.address)})
        return floating, (*lost, *leads.faults)

    def _admit(self, floating: FloatingIP) -> None:
        excess = self._cloud.counted_floating_ips.admit(floating.key, admitted=floating.spec.assignment is not None)
        if excess is not None:
            message = f"quota: {excess}; transient: admitted when floating IPs are deleted or the quota is raised"
            needs = frozenset({quota(floating.key[0])})
            raise Refused(Refusal(FloatingIPReason.QUOTA_EXCEEDED.value, message, needs))

    async def _address(self, floating: FloatingIP) -> FloatingIPAssignment:
        """Claim an address for a new floating IP; one that gets none does not count against the quota."""
        try:
            return await self._claimed(floating)
        except BaseException:
            # It waits for its address now, and not for the quota that it leaves to others.
            self._cloud.floating_ip_waiters.forget(floating.key)
            if self._cloud.counted_floating_ips.withdraw(floating.key):
                self._cloud.wake(quota(floating.key[0]))
            raise

    async def _claimed(self, floating: FloatingIP) -> FloatingIPAssignment:
        cloud, spec = self._cloud, floating.spec
        try:
            network = ready_network(floating.key[0], spec.network, cloud)
        except Refused as refused:
            found = refused.refusal
            reason = FloatingIPReason.NETWORK_NOT_READY.value
            raise Refused(Refusal(reason, f"network: {found.message}", found.needs)) from refused
        subnets = external_subnets(network, spec.address, spec.subnet)
        instance, address = str(uuid.uuid4()), spec.address
        vni = network.status.vni if network.status is not None else None
        for claim in earlier_claims(cloud, floating):
            if claim.spec.vni == vni and spec.address in (None, claim.spec.address):
                instance, address = claim.spec.claim_ref.instance, claim.spec.address
        claimant = Claimant(floating, instance, "address")
        for subnet in subnets:
            try:
                held = await hold_address(cloud, claimant, network, subnet, address)
                break
            except Refused as refused:
                if refused.refusal.reason != RouterReason.ADDRESSES_EXHAUSTED or subnet is subnets[-1]:
                    raise
        return FloatingIPAssignment.model_validate(
            {
                "floatingIPID": instance,
                "address": held,
                "mac": mac_of(instance),
                "network": network.metadata.name,
                "networkNamespace": network.key[0],
                "vni": vni,
            }
        )

    async def _keep(self, floating: FloatingIP, given: FloatingIPAssignment) -> tuple[Refusal, ...]:
        """Hold the address that is assigned: after a restore its claim may be missing."""
        cloud = self._cloud
        network = cloud.networks.get(given.network_namespace, given.network)
        if network is None or network.status is None or network.status.vni != given.vni:
            return ()
        try:
            claimant = Claimant(floating, given.floating_ip_id, "address")
            await hold_address(cloud, claimant, network, network.spec.subnets[0], given.address)
        except Refused as refused:
            _LOG.warning("floating IP has lost its address", namespace=floating.key[0], name=floating.key[1])
            return (refused.refusal,)
        return ()

    def _world(self, floating: FloatingIP, given: FloatingIPAssignment) -> World:
        cloud, namespace = self._cloud, floating.key[0]
        network = cloud.networks.get(given.network_namespace, given.network)

        def host_of(port: str) -> str | None:
            balancing = host_of_port(cloud, (namespace, port))
            if balancing is not None:
                return balancing
            user = cloud.ledger.held_by(("Port", namespace, port))
            server = cloud.servers.get(namespace, user) if user is not None else None
            assigned = server.spec.assignment if server is not None else None
            return assigned.host if assigned is not None and not assigned.shelved else None

        def reached(name: str) -> bool:
            host = cloud.hosts.get("", name)
            return host is not None and network is not None and reaches(host, network)

        return World(
            port=lambda name: cloud.ports.get(namespace, name),
            routers=cloud.routers.in_namespace(namespace),
            host_of=host_of,
            reached=reached,
            holder=lambda router, address: self._holder(floating, (router.key, address)),
            moves=lambda name: is_shared(cloud, (namespace, name)),
        )

    def _holder(self, floating: FloatingIP, spot: Spot) -> str | None:
        """Give the other floating IP that leads there; if both do, by two leaders' decisions, the older one does."""
        cloud = self._cloud
        deciding = self._deciding.get(spot)
        if deciding is not None and deciding != floating.key:
            return deciding[1]
        leading = cloud.edges.floating_at.get(spot, set())
        others = [item for key in leading - {floating.key} if (item := cloud.floating_ips.get(*key)) is not None]
        first = min(others, key=_age, default=None)
        if first is None or (floating.key in leading and _age(floating) < _age(first)):
            return None
        return first.metadata.name

    async def _assign(self, floating: FloatingIP, wanted: FloatingIPAssignment) -> FloatingIP:
        spot: Spot = ((floating.key[0], wanted.router or ""), wanted.fixed_address or "")
        self._deciding[spot] = floating.key
        try:
            written = await self._cloud.assign(floating, wanted)
        finally:
            if self._deciding.get(spot) == floating.key:
                del self._deciding[spot]
        _LOG.info(
            "floating IP assigned",
            namespace=floating.key[0],
            name=floating.key[1],
            address=wanted.address,
            fixed_address=wanted.fixed_address,
            host=wanted.host,
        )
        return written

    async def _tell(self, floating: FloatingIP, faults: tuple[Refusal, ...]) -> None:
        await self._cloud.tell(floating, floating_status(floating, faults, datetime.now(UTC)), faults)

    async def _let_go(self, floating: FloatingIP) -> None:
        """Remove the finalizer: hosts stop translating when it is gone, and its claim goes after the quarantine."""
        if IN_USE in floating.metadata.finalizers:
            await self._cloud.let_go(floating, IN_USE)


def _age(floating: FloatingIP) -> tuple[str, str]:
    return floating.metadata.creation_timestamp or "", floating.metadata.name
