"""Hosts in maintenance: have their servers migrate away, and say how far that is."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import structlog

from kumulus_api import API_VERSION, Host, ServerAction
from kumulus_api.host import DrainReason, HostConditionType
from kumulus_api.server_action import ActionType
from kumulus_operator.bodies import identity
from kumulus_operator.cloud import Cloud
from kumulus_operator.migration.drain import Drain, plan_drain
from kumulus_operator.views import Key
from kumulus_runtime.conditions import get_condition, set_condition
from kumulus_runtime.errors import Forbidden, NotFound

MANAGER = "kumulus-operator-drain"
"""The operator writes nothing else in a Host's status by this name, so nothing else goes when this is taken back."""
_LOOK_AGAIN = 2.0
_LOG = structlog.stdlib.get_logger(__name__)


class Drainer:
    """Empties hosts that are in maintenance.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    async def look(self, host: Host) -> float | None:
        """Do what is next for a host; give the seconds after which to look again, if it is to be emptied."""
        cloud = self._cloud
        if not host.spec.maintenance or host.spec.decommissioned:
            if self._told(host) is not None:
                await self._tell(host, Drain((), drained=False, reason=DrainReason.NOT_ASKED))
            return None
        keys = cloud.servers_on[host.metadata.name]
        servers = [server for key in sorted(keys) if (server := cloud.servers.get(*key)) is not None]
        actions = {server.key: cloud.actions_of(*server.key) for server in servers}
        planned = plan_drain(servers, actions, datetime.now(UTC))
        for key in planned.begin:
            await self._begin(key)
        await self._tell(host, planned)
        return None if planned.drained else _LOOK_AGAIN

    async def _begin(self, key: Key) -> None:
        name = f"drain-{key[1][:40]}-{uuid.uuid4().hex[:8]}"
        body = {
            "apiVersion": API_VERSION,
            "kind": "ServerAction",
            "metadata": {"name": name, "namespace": key[0]},
            "spec": {"server": {"name": key[1]}, "type": ActionType.LIVE_MIGRATE.value},
        }
        try:
            self._cloud.take(ServerAction, await self._cloud.client.create(ServerAction, body))
        except (NotFound, Forbidden):
            return  # its namespace is going
        _LOG.info("server leaves a host in maintenance", namespace=key[0], name=key[1], action=name)

    def _told(self, host: Host) -> dict[str, Any] | None:
        found = [item.dump() for item in host.status.conditions] if host.status is not None else []
        condition = get_condition(found, HostConditionType.DRAINED)
        return condition if condition is not None and condition["reason"] != DrainReason.NOT_ASKED else None

    async def _tell(self, host: Host, planned: Drain) -> None:
        found = [item.dump() for item in host.status.conditions] if host.status is not None else []
        own = [item for item in found if item["type"] == HostConditionType.DRAINED]
        generation, now = host.metadata.generation, datetime.now(UTC)
        wanted = set_condition(
            own, HostConditionType.DRAINED, planned.drained, planned.reason, planned.message, generation, now
        )
        if wanted == own:
            return
        body = identity(host) | {"status": {"conditions": wanted}}
        try:
            self._cloud.take(Host, await self._cloud.client.apply_status(Host, body, manager=MANAGER))
        except NotFound:
            return
