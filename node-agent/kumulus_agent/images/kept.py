"""Images that this host keeps: as one of a store's hosts, or so that they are here before a server needs them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog

from kumulus_agent import metrics
from kumulus_agent.storage.errors import HolderAway, Retryable, StorageError, Terminal
from kumulus_agent.storage.image_cache import CachedImage
from kumulus_agent.storage.image_store import ImageStore, key_of_owner, owner_of
from kumulus_agent.storage.inspection import source_format
from kumulus_api import GROUP, VERSION, Image
from kumulus_api.aggregate import HostSelector
from kumulus_api.image import held_address
from kumulus_api.image_store import MOST_KEPT, KeptImage
from kumulus_runtime.api_client import ApiError, KubeClient
from kumulus_runtime.conditions import get_condition
from kumulus_runtime.events import EventRecorder

Key = tuple[str, str]
Object = dict[str, Any]
_AT_ONCE: Final = 2
_FIRST_PAUSE: Final = 2.0
_LAST_PAUSE: Final = 300.0
_LOOK_AGAIN: Final = 5.0

_log = structlog.stdlib.get_logger(__name__)


def digest_of(body: Object) -> str | None:
    """Give the digest of the file that hosts use of an Image, if it is Ready (pure)."""
    status = body.get("status") or {}
    ready = get_condition(status.get("conditions") or [], "Ready") or {}
    if ready.get("status") != "True":
        return None
    digest: str | None = (status.get("stored") or {}).get("digest") or status.get("digest")
    return digest


def is_for(body: Object, node: str, labels: Mapping[str, str]) -> bool:
    """Give whether a host is to keep an Image: it is named, or pulls it beforehand (pure)."""
    spec = body["spec"]
    if node in ((spec.get("assignment") or {}).get("hosts") or []):
        return True
    wish = spec.get("prePull")
    selector = (wish or {}).get("hostSelector")
    return wish is not None and (selector is None or HostSelector.model_validate(selector).takes(node, labels))


def can_be_had_anew(body: Object) -> bool:
    """Give whether an Image's bytes come from where they still are: no host, user or other Image (pure)."""
    return not {"url", "s3"}.isdisjoint(body["spec"]["source"])


