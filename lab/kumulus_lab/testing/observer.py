"""Observers: a watch armed before the act, that fails at the first breach of what shall always hold."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from kumulus_lab.testing.cloud import Breach, Cloud, Object
from kumulus_runtime.api_client import KindRef
from kumulus_runtime.resources import resource_of

Key = tuple[str, str]
"""Namespace and name."""
Objects = dict[Key, Object]


class Observer:
    """Follows all objects of a kind from its entry to its exit.

    Args:
        cloud: to watch.
        kind: of what.
        namespace: only there; everywhere without.
        label_selector: only those.
        always: looks at all objects after each event and gives what is wrong, or nothing.
    """

    def __init__(
        self,
        cloud: Cloud,
        kind: KindRef,
        *,
        namespace: str | None = None,
        label_selector: str = "",
        always: Callable[[Objects], str | None] = lambda _: None,
    ) -> None:
        self._cloud = cloud
        self._kind = kind
        self._namespace = namespace
        self._label_selector = label_selector
        self._always = always
        self._changed = asyncio.Condition()
        self._synced = False
        self._breach: str | None = None
        self.objects: Objects = {}

    async def __aenter__(self) -> Self:
        """Begin, and return when what is there has been seen."""
        self._task = asyncio.create_task(self._follow())
        await self.eventually(lambda _: self._synced, "the first list", 30)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End.

        Raises:
            Breach: something did not always hold.
        """
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if error is None:
            self._check()

    async def eventually(self, holds: Callable[[Objects], bool], what: str, seconds: float = 60) -> Objects:
        """Wait until all objects together are as wanted, and give them.

        Args:
            holds: says whether they are.
            what: is waited for, for the message.
            seconds: how long.

        Raises:
            Breach: they were not in time, or something did not always hold.
        """
        try:
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait_for(lambda: self._breach or self._task.done() or holds(self.objects))
        except TimeoutError as error:
            raise Breach(f"{resource_of(self._kind).kind}: not within {seconds} s: {what}") from error
        self._check()
        return dict(self.objects)

    def _check(self) -> None:
        if self._breach:
            raise Breach(self._breach)
        if self._task.done() and not self._task.cancelled():
            self._task.result()

    async def _follow(self) -> None:
        try:
            async for event, body in self._cloud.client.watch(
                self._kind, namespace=self._namespace, label_selector=self._label_selector
            ):
                await self._take(event, body)
        finally:
            async with self._changed:
                self._changed.notify_all()

    async def _take(self, event: str, body: Object) -> None:
        if event == "SYNCED":
            self._synced = True
        elif event in ("ADDED", "MODIFIED", "DELETED"):
            key = (body["metadata"].get("namespace", ""), body["metadata"]["name"])
            if event == "DELETED":
                self.objects.pop(key, None)
            else:
                self.objects[key] = body
        async with self._changed:
            if self._synced:
                self._breach = self._breach or self._always(self.objects)
            self._changed.notify_all()
