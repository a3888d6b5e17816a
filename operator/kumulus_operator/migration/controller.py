"""The operator's half of migrations: choose a target and keep room there, flip the host at the end."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import structlog

from kumulus_api import Server, ServerAction
from kumulus_api.server_action import MIGRATIONS, ActionType
from kumulus_api.server_assignment import ServerAssignment
from kumulus_operator.actions.plan import closed, ended, opened, refused
from kumulus_operator.bodies import MANAGER, identity
from kumulus_operator.cloud import Cloud
from kumulus_operator.migration.plan import Decision, Hosts, Move, cancelled, decide, flipped, heading, impossible
from kumulus_operator.placement.facts import Wish
from kumulus_operator.placement.usage import attached_amounts, group_name, server_amounts
from kumulus_operator.placement.wish import group_of, segments_of, terms_of, terms_of_flavor
from kumulus_operator.refusal import Refusal
from kumulus_operator.servers.volumes import bind_volumes
from kumulus_operator.volumes.exporting import volume_moves

_LOG = structlog.stdlib.get_logger(__name__)

LOOK_AGAIN = 5.0
"""Seconds after which a migration that runs is looked at again: a silent host tells nothing."""


class Migrations:
    """Brings migrations further.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    async def begin(self, action: ServerAction, server: Server, now: datetime) -> dict[str, Any]:
        """Name a target; give the status of the action then."""
        given = server.spec.assignment
        if given is None:
            raise ValueError(f"server {server.metadata.name} has no assignment")
        target = given.target
        if target is None:
            refusal = impossible(action, self._cloud.hosts.get("", given.host)) or volume_moves(self._cloud, server)
            if refusal is not None:
                return refused(action, refusal, now)
            verdict = await self._cloud.ledger.move(server.key, given.host, _wish(self._cloud, action, server, given))
            if isinstance(verdict, Refusal):
                return refused(action, verdict, now)
            target = verdict
            try:
                await self._assign(server, heading(given, target))
            except BaseException:
                self._cloud.ledger.stay(server.key)
                raise
        return opened(server, now) | {"target": target}

    async def go_on(self, action: ServerAction, server: Server | None, now: datetime) -> dict[str, Any] | None:
        """Do what is next; give the status that closes the action, or None while it runs."""
        given = server.spec.assignment if server is not None else None
        decision = decide(action, given, self._hosts(action))
        if decision.move is Move.WAIT:
            return None
        if server is not None and given is not None:
            await self._carry_out(action, server, given, decision)
        return closed(action, decision.phase, decision.reason, decision.message, now)

    async def release(self, server: Server) -> None:
        """Take a target away that no action stands behind: the one that named it was deleted before it was opened."""
        given = server.spec.assignment
        if given is None or given.target is None:
            return
        actions = self._cloud.actions_of(server.key[0], server.key[1])
        if not any(item.spec.type in MIGRATIONS and not ended(item) for item in actions):
            await self._assign(server, cancelled(given))

    async def _carry_out(
        self, action: ServerAction, server: Server, given: ServerAssignment, decision: Decision
    ) -> None:
        target = action.status.target if action.status is not None else None
        if decision.move is Move.FLIP and target is not None:
            await bind_volumes(self._cloud, await self._assign(server, flipped(given, target)))
            _LOG.info("server migrated", namespace=server.key[0], name=server.key[1], source=given.host, host=target)
        elif decision.move is Move.CANCEL and given.target == target:
            await self._assign(server, cancelled(given))

    async def _assign(self, server: Server, wanted: dict[str, object]) -> Server:
        body = identity(server) | {"spec": {"assignment": wanted}}
        # What was decided on is what is changed: a decision on an older state meets a conflict, and is made anew.
        body["metadata"]["resourceVersion"] = server.metadata.resource_version
        written = await self._cloud.client.apply(Server, body, manager=MANAGER)
        self._cloud.take(Server, written)
        return Server.model_validate(written)

    def _hosts(self, action: ServerAction) -> Hosts:
        status, cloud = action.status, self._cloud
        source, target = (status.host, status.target) if status is not None else (None, None)
        return Hosts(
            source_lost=source is not None and cloud.host_lost(source),
            target_lost=target is not None and cloud.host_lost(target),
            target_silent=target is not None and cloud.host_silent(target),
        )


def _wish(cloud: Cloud, action: ServerAction, server: Server, given: ServerAssignment) -> Wish:
    """Give what the server asks of another host: what it asked when it was placed, in what it was given."""
    asked = action.spec.live_migrate if action.spec.type is ActionType.LIVE_MIGRATE else action.spec.migrate
    only, reason = (asked.host, "asked for by the action") if asked is not None else (None, "")
    if only is None and server.spec.placement.host is not None:
        only, reason = server.spec.placement.host, "asked for by placement"
    flavor = cloud.flavors.get("", server.spec.flavor.name)
    image = cloud.images.get(given.image.namespace, given.image.name) if given.image is not None else None
    # What a deleted flavor or image asked is not known any more, but for what the guest's machine is made of.
    if flavor is not None and image is not None:
        terms = terms_of(server, flavor, image, given.hardware)
    else:
        terms = terms_of_flavor(flavor, given.hardware)
    networks = (cloud.networks.get(port.network_namespace, port.network) for port in given.ports)
    terms = replace(terms, segments=segments_of(item for item in networks if item is not None))
    name = group_name(server)
    group = cloud.server_groups.get(server.key[0], name) if name is not None else None
    return Wish(server_amounts(server).plus(attached_amounts(given)), only, reason, terms, group_of(group))
