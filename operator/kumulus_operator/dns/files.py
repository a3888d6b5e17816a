"""Keep zone files in ConfigMaps, which the name servers have mounted."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import structlog

from kumulus_operator.dns.shards import NoRoom, Placed, plan_shards
from kumulus_operator.dns.zonefile import Authority, Entry, next_serial, render, serial_of
from kumulus_operator.metrics import ZONE_WRITES
from kumulus_operator.views import version_of
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.errors import NotFound
from kumulus_runtime.resources import CONFIGMAP

LABEL = "kumulus.dev/zones"
"""On the ConfigMaps of zone files."""
PREFIX = "kumulus-zones-"
"""How their names begin; their number follows."""
_ENDING = ".zone"
"""A key of such a ConfigMap is the zone's domain, without its last dot, and this."""
_NAME = re.compile(rf"{PREFIX}(0|[1-9][0-9]*)")

_LOG = structlog.stdlib.get_logger(__name__)


class ZoneFiles:
    """All zone files by domain. What several zones change at once goes in one write for each ConfigMap.

    Args:
        client: to reach the API server.
        namespace: of the ConfigMaps.
        shards: how many there may be.
        changed: called with the domain of a zone file that was there at the start, or that somebody else has changed.
    """

    def __init__(self, client: KubeClient, namespace: str, shards: int, changed: Callable[[str], None]) -> None:
        self._client = client
        self._namespace = namespace
        self._shards = shards
        self._changed = changed
        self._maps: dict[int, dict[str, Placed]] = {}
        self._versions: dict[int, int] = {}
        self._listed = asyncio.Event()
        self._pending: dict[str, str | None] = {}
        self._homeless: set[str] = set()
        self._writing = asyncio.Lock()

    @property
    def state(self) -> str:
        """A short text that is another whenever a zone file is."""
        files = sorted(
            (shard, name, item.digest) for shard, known in self._maps.items() for name, item in known.items()
        )
        return _digest(repr(files))[:16]

    async def run(self) -> None:
        """Watch the ConfigMaps for ever; without a name server there are none."""
        if self._shards == 0:
            return
        watch = self._client.watch(CONFIGMAP, namespace=self._namespace, label_selector=f"{LABEL}=true")
        async for event, body in watch:
            if event == "SYNCED":
                self._listed.set()
                continue
            for domain in self._take(body, deleted=event == "DELETED"):
                self._changed(domain)

    async def ensure(self, authority: Authority, entries: Iterable[Entry], known: int | None) -> int | None:
        """Bring one zone file up to date.

        Args:
            authority: what the zone says of itself.
            entries: what is in it.
            known: a serial that it had before, as far as known.

        Returns:
            The serial of the zone file, which stays if nothing else changes; None if there is no room for it.
        """
        await self._listed.wait()
        entries = tuple(entries)
        places = self._places(authority.domain)
        if len(places) == 1 and places[0].serial is not None:
            text = await asyncio.to_thread(render, authority, entries, places[0].serial)
            if _digest(text) == places[0].digest:
                return places[0].serial
        serial = next_serial([placed.serial for placed in places] + [known], time.time())
        text = await asyncio.to_thread(render, authority, entries, serial)
        return serial if await self._put(authority.domain, text) else None

    async def absent(self, domain: str) -> None:
        """Take a zone file away; it is no error if there is none."""
        await self._listed.wait()
        if self._places(domain) or domain in self._pending:
            await self._put(domain, None)

    def _places(self, domain: str) -> list[Placed]:
        """Give where a zone file is: nowhere, in one place, or in two if a move was interrupted."""
        return [files[domain] for _, files in sorted(self._maps.items()) if domain in files]

    async def _put(self, domain: str, text: str | None) -> bool:
        """Write a zone file with all others that wait; give whether there was room for it."""
        self._homeless.discard(domain)
        self._pending[domain] = text
        async with self._writing:
            if domain in self._pending:
                await self._flush()
        return domain not in self._homeless

    async def _flush(self) -> None:
        batch = dict(self._pending)
        found = {domain: self._places(domain) for files in self._maps.values() for domain in files}
        chosen = self._choose(batch, found)
        first: dict[int, dict[str, str | None]] = defaultdict(dict)
        then: dict[int, dict[str, str | None]] = defaultdict(dict)
        for domain, text in batch.items():
            shard = chosen.get(domain)
            if shard is not None:
                first[shard][_key(domain)] = text
            for placed in found.get(domain, ()):
                if placed.shard != shard:
                    # A zone that moves is in two places for a moment, and never in none.
                    (first if shard is None else then)[placed.shard][_key(domain)] = None
        for writes in (first, then):
            for number, data in sorted(writes.items()):
                await self._write(number, data)
        for domain, text in batch.items():
            if self._pending.get(domain, "") == text:
                del self._pending[domain]

    def _choose(self, batch: dict[str, str | None], found: dict[str, list[Placed]]) -> dict[str, int]:
        """Give the ConfigMap of each zone file of a batch; those for which there is no room leave it."""
        while True:
            sizes = {name: None if text is None else len(text.encode()) for name, text in batch.items()}
            try:
                return plan_shards(sizes, found, self._shards)
            except NoRoom as error:
                self._homeless.add(error.domain)
                self._pending.pop(error.domain, None)
                del batch[error.domain]

    async def _write(self, shard: int, data: dict[str, str | None]) -> None:
        metadata = {"name": f"{PREFIX}{shard}", "namespace": self._namespace, "labels": {LABEL: "true"}}
        patch = {"metadata": {"labels": metadata["labels"]}, "data": data}
        try:
            body = await self._client.patch_merge(CONFIGMAP, f"{PREFIX}{shard}", patch, self._namespace)
        except NotFound:
            present = {key: text for key, text in data.items() if text is not None}
            body = await self._client.create(CONFIGMAP, {"metadata": metadata, "data": present})
        self._take(body)
        ZONE_WRITES.inc()
        _LOG.info("zone files written", configmap=f"{PREFIX}{shard}", zones=len(data))

    def _take(self, body: dict[str, Any], *, deleted: bool = False) -> set[str]:
        """Take a ConfigMap as seen; give the domains whose zone files are others than before."""
        name = _NAME.fullmatch(body["metadata"]["name"])
        if name is None or int(name[1]) >= self._shards:
            return set()
        shard, version = int(name[1]), version_of(body)
        if not deleted and version <= self._versions.get(shard, -1):
            return set()
        self._versions[shard] = max(version, self._versions.get(shard, -1))
        data = {} if deleted else body.get("data") or {}
        new = {_domain(key): _placed(shard, text) for key, text in data.items() if key.endswith(_ENDING)}
        old = self._maps.get(shard, {})
        self._maps[shard] = new
        return {domain for domain in old.keys() | new.keys() if old.get(domain) != new.get(domain)}


def _key(domain: str) -> str:
    return domain.removesuffix(".") + _ENDING


def _domain(key: str) -> str:
    return key.removesuffix(_ENDING) + "."


def _placed(shard: int, text: str) -> Placed:
    return Placed(shard, len(text.encode()), _digest(text), serial_of(text))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
