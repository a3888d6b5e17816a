"""A host's images put together: how they come here, who sends them, what stays, and who may have it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Final

from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.images.controller import ImageController
from kumulus_agent.images.copies import DiskCopies
from kumulus_agent.images.exchange import ImageExchange
from kumulus_agent.images.held import HeldImages
from kumulus_agent.images.kept import KeptImages
from kumulus_agent.images.of_volumes import VolumeImages
from kumulus_agent.images.stores import stores_of
from kumulus_agent.images.upload_server import UploadServer
from kumulus_agent.images.uploads import Uploads
from kumulus_agent.migration.host_port import HostPort
from kumulus_agent.settings import AgentSettings
from kumulus_agent.storage.image_store import ImageStore
from kumulus_api import Host
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.events import EventRecorder
from kumulus_runtime.store import Store
from kumulus_runtime.workqueue import WorkQueue

Key = tuple[str, str]
_LATER_SECONDS: Final = 5.0


class ImagesHere:
    """Everything of images on one host.

    Args:
        settings: of the process.
        client: to reach the API server.
        store: what this host sees of the API.
        hypervisor: whose guests' disks are copied.
        port: where hosts meet.
        in_use: gives the digests of images that disks here lie on.
        server_changed: has a Server looked at.
        host_changed: has the own Host told anew.

    Attributes:
        cache: the files.
        copies: those of servers' disks that go on.
        kept: what stays here.
        held: one reconcile per Image, for what is here or is to be.
        of_volumes: those that are being made of volumes.
        uploads: what users send.
        upload_server: takes it from the console proxy.
        queue: the Images that this host is to import.
    """

    def __init__(  # noqa: PLR0913 - put together once
        self,
        settings: AgentSettings,
        client: KubeClient,
        store: Store,
        hypervisor: Hypervisor,
        port: HostPort,
        *,
        in_use: Callable[[], Collection[str]],
        server_changed: Callable[[Key], None],
        host_changed: Callable[[], None],
    ) -> None:
        self._settings, self._client, self._store = settings, client, store
        node, limit, directory = settings.node_name, settings.max_image_bytes, settings.state_dir / "images"
        self.queue: WorkQueue[Key] = WorkQueue("images")
        exchange = ImageExchange(client, node, port)
        stores = stores_of(settings, client, exchange)
        self.cache = ImageStore(directory, settings.image_cache_bytes, in_use=in_use, from_host=stores.fetch)
        self.copies = DiskCopies(settings, client, hypervisor, self.cache, server_changed)
        events = EventRecorder(client, "kumulus.dev/agent", instance=node)
        self.kept = KeptImages(client, node, self.cache, events, limit)
        self.held = HeldImages(client, self.cache, port, self.kept, self.copies.copying)
        held = self.held.queue
        stores.fetched = lambda key: held.add_after(key, _LATER_SECONDS)
        exchange.serve(self.cache, stores.fetched)
        self.held.put, self.held.find, self.held.remove = stores.put, stores.find, stores.remove
        self.copies.tell, self.copies.image_changed = self.held.tell, held.add
        self.kept.again, self.kept.changed = held.add, host_changed
        self.kept.host = lambda: store.get(Host, node) or {}
        self.of_volumes = VolumeImages(node, client, self.cache, limit, directory / "partial")
        self.held.clear = self.of_volumes.clear
        self.uploads = Uploads(self.cache, node, self.queue.add, self._later, held.add)
        self.upload_server = UploadServer(client, node, self.uploads, limit)

    def _later(self, key: Key) -> None:
        self.queue.add_after(key, _LATER_SECONDS)

    @property
    def closing(self) -> tuple[Callable[[], Awaitable[None]], ...]:
        """What ends before the connections do; the cache's own is `cache.close`."""
        return self.copies.close, self.kept.close

    def work(self, group: asyncio.TaskGroup, events: EventRecorder) -> list[asyncio.Task[None]]:
        """Begin to work; give the task that is given a moment to end."""
        seen_here = self._settings, self._client, self._store, self.cache
        ways = self.uploads, self.held.stored, self.held.find, self.of_volumes
        controller = ImageController(*seen_here, events, *ways)
        group.create_task(self.held.follow())
        group.create_task(self.held.queue.run(self.held.reconcile, 2))
        return [group.create_task(self.queue.run(controller.reconcile, 2))]
