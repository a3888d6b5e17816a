"""Reconcile a ServerAction: open it when it is due, close it when it is done, forget it when it is old."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import structlog

from kumulus_api import Flavor, Image, Reference, Server, ServerAction
from kumulus_api.base import ObjectMeta
from kumulus_api.server_action import MIGRATIONS, ActionPhase, ActionReason, ActionType
from kumulus_api.server_status import ScheduledReason
from kumulus_operator.actions.begin import closing, going_on, own_patch, sized_as, wanted_image
from kumulus_operator.actions.image import make_image
from kumulus_operator.actions.legality import AT_ONCE, illegal
from kumulus_operator.actions.password import password_of
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
from kumulus_operator.images.sharing import still_usable
from kumulus_operator.migration.controller import LOOK_AGAIN, Migrations
from kumulus_operator.placement.hardware import hardware_of
from kumulus_operator.refusal import Refused, refuse
from kumulus_operator.servers.plan import assigned_image
from kumulus_operator.servers.resolve import bootable_image
from kumulus_operator.views import Key
from kumulus_runtime.errors import NotFound

_LOG = structlog.stdlib.get_logger(__name__)
_DAY = 86400.0
_NOT_OVERTAKEN = MIGRATIONS | {ActionType.RESET_STATE}
_OF_A_HOST = ("host", "instanceID", "epoch")


class ActionController:
    """Serves the actions of all servers, those of one server one after the other.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._migrations = Migrations(cloud)
        self._turns: WeakValueDictionary[Key, asyncio.Lock] = WeakValueDictionary()

    async def reconcile(self, key: Key) -> float | None:
        """Bring one action further; give the seconds after which its age is to be looked at."""
        cloud = self._cloud
        seen = cloud.actions.get(*key)
        if seen is None:
            return None
        # Which one is due is decided for one of a server's actions at a time: what is being opened does not show yet.
        server = (key[0], seen.spec.server.name)
        async with self._turns.setdefault(server, asyncio.Lock()):
            return await self._bring(key)

    async def _bring(self, key: Key) -> float | None:
        cloud = self._cloud
        action = cloud.actions.get(*key)
        if action is None or action.deleting:
            return None
        history = cloud.actions_of(key[0], action.spec.server.name)
        if ended(action):
            await self._prune(history)
            return _DAY
        due = first_open(history)
        if due is not None and due.key != key and action.spec.type is ActionType.RESET_STATE:
            due = await self._overtake(action, due)
        if due is not None and due.key != key:
            await self._write(action, waiting(due.metadata.name))
            return None
        await self._go_on(action, cloud.servers.get(key[0], action.spec.server.name))
        return LOOK_AGAIN if action.spec.type in MIGRATIONS else None

    async def _go_on(self, action: ServerAction, server: Server | None) -> None:
        now = datetime.now(UTC)
        migrates = action.spec.type in MIGRATIONS
        if phase_of(action) is ActionPhase.RUNNING and migrates:
            status = await self._migrations.go_on(action, server, now)
        elif phase_of(action) is ActionPhase.RUNNING and action.spec.type in AT_ONCE:
            status = await self._at_once(action, server, now)
        elif phase_of(action) is ActionPhase.RUNNING:
            status = reported(action, now) or self._lost(action, now)
            if server is not None:
                change = partial(closing, action, status["phase"]) if status else partial(going_on, action)
                await self._assign(server, change)
        else:
            refusal = illegal(action, server)
            if refusal is None and server is not None:
                try:
                    status = await self._open(action, server, now)
                except Refused as failure:
                    refusal = failure.refusal
            if refusal is not None:
                status = refused(action, refusal, now)
        if status is not None:
            await self._write(action, status)

    async def _overtake(self, action: ServerAction, due: ServerAction) -> ServerAction:
        """Give up what a reset of the state finds under way; a migration has two ends and is none of it."""
        running = phase_of(due) is ActionPhase.RUNNING
        if due.spec.type in _NOT_OVERTAKEN or not running:
            return due
        message = f"given up for {action.metadata.name}; permanent: what had been done of it stays"
        status = closed(due, ActionPhase.FAILED, ActionReason.ABORTED, message, datetime.now(UTC))
        server = self._cloud.servers.get(due.key[0], due.spec.server.name)
        if server is not None:
            await self._assign(server, partial(closing, due, status["phase"]))
        await self._write(due, status)
        return action

    async def _open(self, action: ServerAction, server: Server, now: datetime) -> dict[str, Any]:
        """Write what an action changes about its Server; give the status with which it is opened, or has ended.

        Raises:
            Refused: its image is not there, not for it, not Ready or too large, or the one that it makes is there
                already; its password is not there.
        """
        image = self._image(action, server)
        await self._adopt(action, server)
        if action.spec.type in MIGRATIONS:
            return await self._migrations.begin(action, server, now)
        if action.spec.type in AT_ONCE:
            # It is done when it is seen to be open, so that it is known to be done also if this process ends.
            return {name: value for name, value in opened(server, now).items() if name not in _OF_A_HOST}
        if action.spec.type is ActionType.CREATE_IMAGE:
            await make_image(self._cloud, action, server)
        if action.spec.type is ActionType.SET_PASSWORD:
            await password_of(self._cloud.client, action)  # refused now rather than by the host
        await self._patch(action, server)
        return opened(server, now) | ({"image": image} if image is not None else {})

    async def _at_once(self, action: ServerAction, server: Server | None, now: datetime) -> dict[str, Any]:
        """Do what only needs to be written, once more if need be; give the status of its end."""
        if server is None:
            message = f"reference: server {action.spec.server.name} was not found; permanent"
            return closed(action, ActionPhase.FAILED, ActionReason.SERVER_NOT_FOUND, message, now)
        await self._patch(action, server)
        return closed(action, ActionPhase.SUCCEEDED, ActionReason.COMPLETED, "", now)

    async def _patch(self, action: ServerAction, server: Server) -> None:
        """Write what an action changes of the spec.

        Raises:
            Conflict: the server has changed meanwhile; look again.
        """
        patch = own_patch(action, server)
        if patch is not None:
            name, namespace = server.metadata.name, server.metadata.namespace
            guarded = patch | {"metadata": {"resourceVersion": server.metadata.resource_version}}
            self._cloud.take(Server, await self._cloud.client.patch_merge(Server, name, guarded, namespace))

    def _image(self, action: ServerAction, server: Server) -> dict[str, Any] | None:
        """Give the image that an action needs, as it is now; None if it needs none."""
        needed, reference = wanted_image(action)
        size, assigned = sized_as(server), server.spec.assignment
        if not needed or assigned is None or size is None:
            return None
        if reference is None:
            if assigned.image is not None:
                had = Reference(name=assigned.image.name, namespace=assigned.image.namespace)
                still_usable(server.key[0], had, self._cloud)
            return assigned.image.dump() if assigned.image is not None else None
        wish = server.model_copy(update={"spec": server.spec.model_copy(update={"image": reference})})
        flavor = Flavor(metadata=ObjectMeta(name=server.spec.flavor.name), spec=size)
        image = bootable_image(wish, flavor, self._cloud)
        if action.spec.type is ActionType.REBUILD:
            self._same_machine(server, image)
        return assigned_image(image)

    def _same_machine(self, server: Server, image: Image) -> None:
        """Refuse an image for which the server would need another machine than the one that it was given."""
        given, flavor = server.spec.assignment, self._cloud.flavors.get("", server.spec.flavor.name)
        if given is None or (flavor is None and not image.spec.properties):
            return
        specs = flavor.spec.extra_specs if flavor is not None else {}
        if hardware_of(specs, image.spec.properties, given.resources) != given.hardware:
            message = (
                f"hardware: image {image.metadata.name} asks for another machine than the server has; permanent: use "
                "an image with the same properties, or make a new server"
            )
            raise refuse(ScheduledReason.HARDWARE_CONFLICT, message)

    async def _assign(self, server: Server, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        """Change the assignment, unless it changes nothing or the server is gone.

        Raises:
            Conflict: the server has changed meanwhile; look again.
        """
        cloud = self._cloud
        server = cloud.servers.get(*server.key) or server
        if server.spec.assignment is None:
            return
        given = server.spec.assignment.dump()
        wanted = change(given)
        if wanted == given:
            return
        body = identity(server)
        body["metadata"]["resourceVersion"] = server.metadata.resource_version
        try:
            written = await cloud.client.apply(Server, body | {"spec": {"assignment": wanted}}, manager=MANAGER)
        except NotFound:
            return
        cloud.take(Server, written)

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
        if not await cloud.write_status(action, status):
            return
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
