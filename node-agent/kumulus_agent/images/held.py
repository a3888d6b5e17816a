"""Images that hosts hold: told when they are whole, removed everywhere when they are deleted."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import structlog

from kumulus_agent.images.controller import import_status
from kumulus_agent.images.exchange import entitled
from kumulus_agent.migration.credentials import NoCredentials
from kumulus_agent.migration.host_port import HostPort
from kumulus_agent.servers.report import MANAGER
from kumulus_agent.storage.held_address import key_of
from kumulus_agent.storage.image_cache import CachedImage, ImageCache
from kumulus_api import FINALIZER, Image, ServerAction
from kumulus_api.image import ImageReason, held_address
from kumulus_api.server_action import ENDED
from kumulus_runtime.api_client import ApiError, KubeClient, NotFound
from kumulus_runtime.conditions import get_condition
from kumulus_runtime.workqueue import WorkQueue

Key = tuple[str, str]
Object = dict[str, Any]
_NEED: Final = "images"
_SELECTOR: Final = "spec.source.server.instanceID!="
_LOOK_AGAIN: Final = 5.0

_log = structlog.stdlib.get_logger(__name__)


def owner_of(key: Key) -> str:
    """Give the name under which an Image owns its bytes in the cache (pure)."""
    return "/".join(key)


class HeldImages:
    """One reconcile per Image that a host holds, on all hosts: any may have a copy.

    Args:
        client: to reach the API server.
        node: this host's name.
        cache: where the bytes are.
        port: open while there is something for others.
        copying: tells whether a copy for an Image goes on here.
    """

    def __init__(
        self, client: KubeClient, node: str, cache: ImageCache, port: HostPort, copying: Callable[[Key], bool]
    ) -> None:
        self._client = client
        self._node = node
        self._cache = cache
        self._port = port
        self._copying = copying
        self._seen: dict[Key, Object] = {}
        self._kept_for_disks: set[Key] = set()
        self.queue: WorkQueue[Key] = WorkQueue("held-images")

    async def follow(self) -> None:
        """Watch them; never returns."""
        async for event, body in self._client.watch(Image, field_selector=_SELECTOR):
            if event == "SYNCED":
                for key in {key_of(address) for address in await self._cache.held()} - self._seen.keys():
                    self.queue.add(key)
                continue
            key = (body["metadata"]["namespace"], body["metadata"]["name"])
            if event == "DELETED":
                self._seen.pop(key, None)
            else:
                self._seen[key] = body
            self.queue.add(key)

    def disks_changed(self) -> None:
        """Look again at what was kept for disks that lay on it."""
        for key in self._kept_for_disks:
            self.queue.add(key)

    async def reconcile(self, key: Key) -> float | None:
        """Bring one image to its desired state; give the seconds after which to look again, if any."""
        body = self._seen.get(key)
        wait = None
        if body is None or "deletionTimestamp" in body["metadata"]:
            await self._gone(key)
        elif (body.get("status") or {}).get("importHost") == self._node:
            wait = await self._hold(key, body)
        return await self._offer(wait)

    async def _hold(self, key: Key, body: Object) -> float | None:
        ready = get_condition((body.get("status") or {}).get("conditions") or [], "Ready") or {}
        if ready.get("status") == "True" or ready.get("reason") == ImageReason.NOT_HELD:
            return None
        image = await self._cache.owned(owner_of(key))
        if image is not None:
            await self.tell(body, image)
            return None
        if self._copying(key) or await self._comes(key[0], body):
            return _LOOK_AGAIN
        message = f"host {self._node} has no copy of the disk, and no action makes one; permanent: the image goes"
        await self._write(body, import_status(body, ImageReason.NOT_HELD, message))
        return None

    async def _comes(self, namespace: str, body: Object) -> bool:
        """Ask whether the action that makes the image is open, or will be."""
        uid = body["spec"]["source"]["server"]["action"]
        actions, _ = await self._client.list(ServerAction, namespace=namespace)
        found = [item.get("status") or {} for item in actions if item["metadata"]["uid"] == uid]
        words = [(status.get("phase"), (status.get("report") or {}).get("outcome")) for status in found]
        return any(not ENDED & set(word) for word in words)

    async def tell(self, body: Object, image: CachedImage) -> bool:
        """Say that an image is whole and here; give whether there still is one to say it of."""
        message = f"held by host {self._node}"
        return await self._write(body, import_status(body, ImageReason.COPIED, message, image))

    async def _write(self, body: Object, status: Object) -> bool:
        metadata = {name: body["metadata"][name] for name in ("name", "namespace", "uid")}
        try:
            await self._client.apply_status(Image, {"metadata": metadata, "status": status}, manager=MANAGER)
        except NotFound:
            return False
        return True

    async def _gone(self, key: Key) -> None:
        """Remove what is here of a deleted image; what disks lie on stays until they are gone.

        Copies of what another host holds can be had anew, or are of no use. What this host holds goes only if a live
        read shows that its deletion was asked for.
        """
        live = await self._client.get(Image, key[1], key[0])
        deleting = live is not None and "deletionTimestamp" in live["metadata"]
        if live is not None and not deleting:
            return
        ours = live is not None and (live.get("status") or {}).get("importHost") == self._node
        if ours:
            await self._cache.disown(owner_of(key))
        self._kept_for_disks.discard(key)
        for digest in (await self._cache.held()).get(held_address(*key), ()):
            asked = time.time()
            # A guest that migrates to here lies on it before its Server says so.
            needed = await entitled(self._client, self._node, digest)
            if not needed and await self._cache.unneeded(digest, since=asked):
                _log.info("image removed", namespace=key[0], name=key[1], digest=digest)
            else:
                self._kept_for_disks.add(key)
        if live is not None and ours:
            await self._client.remove_finalizer(Image, key[1], FINALIZER, key[0], uid=live["metadata"]["uid"])

    async def _offer(self, wait: float | None) -> float | None:
        """Have the port open while there is something that other hosts may ask for."""
        if not await self._cache.held():
            await self._port.release(_NEED)
            return wait
        try:
            await self._port.need(_NEED)
        except (NoCredentials, ApiError, OSError) as error:
            _log.warning("images are not served yet", error=str(error))
            return _LOOK_AGAIN
        return wait
