"""Reconcile an Image: name who imports and who keeps it, or give up one that no host holds."""

from __future__ import annotations

from datetime import UTC, datetime

from kumulus_api import Image
from kumulus_operator.cloud import Cloud
from kumulus_operator.images.admission import admit
from kumulus_operator.images.copies import name_original, near_original, refused_status, sources_of
from kumulus_operator.images.held import (
    can_be_had_anew,
    found_status,
    held_status,
    in_bucket,
    is_lost,
    is_ready,
    lost_status,
    never_comes,
)
from kumulus_operator.images.keeping import Keeping
from kumulus_operator.images.of_volumes import made_status, maker_of, name_volume
from kumulus_operator.images.plan import import_status
from kumulus_operator.refusal import Refusal, Refused
from kumulus_operator.views import Key
from kumulus_operator.waiting import CAPACITY, Need


class ImageController:
    """Picks import hosts.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._keeping = Keeping(cloud)

    async def reconcile(self, key: Key) -> float | None:
        """Bring one image to its desired state."""
        cloud = self._cloud
        awaited = cloud.image_waiters.needs_of(key)
        image = cloud.images.get(*key)
        if image is None:
            cloud.image_waiters.forget(key)
            return None
        needs: set[Need] = set()
        if image.spec.source.server is not None:
            await self._held(image)
        elif not image.deleting:
            try:
                await self._begin(image, needs)
            except Refused as refused:
                needs |= refused.refusal.needs
                await self._refuse(image, refused.refusal)
        again = await self._keeping.look(key, needs)
        cloud.image_waiters.settle(key, needs)
        if needs - awaited:
            # What it begins to wait for may have come since it was looked for: its status was written meanwhile.
            cloud.queues.images.add(key)
        return again

    async def _begin(self, image: Image, needs: set[Need]) -> None:
        """Name the host that imports an image, or waits for its bytes; tell of one of which all copies are lost.

        Raises:
            Refused: the project's quota does not allow it, or the image that it is made of may not be used.
        """
        cloud, source = self._cloud, image.spec.source
        admit(cloud, image)
        if not can_be_had_anew(image) and (is_ready(image) or is_lost(image)):
            await self._write(image, self._kept(image, datetime.now(UTC)))
            return
        if image.of_volume:
            await self._of_volume(image, needs)
            return
        sources: set[str] | None = None
        if source.image is not None:
            if image.spec.original is None:
                image = await name_original(cloud, image, source.image)
            told = image.status.import_host if image.status is not None else None
            # Who was told to take the bytes knows best whether they are there still.
            if told is None or cloud.host_lost(told) or cloud.host_silent(told):
                sources = sources_of(image, cloud, self._keeping.holders)
        await self._import(image, needs, sources)

    async def _import(self, image: Image, needs: set[Need], sources: set[str] | None) -> None:
        """Name the host that imports an image: one of the sources, if there are such."""
        cloud, original = self._cloud, image.spec.source.image
        load: dict[str, int] = {}
        for other in cloud.images:
            host = other.status.import_host if other.status is not None else None
            if host is not None:
                load[host] = load.get(host, 0) + 1
        if original is not None:
            load = near_original(image, original, load, cloud)
        silent = {host.metadata.name for host in cloud.hosts if cloud.host_silent(host.metadata.name)}
        hosts = [facts for facts in cloud.host_facts() if sources is None or facts.name in sources]
        status = import_status(image, hosts, silent, load, datetime.now(UTC))
        if status is not None and "importHost" not in status:
            needs |= {CAPACITY, *(("Host", "", name) for name in sources or ())}
        elif status is not None:
            # Whoever imports it has to know where to put it.
            image = await self._keeping.name(image, first=str(status["importHost"]))
        await self._write(image, status)

    async def _of_volume(self, image: Image, needs: set[Need]) -> None:
        """Name the host that makes an image of its volume.

        Raises:
            Refused: the volume or its host is not there.
        """
        image = await name_volume(self._cloud, image)
        host, more = maker_of(image, self._cloud, self._keeping.holders(image))
        needs |= more
        status = made_status(image, host, datetime.now(UTC))
        if status is not None:
            image = await self._keeping.name(image, first=host)
        await self._write(image, status)

    def _kept(self, image: Image, now: datetime) -> dict[str, object] | None:
        """Give what is to be told of an image that was whole, if its bytes went with their hosts, or were found."""
        told = image.status.import_host if image.status is not None else None
        if self._keeping.holders(image):
            return found_status(image, now)
        lost = told is not None and self._cloud.host_lost(told) and not in_bucket(image)
        return lost_status(image, now) if lost else None

    async def _refuse(self, image: Image, refusal: Refusal) -> None:
        status = refused_status(image, refusal.reason, refusal.message, datetime.now(UTC))
        if not _says(image, status):
            await self._cloud.tell(image, status, [refusal])

    async def _write(self, image: Image, status: dict[str, object] | None) -> None:
        if status is not None and not _says(image, status):
            await self._cloud.write_status(image, status)

    async def _held(self, image: Image) -> None:
        """Name the host that holds an image, and give up one that no host holds."""
        cloud, now = self._cloud, datetime.now(UTC)
        source = image.spec.source.server
        gone = source is None or cloud.host_lost(source.host)
        holders = self._others(image, gone=gone)
        lost = gone and not holders and not (is_ready(image) and in_bucket(image))
        if image.deleting:
            return
        # What others have does not come to nothing.
        if holders or not never_comes(image, lost=lost):
            status = held_status(image, now, holders)
            if status is not None:
                image = await self._keeping.name(image, first=str(status["importHost"]))
            elif lost:
                status = lost_status(image, now)
            elif holders:
                status = found_status(image, now)
            await self._write(image, status)
            return
        live = await cloud.client.get(Image, image.metadata.name, image.metadata.namespace)
        if live is None or live["metadata"]["uid"] != image.metadata.uid:
            return
        current = Image.model_validate(live)
        name, namespace, uid = current.metadata.name, current.metadata.namespace, current.metadata.uid
        if never_comes(current, lost=lost) and not current.deleting:
            await cloud.client.delete(Image, name, namespace, uid=uid)

    def _others(self, image: Image, *, gone: bool) -> set[str]:
        """Give the hosts that can tell of an image whose maker cannot: those that have it, or look into the bucket."""
        without = never_comes(image, lost=False)
        if gone and not without and in_bucket(image) and not is_ready(image):
            return self._keeping.able()
        return self._keeping.holders(image) if gone or without else set()


def _says(image: Image, status: dict[str, object]) -> bool:
    found = image.status.dump() if image.status is not None else {}
    return all(found.get(name) == value for name, value in status.items())
