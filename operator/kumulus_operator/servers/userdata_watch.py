"""See Secrets and ConfigMaps change for which servers wait: by their metadata, and only while somebody waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from kumulus_operator.views import Key
from kumulus_operator.waiting import Need
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.resources import CONFIGMAP, SECRET

_RESOURCES = {resource.kind: resource for resource in (SECRET, CONFIGMAP)}

Place = tuple[str, str]
"""Kind and namespace that are watched together."""


def has_unwatched(needs: Collection[Need], awaited: Collection[Need]) -> bool:
    """Give whether something is waited for now that was read before anybody waited for it (pure).

    It may have changed in between, so that it has to be read once more.
    """
    return any(need[0] in _RESOURCES and need not in awaited for need in needs)


class UserDataWatch:
    """One watch for each namespace and kind in which a server waits for user data.

    Args:
        client: to reach the API server.
        wake: called with what has changed.
    """

    def __init__(self, client: KubeClient, wake: Callable[[Need], None]) -> None:
        self._client = client
        self._wake = wake
        self._places: dict[Key, frozenset[Place]] = {}
        self._watches: dict[Place, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Watch what is followed until `stop` is set."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                await stop.wait()
                self._group = None
                for watch in self._watches.values():
                    watch.cancel()
        finally:
            self._group = None
            self._watches.clear()

    def follow(self, server: Key, needs: Collection[Need]) -> None:
        """Replace what a server waits for; needs of other kinds are passed over, none ends the server's waiting."""
        places = frozenset((kind, namespace) for kind, namespace, _ in needs if kind in _RESOURCES)
        if places == self._places.get(server, frozenset()):
            return
        former = self._places.pop(server, frozenset())
        if places:
            self._places[server] = places
        for place in former - places:
            self._end_unless_wanted(place)
        for place in places:
            if place not in self._watches and self._group is not None:
                self._watches[place] = self._group.create_task(self._watch(place))

    def watched(self) -> frozenset[Place]:
        """Give what is being watched."""
        return frozenset(self._watches)

    def _end_unless_wanted(self, place: Place) -> None:
        if not any(place in places for places in self._places.values()):
            watch = self._watches.pop(place, None)
            if watch is not None:
                watch.cancel()

    async def _watch(self, place: Place) -> None:
        kind, namespace = place
        async for event, body in self._client.watch_metadata(_RESOURCES[kind], namespace=namespace):
            if event in ("ADDED", "MODIFIED"):
                self._wake((kind, namespace, body["metadata"]["name"]))
