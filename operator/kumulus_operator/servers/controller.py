"""Reconcile a Server: observe, plan, apply."""

from __future__ import annotations

import uuid
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import structlog

from kumulus_api import FINALIZER, Host, Server
from kumulus_api.server_assignment import ServerAssignment
from kumulus_api.server_status import ScheduledReason
from kumulus_operator.bodies import MANAGER, identity
from kumulus_operator.cloud import Cloud
from kumulus_operator.ledger.plan import Request
from kumulus_operator.metrics import PLACEMENTS
from kumulus_operator.migration.controller import Migrations
from kumulus_operator.refusal import Refusal, Refused, refuse
from kumulus_operator.servers.amend import amend
from kumulus_operator.servers.devices import change_devices
from kumulus_operator.servers.interfaces import give_ports
from kumulus_operator.servers.plan import assignment, running_already, scheduled_status, silent_status, waiting_status
from kumulus_operator.servers.ports_kept import keep_ports
from kumulus_operator.servers.resolve import Interface, Resolved, interests, resolve, wish_of
from kumulus_operator.servers.userdata import check_user_data
from kumulus_operator.servers.volumes import bind_volumes, give_volumes
from kumulus_operator.views import Key
from kumulus_runtime.errors import Conflict, Invalid, NotFound

_LOG = structlog.stdlib.get_logger(__name__)