class KeptImages:
    """Fetches what this host is to keep, and lets go of what it need not.

    Args:
        client: to reach the API server.
        node: this host's name.
        cache: where the bytes are.
        events: takes what went wrong.
        size_limit: bytes that an image's disk may have.
    """

    def __init__(
        self, client: KubeClient, node: str, cache: ImageStore, events: EventRecorder, size_limit: int
    ) -> None:
        self._client = client
        self.node = node
        self._cache = cache
        self._events = events
        self.size_limit = size_limit
        self._fetching: dict[Key, asyncio.Task[None]] = {}
        self._failures: dict[Key, int] = {}
        self._missing_since: dict[Key, float] = {}
        self._due: dict[Key, float] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._untold: set[tuple[Key, str]] = set()
        self._kept: tuple[KeptImage, ...] | None = None
        self.host: Callable[[], Object] = dict
        """Gives the own Host."""
        self.changed: Callable[[], None] = lambda: None
        """Has the own Host told anew."""
        self.again: Callable[[Key], None] = lambda _key: None
        """Has an Image looked at."""
        metrics.IMAGES_TO_FETCH.set_function(lambda: len(self._missing_since))
        metrics.IMAGE_LAG.set_function(self.lag)

    def told(self) -> tuple[KeptImage, ...] | None:
        """Give what the Host says that it keeps; None before it was looked for."""
        return self._kept

    def lag(self) -> float:
        """Give for how many seconds the oldest image has been wanted here that is not here."""
        return time.monotonic() - min(self._missing_since.values()) if self._missing_since else 0.0

    def wants(self, body: Object) -> bool:
        """Give whether this host is to keep an Image."""
        return is_for(body, self.node, self.host().get("metadata", {}).get("labels") or {})

    async def refresh(self) -> None:
        """Look what is kept; have the Host tell it if it is something else than before."""
        now = [
            KeptImage(namespace=key[0], name=key[1], digest=digest)
            for owner, digests in sorted((await self._cache.kept()).items())
            for key in (key_of_owner(owner),)
            for digest in sorted(digests)
        ]
        del now[MOST_KEPT:]  # the operator gives what it does not hear of to others
        if self._kept is None or tuple(now) != self._kept:
            self._kept = tuple(now)
            self.changed()
        listed = (self.host().get("status") or {}).get("images") or []
        self._untold -= {((item["namespace"], item["name"]), item["digest"]) for item in listed}

    async def claim(self, body: Object, image: CachedImage) -> None:
        """Keep what was imported here before it is told, if this host is to: then one host has it in any case.

        Raises:
            Retryable: it went as it came, with another Image of the same bytes.
        """
        key = (body["metadata"]["namespace"], body["metadata"]["name"])
        if self.wants(body):
            if not await self._cache.keep(image.digest, owner_of(key, anew=can_be_had_anew(body))):
                raise Retryable(f"image {key[0]}/{key[1]}: its file was removed as it came")
            await self.refresh()

    async def close(self) -> None:
        """Fetch no more; what came is resumed by the next agent."""
        tasks = list(self._fetching.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def look(self, key: Key, body: Object) -> float | None:
        """Bring one Image that is not being deleted to what it should be here.

        Returns:
            Seconds after which to look again, if any.
        """
        owner, digest = owner_of(key, anew=can_be_had_anew(body)), digest_of(body)
        if digest is None:
            return None
        have = (await self._cache.kept()).get(owner, set())
        if can_be_had_anew(body):
            for former in have - {digest}:  # of another Image that had this name
                await self._cache.release(owner, former)
        if not self.wants(body):
            self._forget(key)
            if digest in have and await self._others_have_it(key, body):
                await self._cache.release(owner, digest)
                await self._cache.evict()
                _log.info("image is kept no longer", namespace=key[0], name=key[1], digest=digest)
            return None
        if digest in have:
            self._forget(key)
            return None
        self._missing_since.setdefault(key, time.monotonic())
        wait = self._due.get(key, 0.0) - time.monotonic()
        if wait > 0:
            return wait
        if key not in self._fetching:
            task = self._fetching[key] = asyncio.create_task(self._fetch(key, body, digest, owner))
            task.add_done_callback(lambda _: self._fetched(key))
        return None

    async def gone(self, key: Key, live: Object | None) -> set[str]:
        """Let go of an Image that is not there any more, or is being deleted.

        Args:
            key: its namespace and name.
            live: as the API has it now: with a time of deletion, or None, which proves only that it is not to be had.

        Returns:
            The digests of what it has kept until now.
        """
        self._forget(key)
        kept, anew, owner = await self._cache.kept(), owner_of(key, anew=True), owner_of(key)
        await self._cache.release(anew)
        if live is not None:
            await self._cache.release(owner)
            return kept.get(anew, set()) | kept.get(owner, set())
        # Nobody has heard of a copy that was made while the deletion went on.
        unheard = {digest for image, digest in self._untold if image == key}
        for digest in unheard:
            await self._cache.release(owner, digest)
        return kept.get(anew, set()) | unheard

    def _forget(self, key: Key) -> None:
        self._failures.pop(key, None)
        self._due.pop(key, None)
        self._missing_since.pop(key, None)

    def _fetched(self, key: Key) -> None:
        self._fetching.pop(key, None)
        self.again(key)

    async def _others_have_it(self, key: Key, body: Object) -> bool:
        """Ask the API whether this host's copy is one too many: all that are named have told that they have theirs."""
        live = await self._client.get(Image, key[1], key[0])
        if live is None or "deletionTimestamp" in live["metadata"] or self.wants(live):
            return False
        if live["metadata"]["uid"] != body["metadata"]["uid"]:
            return False
        given = live["spec"].get("assignment") or {}
        named = set(given.get("hosts") or [])
        told = set((live.get("status") or {}).get("replicas") or [])
        return given.get("store") == "S3" or (bool(named) and named <= told)

    async def _fetch(self, key: Key, body: Object, digest: str, owner: str) -> None:
        async with self._slots:
            try:
                await self._bytes(key, body, digest)
                if not await self._cache.keep(digest, owner):
                    raise Retryable(f"image {owner}: it was evicted as it came")
                self._untold.add((key, digest))
                live = await self._client.get(Image, key[1], key[0])
            except (StorageError, ApiError, OSError) as error:
                self._failed(key, body, error)
                return
        wanted = live is not None and live["metadata"]["uid"] == body["metadata"]["uid"] and self.wants(live)
        if not wanted or "deletionTimestamp" in (live or body)["metadata"]:
            # It was asked for no more when it came: nobody was told of it. The watch will say so, too.
            await self._cache.release(owner, digest)
            self._due[key] = time.monotonic() + _LOOK_AGAIN
            return
        self._forget(key)
        _log.info("image is kept", namespace=key[0], name=key[1], digest=digest)

    async def _bytes(self, key: Key, body: Object, digest: str) -> None:
        status, source, given = body.get("status") or {}, body["spec"]["source"], body["spec"]["format"]
        file_format = source_format((status.get("stored") or {}).get("format") or given)
        try:
            await self._cache.ensure(held_address(*key), digest, file_format, self.size_limit)
        except HolderAway:
            url, mirrors = source.get("url"), source.get("mirrors") or ()
            first = ((body["spec"].get("assignment") or {}).get("hosts") or [""])[0]
            if url is None or status.get("replicas") or first != self.node:
                raise
            # No host has it: it was imported before there was a store, or by a host that is no more. One asks the
            # source, and the others it.
            found = await self._cache.ensure(url, status.get("digest"), source_format(given), self.size_limit, mirrors)
            if found.digest != digest:
                raise HolderAway(f"{url} gives other bytes than {digest}, which no host has any more") from None

    def _failed(self, key: Key, body: Object, error: Exception) -> None:
        count = self._failures[key] = self._failures.get(key, 0) + 1
        pause = _LAST_PAUSE if isinstance(error, Terminal) else min(_LAST_PAUSE, _FIRST_PAUSE * 2.0 ** min(count, 10))
        self._due[key] = time.monotonic() + pause
        _log.warning("image not fetched", namespace=key[0], name=key[1], error=str(error), retry_in=pause)
        metadata = {"namespace": key[0], "name": key[1], "uid": body["metadata"]["uid"]}
        about = {"apiVersion": f"{GROUP}/{VERSION}", "kind": "Image", "metadata": metadata}
        self._events.post(about, "NotReplicated", f"host {self.node}: {error}", warning=True)
