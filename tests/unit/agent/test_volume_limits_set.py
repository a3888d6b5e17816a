"""When a host sets the limits of volumes in guests that run."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from kumulus_agent.volumes.controller import VolumeController
from kumulus_agent.volumes.place import Place
from kumulus_agent.volumes.shelves import Shelves
from kumulus_api import Server
from kumulus_api.testing import VOLUME_ID, make_assigned
from kumulus_api.volume_limits import AssignedLimits
from kumulus_runtime.store import Store

FAST, SLOW = AssignedLimits(total_iops=900), AssignedLimits(total_iops=9)


async def test_limits_are_set_once_for_each_change() -> None:
    """An agent that was just started sets what it is told, again only what differs, and nothing for no server."""
    calls: list[tuple[str, str, AssignedLimits | None]] = []

    async def tune(*what: Any) -> None:
        calls.append(what)

    store = Store()
    body = make_assigned(Server, "web", "h1")
    store.apply("ADDED", body | {"kind": "Server"})
    taker: Any = SimpleNamespace(shelves=Shelves(), guests=SimpleNamespace(tune=tune))
    unused: Any = None
    controller = VolumeController("h1", unused, store, unused, taker, unused)
    instance = body["spec"]["assignment"]["instanceID"]
    held = Place(("demo", "data"), VOLUME_ID, "h1", 1 << 20, attached_to="web", limits=FAST)
    for place in (
        held,
        held,
        replace(held, limits=SLOW),
        replace(held, attached_to=""),
        held,
        replace(held, limits=None),
    ):
        await controller._tune(place)
    assert [(who, what) for who, what, _ in calls] == [(instance, VOLUME_ID)] * 4
    assert [limits for *_, limits in calls] == [FAST, SLOW, FAST, None]