class ServerController:
    """Places servers, and answers for them while no agent can.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._migrations = Migrations(cloud)

    async def reconcile(self, key: Key) -> None:
        """Bring one server to its desired state."""
        try:
            await self._bring(key)
        finally:
            self._cloud.user_data.follow(key, self._cloud.server_waiters.needs_of(key))

    async def _bring(self, key: Key) -> None:
        cloud = self._cloud
        server = cloud.servers.get(*key)
        if server is None or server.deleting or server.spec.assignment is not None:
            cloud.server_waiters.forget(key)
        if server is None:
            cloud.ledger.withdraw(key)
        elif server.deleting:
            await self._release(server)
        elif server.spec.assignment is not None:
            await keep_ports(cloud, server)
            await bind_volumes(cloud, server)
            await self._migrations.release(server)
            await amend(cloud, cloud.servers.get(*key) or server)
            await change_devices(cloud, cloud.servers.get(*key) or server)
            await self._speak_for(server, server.spec.assignment)
        else:
            await self._place_or_wait(server)

    async def _place_or_wait(self, server: Server) -> None:
        cloud = self._cloud
        # Registered before looking, so that a change in between is not missed.
        cloud.server_waiters.wait(server.key, interests(server))
        try:
            placed = await self._place(server)
        except Refused as refused:
            cloud.ledger.withdraw(server.key)
            PLACEMENTS.labels(outcome=refused.refusal.reason).inc()
            await self._wait(server, refused.refusal)
        except BaseException:
            cloud.ledger.withdraw(server.key)
            raise
        else:
            cloud.server_waiters.forget(server.key)
            await self._placed(placed)

    async def _place(self, server: Server) -> tuple[Server, bool]:
        """Decide and write the assignment; give the server as it is then, and whether its instance was adopted."""
        cloud = self._cloud
        if FINALIZER not in server.metadata.finalizers:
            message = (
                f"admission: the finalizer {FINALIZER} is missing, so nothing would clean up after the server; "
                "permanent: make it again while the admission policies of Kumulus are installed"
            )
            raise refuse(ScheduledReason.FINALIZER_MISSING, message)
        self._in_project(server)
        resolved = resolve(server, cloud)
        with cloud.placing_on({item.network.key for item in resolved.interfaces}):
            return await self._place_resolved(server, resolved)

    async def _place_resolved(self, server: Server, resolved: Resolved) -> tuple[Server, bool]:
        """Decide with all that the server refers to at hand; see `_place`."""
        cloud = self._cloud
        await check_user_data(cloud.client, server)
        self._volumes_admitted(server, resolved)
        running = running_already(server, cloud.running.of(server.key))
        instance_id = running[1].instance_id if running else str(uuid.uuid4())
        epoch = max(1, running[1].epoch) if running else 1
        verdict = await cloud.ledger.admit(_request(server, resolved, running[0] if running else None))
        if isinstance(verdict, Refusal):
            raise Refused(verdict)
        volumes = await give_volumes(cloud, server, resolved.volumes, verdict)
        ports = await give_ports(cloud, server, resolved.interfaces, verdict, adopting=running is not None)
        wanted = assignment((instance_id, verdict, epoch), resolved, ports, volumes)
        return await self._assign(server, wanted), running is not None

    def _in_project(self, server: Server) -> None:
        namespace = server.metadata.namespace or ""
        project = self._cloud.projects.get("", namespace)
        if project is None or project.deleting:
            message = f"quota: namespace {namespace} belongs to no Project; transient: goes on when a Project is made"
            raise refuse(ScheduledReason.NOT_IN_PROJECT, message, ("Quota", namespace, ""))

    def _volumes_admitted(self, server: Server, resolved: Resolved) -> None:
        for _, volume in resolved.volumes:
            if volume.spec.assignment is None and not self._cloud.ledger.volume_admitted(volume.key):
                name = volume.metadata.name
                message = f"quota: volume {name} is not admitted; transient: goes on when the project's quota allows it"
                raise refuse(ScheduledReason.QUOTA_EXCEEDED, message, ("Volume", *volume.key))

    async def _assign(self, server: Server, wanted: dict[str, Any]) -> Server:
        cloud = self._cloud
        try:
            body = await cloud.client.apply(
                Server, identity(server) | {"spec": {"assignment": wanted}}, manager=MANAGER
            )
        except (Conflict, Invalid):
            # Deleted, made anew, or assigned by another leader meanwhile: what is there now decides.
            live = await cloud.client.get(Server, server.metadata.name, server.metadata.namespace)
            if live is not None:
                cloud.take(Server, live)
            raise
        cloud.take(Server, body)
        _LOG.info("server assigned", namespace=server.key[0], name=server.key[1], host=wanted["host"])
        return cloud.servers.get(*server.key) or Server.model_validate(body)

    async def _placed(self, placed: tuple[Server, bool]) -> None:
        server, adopted = placed
        host = server.spec.assignment.host if server.spec.assignment else ""
        reason = ScheduledReason.ADOPTED if adopted else ScheduledReason.ASSIGNED
        PLACEMENTS.labels(outcome=reason.value).inc()
        message = f"{'adopted on' if adopted else 'assigned to'} host {host}"
        await self._write_status(server, scheduled_status(server, reason, message, datetime.now(UTC)))
        self._cloud.events.post(identity(server), reason.value, message)

    async def _wait(self, server: Server, refusal: Refusal) -> None:
        cloud = self._cloud
        cloud.server_waiters.wait(server.key, refusal.needs)
        status = waiting_status(server, refusal, datetime.now(UTC))
        if status is None:
            return
        _LOG.info("server waits", namespace=server.key[0], name=server.key[1], reason=refusal.reason)
        await self._write_status(server, status)
        cloud.events.post(identity(server), refusal.reason, refusal.message, warning=True)

    async def _speak_for(self, server: Server, assigned: ServerAssignment) -> None:
        """Say what no agent can say: that its host is silent."""
        now = datetime.now(UTC)
        cloud = self._cloud
        host = cloud.hosts.get("", assigned.host)
        lost = host is not None and host.spec.decommissioned
        if lost or cloud.host_silent(assigned.host):
            await self._write_status(server, silent_status(server, assigned.host, now))
            return
        conditions = server.status.conditions if server.status else []
        if not assigned.shelved and any(item.type == "Scheduled" and item.status == "False" for item in conditions):
            message = f"assigned to host {assigned.host}"
            await self._write_status(server, scheduled_status(server, ScheduledReason.ASSIGNED, message, now))

    async def _release(self, server: Server) -> None:
        """Let a deleted server go, unless its agent has to clean up first."""
        cloud = self._cloud
        live = await cloud.client.get(Server, server.metadata.name, server.metadata.namespace)
        if live is None or live["metadata"]["uid"] != server.metadata.uid:
            return
        current = Server.model_validate(live)
        if not current.deleting or FINALIZER not in current.metadata.finalizers:
            return
        assigned = current.spec.assignment
        if assigned is not None:
            host = cloud.hosts.get("", assigned.host)
            if host is None or not host.spec.decommissioned:
                if cloud.host_silent(assigned.host):
                    await self._write_status(current, silent_status(current, assigned.host, datetime.now(UTC)))
                return
            await self._revoke(assigned)
        name, namespace = current.metadata.name, current.metadata.namespace
        await cloud.client.remove_finalizer(Server, name, FINALIZER, namespace, uid=current.metadata.uid)

    async def _revoke(self, assigned: ServerAssignment) -> None:
        """Put an instance on the list of what a lost host must not run any more."""
        client = self._cloud.client
        body = await client.get(Host, assigned.host)
        if body is None:
            return
        revoked = list(body.get("spec", {}).get("revoked") or [])
        entry = {"instanceID": assigned.instance_id, "epoch": assigned.epoch}
        if entry not in revoked:
            patch = {
                "metadata": {"resourceVersion": body["metadata"]["resourceVersion"]},
                "spec": {"revoked": [*revoked, entry]},
            }
            with suppress(NotFound):  # it went just now, as one that was not there above
                self._cloud.take(Host, await client.patch_merge(Host, assigned.host, patch))

    async def _write_status(self, server: Server, status: dict[str, Any] | None) -> None:
        if status is not None:
            await self._cloud.write_status(server, status)


def _request(server: Server, resolved: Resolved, adopted_host: str | None) -> Request:
    namespace, name = server.key
    own_ports: list[Interface] = [item for item in resolved.interfaces if item.port is None]
    ports = {("Port", namespace, item.port_name) for item in resolved.interfaces}
    alone = (volume for _, volume in resolved.volumes if volume.key not in resolved.for_several)
    volumes = {("Volume", namespace, volume.metadata.name) for volume in alone}
    return Request(
        namespace=namespace,
        name=name,
        wish=wish_of(server, resolved),
        new_ports=frozenset(item.port_name for item in own_ports),
        holds=frozenset(ports | volumes),
        adopted_host=adopted_host,
    )
