"""An API server of which an agent sees objects, and nothing else: what a test puts there is watched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

Body = dict[str, Any]
_Key = tuple[str, str, str]


@dataclass
class WatchedObjects:
    """Objects by kind, namespace and name; a watch shows those of its kind, namespace and field selector."""

    objects: dict[_Key, Body] = field(default_factory=dict)
    statuses: list[Body] = field(default_factory=list)
    """All that were written."""
    withheld: dict[str, asyncio.Event] = field(default_factory=dict)
    """Kinds of which nothing is told before an event."""
    watchers: list[tuple[str, str | None, str, asyncio.Queue[tuple[str, Body]]]] = field(default_factory=list)

    def put(self, kind: str, name: str, spec: Body, namespace: str = "red") -> None:
        """Create or replace an object."""
        key = (kind, namespace, name)
        former = self.objects.get(key)
        metadata = {"name": name, "namespace": namespace, "uid": f"{kind}/{namespace}/{name}"}
        body = {"metadata": metadata, "spec": spec, "status": (former or {}).get("status", {})}
        self.objects[key] = body
        self._tell(key, former, body)

    async def apply_status(self, kind: Any, body: Body, **_: Any) -> Body:
        """Take a status of one writer, whose former one it replaces."""
        key = (kind.__name__, body["metadata"]["namespace"], body["metadata"]["name"])
        former = self.objects[key]
        self.objects[key] = former | {"status": body["status"]}
        self.statuses.append(body["status"])
        self._tell(key, former, self.objects[key])
        return self.objects[key]

    def delete(self, kind: str, name: str, namespace: str = "red") -> None:
        """Delete it."""
        key = (kind, namespace, name)
        self._tell(key, self.objects.pop(key), None)

    def _tell(self, key: _Key, former: Body | None, body: Body | None) -> None:
        for kind, namespace, selector, queue in self.watchers:
            if kind != key[0] or namespace not in (None, key[1]):
                continue
            was, is_now = (found is not None and _selected(found, selector) for found in (former, body))
            if is_now and body is not None:
                queue.put_nowait(("MODIFIED" if was else "ADDED", body))
            elif was and former is not None:
                queue.put_nowait(("DELETED", former))

    async def watch(
        self, kind: Any, *, namespace: str | None = None, field_selector: str = "", **_: Any
    ) -> AsyncIterator[tuple[str, Body]]:
        """List, then watch, as KubeClient does."""
        if kind.__name__ in self.withheld:
            await self.withheld[kind.__name__].wait()
        queue: asyncio.Queue[tuple[str, Body]] = asyncio.Queue()
        watcher = (kind.__name__, namespace, field_selector, queue)
        self.watchers.append(watcher)
        try:
            for (of, where, _name), body in list(self.objects.items()):
                if of == kind.__name__ and namespace in (None, where) and _selected(body, field_selector):
                    yield "ADDED", body
            yield "SYNCED", {}
            while True:
                yield await queue.get()
        finally:
            with suppress(ValueError):
                self.watchers.remove(watcher)


def _selected(body: Body, selector: str) -> bool:
    if not selector:
        return True
    path, _, value = selector.partition("=")
    found: Any = body
    for part in path.split("."):
        found = (found or {}).get(part)
    return bool((str(found).lower() if isinstance(found, bool) else found) == value)
