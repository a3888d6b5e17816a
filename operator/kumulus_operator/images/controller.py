"""Reconcile an Image: name the host that imports it."""

from __future__ import annotations

from datetime import UTC, datetime

from kumulus_api import Image
from kumulus_operator.bodies import MANAGER, identity
from kumulus_operator.cloud import Cloud
from kumulus_operator.images.plan import import_status
from kumulus_operator.views import Key
from kumulus_operator.waiting import CAPACITY
from kumulus_runtime.errors import Conflict, NotFound


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
        if status is None or _says(image, status):
            return None
        try:
            body = await cloud.client.apply_status(Image, identity(image) | {"status": status}, manager=MANAGER)
        except (NotFound, Conflict):
            return None
        cloud.take(Image, body)
        return None


def _says(image: Image, status: dict[str, object]) -> bool:
    found = image.status.dump() if image.status is not None else {}
    return all(found.get(name) == value for name, value in status.items())
