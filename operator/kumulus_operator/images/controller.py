"""Reconcile an Image: name the host that imports it, or give up one that no host holds."""

from __future__ import annotations

from datetime import UTC, datetime

from kumulus_api import FINALIZER, Image
from kumulus_operator.cloud import Cloud
from kumulus_operator.images.held import held_status, lost_status, never_comes
from kumulus_operator.images.plan import import_status
from kumulus_operator.views import Key
from kumulus_operator.waiting import CAPACITY


class ImageController:
    """Picks import hosts.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    async def reconcile(self, key: Key) -> float | None:
        """Bring one image to its desired state."""
        cloud = self._cloud
        cloud.image_waiters.forget(key)
        image = cloud.images.get(*key)
        if image is not None and image.spec.source.server is not None:
            await self._held(image)
            return None
        if image is None or image.deleting:
            return None
        load: dict[str, int] = {}
        for other in cloud.images:
            host = other.status.import_host if other.status is not None else None
            if host is not None:
                load[host] = load.get(host, 0) + 1
        silent = {host.metadata.name for host in cloud.hosts if cloud.host_silent(host.metadata.name)}
        status = import_status(image, cloud.host_facts(), silent, load, datetime.now(UTC))
        if status is not None and "importHost" not in status:
            cloud.image_waiters.wait(key, {CAPACITY})
        await self._write(image, status)
        return None

    async def _write(self, image: Image, status: dict[str, object] | None) -> None:
        if status is not None and not _says(image, status):
            await self._cloud.write_status(image, status)

    async def _held(self, image: Image) -> None:
        """Name the host that holds an image, and give up one that no host holds."""
        cloud, now = self._cloud, datetime.now(UTC)
        source = image.spec.source.server
        lost = source is None or cloud.host_lost(source.host)
        if not image.deleting and not never_comes(image, lost=lost):
            await self._write(image, held_status(image, now) or (lost_status(image, now) if lost else None))
            return
        live = await cloud.client.get(Image, image.metadata.name, image.metadata.namespace)
        if live is None or live["metadata"]["uid"] != image.metadata.uid:
            return
        current = Image.model_validate(live)
        name, namespace, uid = current.metadata.name, current.metadata.namespace, current.metadata.uid
        if current.deleting and lost:
            await cloud.client.remove_finalizer(Image, name, FINALIZER, namespace, uid=uid)
        elif never_comes(current, lost=lost) and not current.deleting:
            await cloud.client.delete(Image, name, namespace, uid=uid)


def _says(image: Image, status: dict[str, object]) -> bool:
    found = image.status.dump() if image.status is not None else {}
    return all(found.get(name) == value for name, value in status.items())
