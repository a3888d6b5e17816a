"""Reconcile a VPNConnection: tell its router's hosts what to hold, and say what came of it."""

from __future__ import annotations

from datetime import UTC, datetime

import structlog

from kumulus_api import VPNConnection
from kumulus_api.vpn_connection import VPNConnectionAssignment, VPNConnectionReason
from kumulus_operator.cloud import Cloud
from kumulus_operator.refusal import Refusal, Refused
from kumulus_operator.views import Key
from kumulus_operator.vpn_connections.keys import key_of
from kumulus_operator.vpn_connections.plan import (
    assignment_of,
    connection_status,
    down,
    ends_of,
    taken_down,
    tunnelled,
    unheard,
    untold,
)
from kumulus_operator.waiting import Need, quota
from kumulus_runtime.resources import SECRET

_LOG = structlog.stdlib.get_logger(__name__)
_PASSING = {
    VPNConnectionReason.WAITING_FOR_HOST,
    VPNConnectionReason.CONNECTING,
    VPNConnectionReason.WAITING_FOR_PEER,
    VPNConnectionReason.DOWN,
}
"""Reasons that are no news to anybody: the condition has them, and no Event."""


class VPNConnectionController:
    """Serves VPN connections.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    async def reconcile(self, key: Key) -> None:
        """Bring one VPN connection to its desired state."""
        cloud = self._cloud
        cloud.vpn_waiters.forget(key)
        connection = cloud.vpn_connections.get(*key)
        if connection is None or connection.deleting:
            cloud.vpn_keys.follow(key, ())
            return
        # Registered before looking, so that a change in between is not missed.
        interests: set[Need] = {
            ("Router", key[0], connection.spec.router.name),
            (SECRET.kind, key[0], connection.spec.psk.secret),
        }
        cloud.vpn_waiters.wait(key, interests)
        cloud.vpn_keys.follow(key, interests)
        excess = self._excess(connection)
        if excess is not None:
            cloud.vpn_waiters.wait(key, interests | excess.needs)
            await self._tell(connection, [excess])
            return
        if self._awaits_router(connection):
            return
        wanted, faults = await self._decide(connection)
        if wanted is not None and wanted != connection.spec.assignment:
            connection = await self._assign(connection, wanted)
        cloud.vpn_waiters.wait(key, interests | {need for fault in faults for need in fault.needs})
        silent = unheard(connection)
        await self._tell(connection, [*faults, silent] if silent is not None else faults)

    def _excess(self, connection: VPNConnection) -> Refusal | None:
        """Count a connection, or say by what it would exceed the quota."""
        admitted = connection.spec.assignment is not None
        excess = self._cloud.counted_vpn_connections.admit(connection.key, admitted=admitted)
        if excess is None:
            return None
        message = f"quota: {excess}; transient: admitted when VPN connections are deleted or the quota is raised"
        needs = frozenset({quota(connection.key[0])})
        return Refusal(VPNConnectionReason.QUOTA_EXCEEDED.value, message, needs)

    def _awaits_router(self, connection: VPNConnection) -> bool:
        """Have the router told of the networks before anybody else; whether it is about to be, and wakes this then."""
        cloud, (namespace, _) = self._cloud, connection.key
        router = cloud.routers.get(namespace, connection.spec.router.name)
        if router is None or router.deleting or router.spec.assignment is None:
            return False
        due = tunnelled(router, cloud.vpn_connections.in_namespace(namespace), cloud.counted_vpn_connections)
        own = set(connection.spec.peer_cidrs)
        if not own <= set(due) or own <= set(router.spec.assignment.tunnelled):
            return False
        cloud.queues.routers.add(router.key)
        return True

    async def _decide(self, connection: VPNConnection) -> tuple[VPNConnectionAssignment | None, list[Refusal]]:
        """Give what hosts are to be told, and what is not as the spec says."""
        cloud, (namespace, _) = self._cloud, connection.key
        router = cloud.routers.get(namespace, connection.spec.router.name)
        try:
            ends = ends_of(connection, router, cloud.vpn_connections.in_namespace(namespace))
        except Refused as refused:
            return taken_down(connection), [refused.refusal]
        if router is not None and (full := untold(connection, router)) is not None:
            return None, [full]
        faults = [] if connection.spec.admin_state_up else [down()]
        try:
            version = (await key_of(cloud.client, namespace, connection.spec.psk)).version
        except Refused as refused:
            given = connection.spec.assignment
            faults.append(refused.refusal)
            if given is None:
                return None, faults
            # What is established goes on with the key that the hosts have.
            version = given.psk_version
        return assignment_of(connection, ends, version), faults

    async def _assign(self, connection: VPNConnection, wanted: VPNConnectionAssignment) -> VPNConnection:
        written = await self._cloud.assign(connection, wanted)
        _LOG.info(
            "VPN connection assigned",
            namespace=connection.key[0],
            name=connection.key[1],
            host=wanted.host,
            standby=wanted.standby,
            up=wanted.up,
        )
        return written

    async def _tell(self, connection: VPNConnection, faults: list[Refusal]) -> None:
        status = connection_status(connection, faults, datetime.now(UTC))
        await self._cloud.tell(connection, status, faults, passing=_PASSING)
