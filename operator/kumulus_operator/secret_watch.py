"""See Secrets and ConfigMaps change for which objects wait: by their metadata, and only while somebody waits."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterable

from kumulus_operator.views import Key
from kumulus_operator.waiting import Need, Waiters
from kumulus_runtime.api_client import KubeClient
from kumulus_runtime.resources import CONFIGMAP, SECRET

_RESOURCES = {resource.kind: resource for resource in (SECRET, CONFIGMAP)}

Place = tuple[str, str]
"""Kind and namespace that are watched together."""


class SecretWatch:
    """One watch for each namespace and kind in which an object waits for a Secret or a ConfigMap.

    What an object waits for stays so until `follow` says otherwise, also while the object is looked at.

    Args:
        client: to reach the API server.
        look: called with an object that has to be looked at again.
    """

    def __init__(self, client: KubeClient, look: Callable[[Key], None]) -> None:
        self._client = client
        self._look = look
        self._waiters = Waiters()
        self._waiting_in: Counter[Place] = Counter()
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

    def follow(self, key: Key, needs: Collection[Need]) -> None:
        """Replace what an object waits for; needs of other kinds are passed over, none ends its waiting.

        What it did not wait for until now may have changed since it was read, so that it is looked at once more.
        """
        wanted = frozenset(need for need in needs if need[0] in _RESOURCES)
        former = self._waiters.needs_of(key)
        if wanted == former:
            return
        self._waiters.settle(key, wanted)
        self._waiting_in.subtract(_places(former))
        self._waiting_in.update(_places(wanted))
        for place in _places(former) | _places(wanted):
            self._watch_if_wanted(place)
        if wanted - former:
            self._look(key)

    def watched(self) -> frozenset[Place]:
        """Give what is being watched."""
        return frozenset(self._watches)

    def _watch_if_wanted(self, place: Place) -> None:
        if self._waiting_in[place] and place not in self._watches and self._group is not None:
            self._watches[place] = self._group.create_task(self._watch(place))
        elif not self._waiting_in[place]:
            del self._waiting_in[place]
            watch = self._watches.pop(place, None)
            if watch is not None:
                watch.cancel()

    async def _watch(self, place: Place) -> None:
        kind, namespace = place
        async for event, body in self._client.watch_metadata(_RESOURCES[kind], namespace=namespace):
            if event in ("ADDED", "MODIFIED"):
                for key in self._waiters.woken_by((kind, namespace, body["metadata"]["name"])):
                    self._look(key)


def _places(needs: Iterable[Need]) -> frozenset[Place]:
    return frozenset((kind, namespace) for kind, namespace, _ in needs)
