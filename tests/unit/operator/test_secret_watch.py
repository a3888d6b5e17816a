"""Which namespaces are watched for Secrets and ConfigMaps, and who looks again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from kumulus_operator.secret_watch import SecretWatch
from kumulus_operator.views import Key
from kumulus_operator.waiting import CAPACITY, Need

NEED: Need = ("Secret", "demo", "boot")


class _Changes:
    """A client whose watches show one object, and then what is told."""

    def __init__(self) -> None:
        self.open: list[tuple[str, str]] = []
        self.told: asyncio.Queue[str] = asyncio.Queue()

    async def watch_metadata(self, kind: Any, *, namespace: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        place = (kind.kind, namespace)
        self.open.append(place)
        try:
            yield "ADDED", {"metadata": {"name": "boot"}}
            yield "SYNCED", {}
            while True:
                yield "ADDED", {"metadata": {"name": await self.told.get()}}
        finally:
            self.open.remove(place)


@asynccontextmanager
async def _watching(source: _Changes, looks: list[Key]) -> AsyncIterator[SecretWatch]:
    """Run a watch for a while; at its end nothing is watched."""
    stop = asyncio.Event()
    watch = SecretWatch(source, looks.append)  # type: ignore[arg-type]
    running = asyncio.create_task(watch.run(stop))
    await asyncio.sleep(0)
    yield watch
    stop.set()
    await asyncio.wait_for(running, 1)
    assert source.open == []


async def test_a_namespace_is_watched_while_somebody_waits_there() -> None:
    """One watch serves all of a namespace; it ends with the last that waits, and with the process."""
    source = _Changes()
    async with _watching(source, []) as watch:
        watch.follow(("demo", "a"), {NEED})
        watch.follow(("demo", "b"), {NEED, CAPACITY})
        watch.follow(("demo", "c"), {CAPACITY})
        await asyncio.sleep(0.01)
        assert source.open == [("Secret", "demo")]
        watch.follow(("demo", "a"), ())
        await asyncio.sleep(0.01)
        assert source.open == [("Secret", "demo")]
        watch.follow(("demo", "b"), {("ConfigMap", "demo", "boot")})
        await asyncio.sleep(0.01)
        assert source.open == [("ConfigMap", "demo")]
        watch.follow(("demo", "b"), ())
        await asyncio.sleep(0.01)
        assert (source.open, watch.watched()) == ([], frozenset())
        watch.follow(("demo", "b"), {NEED})
        await asyncio.sleep(0.01)


async def test_who_waits_looks_again_and_nobody_else() -> None:
    """A Secret that comes is seen by those that wait for it, however often they were looked at meanwhile."""
    source, looks = _Changes(), list[Key]()
    key, other = ("demo", "a"), ("demo", "b")
    async with _watching(source, looks) as watch:
        watch.follow(key, {("Secret", "demo", "late")})
        watch.follow(other, {("Secret", "demo", "other")})
        await asyncio.sleep(0.01)
        looks.clear()
        watch.follow(key, {("Secret", "demo", "late"), CAPACITY})
        assert not looks
        source.told.put_nowait("late")
        await asyncio.sleep(0.01)
        assert looks == [key]


async def test_what_was_read_before_it_was_awaited_is_read_again() -> None:
    """What is waited for anew may have come since it was read, where a watch has told of it already, too."""
    source, looks = _Changes(), list[Key]()
    async with _watching(source, looks) as watch:
        watch.follow(("demo", "a"), {("Secret", "demo", "one")})
        await asyncio.sleep(0.01)
        looks.clear()
        watch.follow(("demo", "b"), {("Secret", "demo", "two"), CAPACITY})
        assert looks == [("demo", "b")]
        watch.follow(("demo", "b"), {("Secret", "demo", "two")})
        watch.follow(("demo", "c"), {CAPACITY, ("Volume", "demo", "v")})
        watch.follow(("demo", "b"), ())
        assert looks == [("demo", "b")]
