"""Have the bytes of each image kept by as many hosts as are wanted, and let it go when none has it any more."""

from __future__ import annotations

import time
from collections.abc import Collection
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from kumulus_api import FINALIZER, Host, Image
from kumulus_api.image_store import ImageAssignment, StoreType
from kumulus_operator.cloud import Cloud
from kumulus_operator.images.held import can_be_had_anew, is_lost, is_ready
from kumulus_operator.images.of_volumes import on_share
from kumulus_operator.images.replicas import Keeper, Wanted, name_hosts, replica_status
from kumulus_operator.placement.inventory import disk_free
from kumulus_operator.views import Key
from kumulus_operator.waiting import CAPACITY, Need
from kumulus_runtime.errors import Conflict, NotFound

MANAGER: Final = "kumulus-operator-replicas"
"""What is told of replicas has a manager of its own: the import says nothing of them, which would take them away."""


class Keeping:
    """Names the hosts that keep images.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    def holders(self, image: Image, digest: str | None = None) -> set[str]:
        """Give the hosts that have an image, or of it these bytes, as they say, and are not lost."""
        names = self._cloud.image_holders.of(image.key, digest or image.stored_digest)
        return {name for name in names if not self._cloud.host_lost(name)}

    def able(self) -> set[str]:
        """Give the hosts that may be asked for something new."""
        return {host.metadata.name for host in self._cloud.hosts if self._keeper(host).good}

    async def name(self, image: Image, first: str = "") -> Image:
        """Name the hosts that keep an image, if it is to be others than before; give the image as it is then.

        Args:
            image: which.
            first: the host that imports it, which is named in any case.
        """
        cloud, given = self._cloud, image.spec.assignment
        if given is None:
            given = ImageAssignment(store=cloud.settings.store_type)
            named: tuple[str, ...] = ()
        else:
            named = tuple(given.hosts)
        if given.store is StoreType.HOSTS:
            keepers = [self._keeper(host, _size(image)) for host in cloud.hosts]
            holding = self.holders(image) if is_ready(image) else set()
            if is_ready(image) and not named and not holding and image.status is not None:
                # Imported before there were replicas: who did so may have it still.
                first = next((keeper.name for keeper in keepers if keeper.good and _imported(image, keeper.name)), "")
            elif is_ready(image):
                first = ""
            named = name_hosts(named, holding, keepers, Wanted(cloud.settings.image_replicas, first))
        wish = ImageAssignment(store=given.store, hosts=list(named))
        if wish == image.spec.assignment or (given.store is StoreType.HOSTS and not named):
            return image
        with suppress(Conflict, NotFound):  # it is gone; the watch says so too
            return await cloud.assign(image, wish)
        return image

    async def look(self, key: Key, needs: set[Need]) -> float | None:
        """Bring the replicas of one image to what they should be.

        Args:
            key: of the image.
            needs: takes what has it looked at again.

        Returns:
            Seconds after which to look again, if any.
        """
        image = self._cloud.images.get(*key)
        if image is None:
            return None
        if image.deleting:
            await self._leave(image, needs)
            return None
        if not is_ready(image):
            if is_lost(image):  # who comes back may have it
                needs.update(("Host", "", name) for name in self._cloud.image_holders.of(key))
            return None
        image = await self.name(image)
        given = image.spec.assignment
        await self._tell(image)
        named = given.hosts if given is not None else []
        holding = self.holders(image)
        needs.update(("Host", "", name) for name in {*named, *holding})
        if given is None or (given.store is StoreType.HOSTS and len(named) < self._cloud.settings.image_replicas):
            needs.add(CAPACITY)
        return self._grace_left({*named, *holding})

    def _grace_left(self, hosts: Collection[str]) -> float | None:
        grace, now = self._cloud.settings.image_replica_grace, time.monotonic()
        left = [grace - self._cloud.liveness.silent_for(name, now) for name in hosts if self._cloud.host_silent(name)]
        return min((seconds + 0.05 for seconds in left if seconds > 0), default=None)

    async def _tell(self, image: Image) -> None:
        cloud = self._cloud
        pulled = None
        if image.spec.pre_pull is not None:
            selector = image.spec.pre_pull.host_selector
            chosen = {
                host.metadata.name
                for host in cloud.hosts
                if selector is None or selector.takes(host.metadata.name, host.metadata.labels)
            }
            have = cloud.image_holders.of(image.key, image.stored_digest) & chosen
            pulled = f"{len(have)}/{len(chosen)}"
        now = datetime.now(UTC)
        status = replica_status(image, self.holders(image), cloud.settings.image_replicas, pulled, now)
        found = image.status.dump() if image.status is not None else {}
        told = {item["type"]: item for item in found.get("conditions", [])}
        same = all(told.get(item["type"]) == item for item in status["conditions"])
        if not same or any(found.get(name) != status.get(name) for name in ("replicas", "prePulled")):
            await cloud.write_status(image, status, manager=MANAGER)

    async def _leave(self, image: Image, needs: set[Need]) -> None:
        """Tell who has yet to remove a deleted image; let it go if nobody has and who would do so is away.

        Only a host that never returns is not waited for; of an image that can be had anew neither is one that is
        silent: it finds out when it is back.
        """
        cloud, status = self._cloud, image.status
        if FINALIZER not in image.metadata.finalizers:
            return
        anew = can_be_had_anew(image)
        acts = status.import_host if status is not None else None
        left = {
            name
            for name in cloud.image_holders.of(image.key)
            if not cloud.host_lost(name) and not (anew and cloud.host_silent(name))
        }
        needs.update(("Host", "", name) for name in {*left, *([acts] if acts else [])})
        if status is not None and sorted(left) != (status.replicas or []):
            await cloud.write_status(image, {"replicas": sorted(left)}, manager=MANAGER)
        away = acts is None or cloud.host_lost(acts) or (anew and cloud.host_silent(acts))
        if not away or left:
            return
        given = image.spec.assignment
        if (given is None or given.store is StoreType.HOSTS) and (acts is None or not on_share(image)):
            await cloud.let_go(image, FINALIZER)
            return
        # Somebody has to empty the bucket, or the share.
        good = self.able()
        needs.add(CAPACITY)
        if good:
            await cloud.write_status(image, {"importHost": min(good)})

    def _keeper(self, host: Host, size: int = 0) -> Keeper:
        cloud, name = self._cloud, host.metadata.name
        facts = cloud.facts_of(host, fresh=cloud.host_fresh(name))
        able = facts.ready and not facts.maintenance and not facts.decommissioned
        silent_for = cloud.liveness.silent_for(name, time.monotonic())
        free = disk_free(host)
        return Keeper(
            name,
            good=able and facts.fresh,
            coming=able and not cloud.host_silent(name),
            stays=not facts.decommissioned and silent_for < cloud.settings.image_replica_grace,
            lost=cloud.host_lost(name),
            zone=",".join(sorted(facts.zones)),
            load=cloud.image_holders.count(name),
            full=free is not None and free < size,
        )


def _size(image: Image) -> int:
    stored = image.status.stored if image.status is not None else None
    return stored.size if stored is not None else ((image.status.size if image.status is not None else None) or 0)


def _imported(image: Image, host: str) -> bool:
    return image.status is not None and image.status.import_host == host
