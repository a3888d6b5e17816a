"""Which namespaces are watched for user data."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from kumulus_operator.servers.userdata_watch import UserDataWatch, has_unwatched
from kumulus_operator.waiting import CAPACITY, Need


class _Changes:
    """A client whose watches show one object and are then silent."""

    def __init__(self) -> None:
        self.open: list[tuple[str, str]] = []

    async def watch_metadata(self, kind: Any, *, namespace: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        place = (kind.kind, namespace)
        self.open.append(place)
        try:
            yield "ADDED", {"metadata": {"name": "boot"}}
            yield "SYNCED", {}
            await asyncio.Event().wait()
        finally:
            self.open.remove(place)


async def test_a_namespace_is_watched_while_servers_wait_there() -> None:
    """One watch serves all servers of a namespace; it ends with the last that waits, and with the process."""
    source, stop, woken = _Changes(), asyncio.Event(), list[Need]()
    watch = UserDataWatch(source, woken.append)  # type: ignore[arg-type]
    running = asyncio.create_task(watch.run(stop))
    await asyncio.sleep(0)
    need = ("Secret", "demo", "boot")
    watch.follow(("demo", "a"), {need})
    watch.follow(("demo", "b"), {need, CAPACITY})
    watch.follow(("demo", "c"), {CAPACITY})
    await asyncio.sleep(0.01)
    assert (source.open, woken) == ([("Secret", "demo")], [need])
    watch.follow(("demo", "a"), ())
    await asyncio.sleep(0.01)
    assert source.open == [("Secret", "demo")]
    watch.follow(("demo", "b"), {("ConfigMap", "demo", "boot")})
    await asyncio.sleep(0.01)
    assert source.open == [("ConfigMap", "demo")]
    watch.follow(("demo", "b"), ())
    await asyncio.sleep(0.01)
    assert (source.open, watch.watched()) == ([], frozenset())
    watch.follow(("demo", "b"), {need})
    await asyncio.sleep(0.01)
    stop.set()
    await asyncio.wait_for(running, 1)
    assert source.open == []


def test_what_was_read_before_it_was_awaited_is_read_again() -> None:
    """A Secret that comes between a look and the waiting for it is found; what was awaited costs no second look."""
    need = ("Secret", "demo", "key")
    assert has_unwatched({need, CAPACITY}, {CAPACITY})
    assert not has_unwatched({need, CAPACITY}, {need})
    assert not has_unwatched({CAPACITY, ("Volume", "demo", "v")}, ())
