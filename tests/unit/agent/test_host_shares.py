"""What a Host says of the shares of volume classes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kumulus_agent.hosts import shares
from kumulus_agent.hosts.shares import ShareLook, read_shares, share_folders, told_shares
from kumulus_agent.volumes.drivers.shared import MARKER
from kumulus_api import VolumeClass
from kumulus_api.testing import make_object

GIB = 1 << 30


def test_folders_are_those_of_shared_classes() -> None:
    """A Local class has no share."""
    fast = make_object(VolumeClass, "fast", driver="Shared", shared={"folder": "/srv/fast"})
    own = make_object(VolumeClass, "own", driver="Local", shared=None)
    assert share_folders([fast, own]) == {"fast": Path("/srv/fast")}


def test_a_share_proves_itself(tmp_path: Path) -> None:
    """A folder without the class's name in it is no share: the host's own disk is not told as one."""
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.mkdir()
    wrong.mkdir()
    (right / MARKER).write_text("fast\n")
    (wrong / MARKER).write_text("other\n")
    found = read_shares({"fast": right, "slow": wrong, "none": tmp_path / "none"})
    room = os.statvfs(tmp_path)
    assert found.keys() == {"fast"}
    assert found["fast"][0] == room.f_blocks * room.f_frsize


def test_what_hardly_moves_is_not_written() -> None:
    """A share is told anew when it moves by a step, or has another size."""
    told = [item.dump() for item in told_shares({"fast": (100 * GIB, 50 * GIB)}, [])]
    assert told == [{"volumeClass": "fast", "capacity": "100Gi", "free": "50Gi"}]
    assert [item.dump() for item in told_shares({"fast": (100 * GIB, 50 * GIB - 1)}, told)] == told
    assert told_shares({"fast": (100 * GIB, 49 * GIB)}, told)[0].free == "49Gi"
    assert told_shares({"fast": (101 * GIB, 50 * GIB)}, told)[0].capacity == "101Gi"
    assert told_shares({}, told) == ()


async def test_a_server_that_is_away_holds_one_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """While a look has not ended there is no second, and what was told stands."""
    pipe, looks = tmp_path / "pipe", []
    os.mkfifo(pipe)

    def stuck(folders: object) -> shares.Shares:
        looks.append(folders)
        pipe.read_bytes()
        return {"fast": (GIB, GIB)}

    monkeypatch.setattr(shares, "read_shares", stuck)
    monkeypatch.setattr(shares, "_PATIENCE", 0.01)
    told = [{"volumeClass": "fast", "capacity": "7Gi", "free": "7Gi"}]
    look = ShareLook()
    for _ in range(3):
        assert [item.dump() for item in await look.told({"fast": tmp_path}, told)] == told
    assert len(looks) == 1
    pipe.write_bytes(b"")
    monkeypatch.setattr(shares, "_PATIENCE", 30)
    assert (await look.told({"fast": tmp_path}, told))[0].capacity == "1Gi"
