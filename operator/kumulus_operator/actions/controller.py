"""Reconcile a ServerAction: open it when it is due, close it when it is done, forget it when it is old."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import structlog

from kumulus_api import Server, ServerAction
from kumulus_api.server_action import ActionPhase, ActionReason
from kumulus_operator.actions.legality import illegal
from kumulus_operator.actions.plan import (
    closed,
    ended,
    first_open,
    opened,
    outdated,
    own_status,
    phase_of,
    refused,
    reported,
    waiting,
)
from kumulus_operator.bodies import MANAGER, identity, owner_reference
from kumulus_operator.cloud import Cloud
from kumulus_operator.views import Key
from kumulus_runtime.errors import Conflict, NotFound

_LOG = structlog.stdlib.get_logger(__name__)
_DAY = 86400.0


class ActionController:
    """Serves the actions of all servers, those of one server one after the other.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    async def reconcile(self, key: Key) -> float | None:
        """Bring one action further; give the seconds after which its age is to be looked at."""
        cloud = self._cloud
        action = cloud.actions.get(*key)
        if action is None or action.deleting:
            return None
        history = cloud.actions_of(key[0], action.spec.server.name)
        if ended(action):
            await self._prune(history)
            return _DAY
        due = first_open(history)
        if due is not None and due.key != key:
            await self._write(action, waiting(due.metadata.name))
            return None
        await self._go_on(action, cloud.servers.get(key[0], action.spec.server.name))
        return None

    async def _go_on(self, action: ServerAction, server: Server | None) -> None:
        now = datetime.now(UTC)
        if phase_of(action) is ActionPhase.RUNNING:
            status = reported(action, now) or self._lost(action, now)
        else:
            refusal = illegal(action, server)
            if refusal is not None or server is None:
                status = refused(action, refusal, now) if refusal is not None else None
            else:
                await self._adopt(action, server)
                status = opened(server, now)
        if status is not None:
            await self._write(action, status)

    def _lost(self, action: ServerAction, now: datetime) -> dict[str, Any] | None:
        """Give the end of an action whose host is no more."""
        host = action.status.host if action.status is not None else None
        if host is None or not self._cloud.host_lost(host):
            return None
        message = f"host {host} never returns; permanent: what it had done of the action is unknown"
        return closed(action, ActionPhase.FAILED, ActionReason.HOST_LOST, message, now)

    async def _adopt(self, action: ServerAction, server: Server) -> None:
        """Have the history go with its server."""
        owner = owner_reference(server)
        if any(item.uid == owner["uid"] for item in action.metadata.owner_references):
            return
        body = identity(action)
        body["metadata"]["ownerReferences"] = [owner]
        self._cloud.take(ServerAction, await self._cloud.client.apply(ServerAction, body, manager=MANAGER))

    async def _write(self, action: ServerAction, status: dict[str, Any]) -> None:
        cloud = self._cloud
        if status == own_status(action):
            return
        try:
            body = identity(action) | {"status": status}
            written = await cloud.client.apply_status(ServerAction, body, manager=MANAGER)
        except (NotFound, Conflict):
            return
        cloud.take(ServerAction, written)
        phase, reason = status["phase"], status["reason"]
        _LOG.info("action", namespace=action.key[0], name=action.key[1], type=action.spec.type, phase=phase)
        server = cloud.servers.get(action.key[0], action.spec.server.name)
        if server is not None and phase != ActionPhase.PENDING:
            failed = phase == ActionPhase.FAILED
            message = f"{action.spec.type} ({action.metadata.name}): {status['message'] or phase}"
            cloud.events.post(
                identity(server), reason if failed else f"{action.spec.type}{phase}", message, warning=failed
            )

    async def _prune(self, history: list[ServerAction]) -> None:
        settings = self._cloud.settings
        for item in outdated(history, settings.action_history, settings.action_days, datetime.now(UTC)):
            name, namespace = item.metadata.name, item.metadata.namespace
            await self._cloud.client.delete(ServerAction, name, namespace, uid=item.metadata.uid)
