"""Reconcile a Volume: quota, release by a gone server, deletion."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from kumulus_api import FINALIZER, Server, Volume
from kumulus_operator.bodies import MANAGER, identity
from kumulus_operator.cloud import Cloud
from kumulus_operator.views import Key
from kumulus_operator.volumes.plan import admitted_before, volume_status
from kumulus_operator.waiting import quota


class VolumeController:
    """Admits, releases and lets go volumes.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    async def reconcile(self, key: Key) -> float | None:
        """Bring one volume to its desired state."""
        cloud = self._cloud
        cloud.volume_waiters.forget(key)
        volume = cloud.volumes.get(*key)
        if volume is None:
            return None
        if volume.deleting and await self._let_go(volume):
            return None
        known = cloud.ledger.volume_admitted(key)
        excess = cloud.ledger.admit_volume(volume, counted=admitted_before(volume))
        bound = volume.spec.assignment is not None
        if bound:
            volume = await self._release(volume)
        elif excess is not None:
            cloud.volume_waiters.wait(key, {quota(key[0])})
        await self._write_status(volume, volume_status(volume, excess, datetime.now(UTC)))
        if not bound and excess is None and not known:
            cloud.wake(("Volume", *key))
        return None

    async def _write_status(self, volume: Volume, status: dict[str, Any] | None) -> None:
        if status is not None:
            await self._cloud.write_status(volume, status)

    async def _let_go(self, volume: Volume) -> bool:
        """Remove the finalizer of a volume that no host has, or whose host never returns; give whether it was so."""
        cloud = self._cloud
        live = await cloud.client.get(Volume, volume.metadata.name, volume.metadata.namespace)
        if live is None or live["metadata"]["uid"] != volume.metadata.uid:
            return True
        current = Volume.model_validate(live)
        place = current.spec.assignment
        host = cloud.hosts.get("", place.host) if place is not None else None
        if not current.deleting or (place is not None and (host is None or not host.spec.decommissioned)):
            return False
        name, namespace = current.metadata.name, current.metadata.namespace
        await cloud.client.remove_finalizer(Volume, name, FINALIZER, namespace, uid=current.metadata.uid)
        return True

    async def _release(self, volume: Volume) -> Volume:
        """Take the holder off a volume when it is gone: its agent has unplugged the volume by then.

        Returns:
            The volume as it is now.
        """
        cloud = self._cloud
        place = volume.spec.assignment
        if place is None or place.attached_to is None:
            return volume
        namespace = volume.metadata.namespace or ""
        holder = (namespace, place.attached_to)
        if cloud.servers.get(*holder) is not None or cloud.ledger.assumed(holder):
            return volume
        live = await cloud.client.get(Server, place.attached_to, namespace)
        if live is not None:
            cloud.take(Server, live)
            return volume
        body = identity(volume)
        body["metadata"]["resourceVersion"] = volume.metadata.resource_version
        body["spec"] = {"assignment": {"volumeID": place.volume_id, "host": place.host}}
        written = await cloud.client.apply(Volume, body, manager=MANAGER)
        cloud.take(Volume, written)
        return Volume.model_validate(written)
