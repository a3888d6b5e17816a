"""Images on hosts: told when they are whole, kept where they are to be, removed everywhere when they are deleted."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog

from kumulus_agent.images.controller import import_status
from kumulus_agent.images.exchange import entitled
from kumulus_agent.images.kept import KeptImages
from kumulus_agent.migration.credentials import NoCredentials
from kumulus_agent.migration.host_port import HostPort
from kumulus_agent.servers.report import MANAGER
from kumulus_agent.storage.errors import StorageError
from kumulus_agent.storage.held_address import key_of
from kumulus_agent.storage.image_cache import CachedImage
from kumulus_agent.storage.image_store import ImageStore, owner_of
from kumulus_api import FINALIZER, Image, ServerAction
from kumulus_api.image import ImageReason, held_address
from kumulus_api.server_action import ENDED
from kumulus_runtime.api_client import ApiError, KubeClient, NotFound
from kumulus_runtime.conditions import get_condition
from kumulus_runtime.workqueue import WorkQueue

Key = tuple[str, str]
Object = dict[str, Any]
_NEED: Final = "images"
_LOOK_AGAIN: Final = 5.0

_log = structlog.stdlib.get_logger(__name__)


async def _nothing(_key: Key, _of: object) -> None:
    """Have no store but hosts."""


class HeldImages:
    """One reconcile per Image, on all hosts: any may have a copy, or be asked for one.

    Args:
        client: to reach the API server.
        cache: where the bytes are.
        port: open while there is something for others.
        kept: those that stay here.
        copying: tells whether a copy for an Image goes on here.
    """

    def __init__(
        self, client: KubeClient, cache: ImageStore, port: HostPort, kept: KeptImages, copying: Callable[[Key], bool]
    ) -> None:
        self.put: Callable[[Key, CachedImage], Awaitable[None]] = _nothing
        """Puts an image where it is kept, before it is told."""
        self.find: Callable[[Key, Object], Awaitable[str | None]] = _nothing
        """Gives the digest of what is there without a host."""
        self.remove: Callable[[Key, Object], Awaitable[None]] = _nothing
        """Removes it from there."""
        self.clear: Callable[[Key, Object], Awaitable[None]] = _nothing
        """Ends the making of an Image of a volume, and removes what it has left."""
        self._client = client
        self._node = kept.node
        self._kept = kept
        self._cache = cache
        self._port = port
        self._copying = copying
        self._seen: dict[Key, Object] = {}
        self._kept_for_disks: dict[Key, set[str]] = {}
        self.queue: WorkQueue[Key] = WorkQueue("held-images")

    async def follow(self) -> None:
        """Watch them; never returns."""
        async for event, body in self._client.watch(Image):
            if event == "SYNCED":
                for key in {key_of(address) for address in await self._cache.held()} - self._seen.keys():
                    self.queue.add(key)
                await self._kept.refresh()
                continue
            key = (body["metadata"]["namespace"], body["metadata"]["name"])
            if event == "DELETED":
                if self._seen.pop(key, None) is None and held_address(*key) not in await self._cache.held():
                    continue
            elif key in self._seen or await self._concerns(key, body):
                body["metadata"].pop("managedFields", None)
                self._seen[key] = body
            else:
                continue
            self.queue.add(key)

    async def _concerns(self, key: Key, body: Object) -> bool:
        """Give whether an Image may ever be of interest here: of others only the name would be remembered."""
        spec, status = body["spec"], body.get("status") or {}
        if "server" in spec["source"] or "prePull" in spec or self._kept.wants(body):
            return True
        return status.get("importHost") == self._node or held_address(*key) in await self._cache.held()

    def host_changed(self) -> None:
        """Look again at images that are for some hosts, by what their Hosts bear."""
        for key, body in self._seen.items():
            if "prePull" in body["spec"]:
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
            try:
                await self._gone(key)
            except StorageError as error:
                _log.warning("image not removed", namespace=key[0], name=key[1], error=str(error))
                wait = _LOOK_AGAIN
        else:
            mine = (body.get("status") or {}).get("importHost") == self._node
            waits = [
                await self._hold(key, body) if mine and "server" in body["spec"]["source"] else None,
                await self._kept.look(key, body),
            ]
            wait = min((seconds for seconds in waits if seconds is not None), default=None)
        await self._kept.refresh()
        return await self._offer(wait)

    async def _hold(self, key: Key, body: Object) -> float | None:
        ready = get_condition((body.get("status") or {}).get("conditions") or [], "Ready") or {}
        if ready.get("status") == "True" or ready.get("reason") == ImageReason.NOT_HELD:
            return None
        try:
            image = await self._cache.owned(owner_of(key)) or await self._found(key, body)
            if image is not None:
                await self.tell(body, image)
                return None
        except StorageError as error:
            _log.warning("image not told", namespace=key[0], name=key[1], error=str(error))
            return _LOOK_AGAIN
        if self._copying(key) or await self._comes(key[0], body):
            return _LOOK_AGAIN
        message = f"host {self._node} has no copy of the disk, and no action makes one; permanent: the image goes"
        await self._write(body, import_status(body, ImageReason.NOT_HELD, message))
        return None

    async def _found(self, key: Key, body: Object) -> CachedImage | None:
        """Fetch what a bucket has of an Image that the API tells nothing of, as after a restore."""
        digest = await self.find(key, body)
        if digest is None:
            return None
        return await self._cache.ensure(held_address(*key), digest, "qcow2", self._kept.size_limit)

    async def _comes(self, namespace: str, body: Object) -> bool:
        """Ask whether the action that makes the image is open, or will be."""
        uid = body["spec"]["source"]["server"]["action"]
        actions, _ = await self._client.list(ServerAction, namespace=namespace)
        found = [item.get("status") or {} for item in actions if item["metadata"]["uid"] == uid]
        words = [(status.get("phase"), (status.get("report") or {}).get("outcome")) for status in found]
        return any(not ENDED & set(word) for word in words)

    async def stored(self, body: Object, image: CachedImage) -> None:
        """Have an image that was imported here where it is kept, before anybody is told of it.

        Raises:
            StoreFailed: it could not be put there.
        """
        key = (body["metadata"]["namespace"], body["metadata"]["name"])
        await self.put(key, image)
        await self._kept.claim(body, image)
        await self._offer(None)
        self.queue.add(key)

    async def tell(self, body: Object, image: CachedImage) -> bool:
        """Say that an image is whole and here; give whether there still is one to say it of.

        Raises:
            StorageError: it could not be put where it is kept.
        """
        await self.put((body["metadata"]["namespace"], body["metadata"]["name"]), image)
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

        Copies of what another host holds can be had anew, or are of no use. What this host keeps and cannot be had anew
        goes only if a live read shows that its deletion was asked for.
        """
        live = await self._client.get(Image, key[1], key[0])
        deleting = live is not None and "deletionTimestamp" in live["metadata"]
        if live is not None and not deleting:
            return
        if live is not None and (live.get("status") or {}).get("importHost") == self._node:
            await self.clear(key, live)
        digests = await self._kept.gone(key, live)
        # Of what it shared with another image nothing shows from now on that it was this one's.
        left = self._kept_for_disks.setdefault(key, set())
        left |= digests | (await self._cache.held()).get(held_address(*key), set())
        for digest in tuple(left):
            asked = time.time()
            # A guest that migrates to here lies on it before its Server says so.
            needed = await entitled(self._client, self._node, digest)
            if not needed and await self._cache.unneeded(digest, since=asked):
                _log.info("image removed", namespace=key[0], name=key[1], digest=digest)
                left.discard(digest)
        if not left:
            del self._kept_for_disks[key]
        status = (live or {}).get("status") or {}
        # The object stays until no host says any more that it has the bytes.
        others = set(status.get("replicas") or []) - {self._node}
        if live is not None and status.get("importHost") == self._node and not others:
            await self.remove(key, live)
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
