"""A host's volumes put together: those that lie here, their snapshots and backups, and those that other hosts serve."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from kumulus_agent.backups.wiring import backups_of
from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.images.thaws import Thaws
from kumulus_agent.images.wiring import ImagesHere
from kumulus_agent.migration.credentials import Credentials
from kumulus_agent.servers.boot_data import boot_data_source
from kumulus_agent.settings import AgentSettings
from kumulus_agent.volumes.controller import VolumeController
from kumulus_agent.volumes.exports.wiring import exporting_of
from kumulus_agent.volumes.guests import VolumeGuests
from kumulus_agent.volumes.keys import volume_key
from kumulus_agent.volumes.multi_attach import MultiAttached
from kumulus_agent.volumes.shelves import Shelves, volume_image
from kumulus_agent.volumes.snapshots import Taker, VolumeSnapshotController
from kumulus_api import Volume
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.events import EventRecorder
from kumulus_runtime.store import Store
from kumulus_runtime.workqueue import WorkQueue

Key = tuple[str, str]


class VolumesHere:
    """Everything of volumes on one host.

    Args:
        settings: of the process.
        client: to reach the API server.
        store: what this host sees of the API.
        hypervisor: whose guests have volumes.
        images: that volumes are made of, and are made into.
        credentials: by which hosts know each other.
        server_changed: has a Server looked at.

    Attributes:
        queue: the Volumes to look at.
        snapshots: the VolumeSnapshots to look at.
        backups: the VolumeBackups to look at.
        shelves: where volumes lie.
        distant: the volumes that other hosts serve.
        multi_attached: the volumes that several servers may have.
    """

    def __init__(  # noqa: PLR0913 - put together once
        self,
        settings: AgentSettings,
        client: KubeClient,
        store: Store,
        hypervisor: Hypervisor,
        *,
        images: ImagesHere,
        credentials: Credentials,
        server_changed: Callable[[Key], None],
    ) -> None:
        self._store = store
        self.queue: WorkQueue[Key] = WorkQueue("volumes")
        self.snapshots: WorkQueue[Key] = WorkQueue("volume-snapshots")
        self.backups: WorkQueue[Key] = WorkQueue("volume-backups")
        self.shelves = Shelves(partial(volume_key, client, boot_data_source(settings)))
        guests = VolumeGuests(hypervisor, settings.instances_dir, Thaws(hypervisor))
        self._exporting = exporting_of(settings, client, credentials, self.shelves, guests)
        self.distant, exports = self._exporting.distant, self._exporting.exports
        exports.ended = self._export_ended
        self.multi_attached = MultiAttached(settings.node_name, client, guests, self.shelves.held)
        taker = Taker(settings.state_dir, self.shelves, guests, exports)
        images.of_volumes.taker, images.of_volumes.volume_changed = taker, self.queue.add
        known = client, store, EventRecorder(client, "kumulus.dev/agent", instance=settings.node_name)
        self._backups = backups_of(settings, known, taker, (self.backups, self.queue))
        here = (settings.node_name, *known, taker)
        image_of = partial(volume_image, images.cache)
        restores = self._backups.restores
        self._volumes = VolumeController(*here, image_of=image_of, exports=exports, restores=restores)
        self._snapshots = VolumeSnapshotController(*here, volume_changed=self.queue.add, server_changed=server_changed)
        self.closing: tuple[Callable[[], Awaitable[None]], ...] = (self._backups.close, guests.thaws.close)
        """What ends before the connections do."""

    def server_seen(self, body: Mapping[str, Any]) -> None:
        """Have those volumes of other hosts looked at that a Server is told of."""
        self.distant.server_seen(body)
        self.multi_attached.server_seen(body)

    @property
    def queues(self) -> tuple[WorkQueue[Any], ...]:
        """All that is to be looked at."""
        return self.queue, self.snapshots, self.distant.queue, self.multi_attached.queue, self.backups

    async def sweep(self) -> None:
        """End what served backups that were not finished; before the work begins."""
        await self._backups.pulls.sweep()

    def work(self, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Begin to work; give the tasks that are given a moment to end."""
        return [
            group.create_task(self.queue.run(self._volumes.reconcile, 2)),
            group.create_task(self.snapshots.run(self._snapshots.reconcile, 2)),
            group.create_task(self.distant.queue.run(self.distant.reconcile, 2)),
            group.create_task(self.multi_attached.queue.run(self.multi_attached.reconcile, 2)),
            group.create_task(self.backups.run(self._backups.controller.reconcile, 2)),
        ]

    def close(self) -> None:
        """Hear of no exporting process's end any more; the processes go on."""
        self._exporting.close()

    def domain_changed(self) -> None:
        """Have volumes looked at that are being copied as guests write to them: one may be whole."""
        for key in self._volumes.moves.under_way:
            self.queue.add(key)

    def _export_ended(self, volume_id: str) -> None:
        for body in self._store.list(Volume):
            if (body["spec"].get("assignment") or {}).get("volumeID") == volume_id:
                self.queue.add((body["metadata"]["namespace"], body["metadata"]["name"]))
