"""An API server as an agent's watches see it: a test says what is there, and what it does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from kumulus_api import Kind

Object = dict[str, Any]


class ShownApi:
    """Objects that are watched by name, or all of a kind; a watch of what is withheld is never answered."""

    def __init__(self) -> None:
        self._objects: dict[tuple[str, str, str], Object] = {}
        self._watches: list[tuple[str, str | None, str, asyncio.Queue[tuple[str, Object]]]] = []
        self.withheld: set[str] = set()
        """Names of objects."""

    def show(self, kind: type[Kind], name: str, namespace: str, spec: Object) -> None:
        """Make an object, or change it."""
        key = (kind.__name__, namespace, name)
        event = "MODIFIED" if key in self._objects else "ADDED"
        self._objects[key] = body = {"metadata": {"name": name, "namespace": namespace}, "spec": spec}
        self._tell(key, event, body)

    def remove(self, kind: type[Kind], name: str, namespace: str) -> None:
        """Delete an object."""
        key = (kind.__name__, namespace, name)
        self._tell(key, "DELETED", self._objects.pop(key))

    def _tell(self, key: tuple[str, str, str], event: str, body: Object) -> None:
        for kind, namespace, name, events in self._watches:
            if kind == key[0] and namespace in (None, key[1]) and name in ("", key[2]):
                events.put_nowait((event, body))

    async def watch(
        self, kind: type[Kind], *, namespace: str | None = None, field_selector: str = ""
    ) -> AsyncIterator[tuple[str, Object]]:
        """Show what is there, then what changes."""
        selected = field_selector.removeprefix("metadata.name=")
        name = selected if selected != field_selector else ""
        if name in self.withheld:
            await asyncio.Event().wait()
        events: asyncio.Queue[tuple[str, Object]] = asyncio.Queue()
        watch = (kind.__name__, namespace, name, events)
        for (found, place, called), body in self._objects.items():
            if found == kind.__name__ and namespace in (None, place) and name in ("", called):
                events.put_nowait(("ADDED", body))
        events.put_nowait(("SYNCED", {}))
        self._watches.append(watch)
        try:
            while True:
                yield await events.get()
        finally:
            self._watches.remove(watch)
