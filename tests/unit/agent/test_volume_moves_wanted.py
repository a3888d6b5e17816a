"""When a volume may be copied while its guest writes, and what of a move is due."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kumulus_agent.servers.desired import Desired, DesiredVolume
from kumulus_agent.volumes.copying import may_copy
from kumulus_agent.volumes.place import Elsewhere, Place
from kumulus_api.server import PowerState

VOLUME = DesiredVolume("data", "data", "v", 1 << 20)


def make_desired(**overrides: object) -> Desired:
    """A server that shall run with the volume."""
    given: dict[str, object] = {
        "key": ("demo", "web"),
        "uid": "u",
        "generation": 1,
        "instance_id": "i",
        "epoch": 1,
        "vcpus": 1,
        "memory": 1 << 30,
        "root_disk": 1 << 30,
        "image": None,
        "ports": (),
        "volumes": (VOLUME,),
        "running": True,
        "restart_after_guest_shutdown": True,
        "key_pair": "",
        "user_data": "",
        "remote_user_data": False,
        "deleting": False,
        "finalizer": True,
    }
    return Desired(**given | overrides)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({}, True),
        ({"running": False, "rest": PowerState.PAUSED}, True),
        ({"running": False, "rest": PowerState.STOPPED}, True),
        ({"running": False, "rest": PowerState.SUSPENDED}, False),
        ({"target": "h2"}, False),
        ({"deleting": True}, False),
        ({"volumes": (), "leaving_volumes": (VOLUME,)}, False),
    ],
)
def test_what_cannot_wait_comes_first(overrides: dict[str, object], *, expected: bool) -> None:
    """Suspending, migrating, deleting and detaching do not wait for a copy; without a server there is none in use."""
    assert may_copy(make_desired(**overrides), "v") is expected
    assert not may_copy(None, "v")


def test_a_step_is_due_until_it_was_told() -> None:
    """A move is due until its copy, or that it was given up, was told; clearing is until that was told."""
    place = Place(("demo", "data"), "v", "h1", 1 << 20)
    there = Elsewhere(Path("/srv/fast"), "fast", "r1")
    assert not place.moves
    moving = replace(place, moving=there)
    assert moving.moves
    assert replace(moving, told=("r0", "r0")).moves
    assert not replace(moving, told=("r1", "")).moves
    assert not replace(moving, told=("", "r1")).moves
    leaving = replace(place, left=there, told=("r1", ""))
    assert leaving.moves
    assert not replace(leaving, told=("r1", "r1")).moves
