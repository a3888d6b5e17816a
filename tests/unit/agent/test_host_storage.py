"""What a Host says of its disks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kumulus_agent.hosts.storage import Folder, pressing, step_of, told_usage
from kumulus_agent.storage.room import RESERVE, Room
from kumulus_api.storage_usage import StorageName

GIB = 1 << 30


def make_folder(free: int = 60 * GIB, allocated: int = 10 * GIB, provisioned: int = 40 * GIB) -> Folder:
    return Folder(StorageName.VOLUMES, Room(1, 100 * GIB, free), allocated, provisioned)


def test_what_hardly_moves_is_not_written() -> None:
    """A number that moves by less than a step leaves all as it was told; by a step, all are told anew."""
    told = [item.dump() for item in told_usage([make_folder()], [])]
    assert [item.dump() for item in told_usage([make_folder(free=60 * GIB - 1, allocated=10 * GIB + 1)], told)] == told
    (fresh,) = told_usage([make_folder(provisioned=41 * GIB)], told)
    assert (fresh.provisioned, fresh.free) == ("41Gi", "60Gi")


@given(st.lists(st.integers(0, 100 * GIB), max_size=60))
def test_writes_are_bounded_by_what_moves(frees: list[int]) -> None:
    """However a number wanders, each write says that it has moved by a step since the last."""
    told: list[dict[str, object]] = []
    last: int | None = None
    for free in frees:
        now = [item.dump() for item in told_usage([make_folder(free=free)], told)]
        if now != told:
            assert last is None or abs(free - last) >= step_of(100 * GIB)
            told, last = now, free


def test_a_step_fits_the_disk() -> None:
    """A hundredth and at least a GiB; of a disk that is small, a twentieth."""
    assert (step_of(1000 * GIB), step_of(50 * GIB), step_of(10 * GIB)) == (10 * GIB, GIB, GIB // 2)


def test_pressure_begins_and_ends_at_different_marks() -> None:
    """The reserve begins it, twice the reserve ends it: a disk at the mark is not told of with each look."""
    assert pressing([make_folder(free=RESERVE - 1)], before=False) == (Room(1, 100 * GIB, RESERVE - 1),)
    assert pressing([make_folder(free=RESERVE + 1)], before=False) == ()
    assert pressing([make_folder(free=RESERVE + 1)], before=True) != ()
    assert pressing([make_folder(free=2 * RESERVE)], before=True) == ()


def test_reserve_of_a_small_disk() -> None:
    """Of a small disk a twentieth is kept."""
    assert Room(1, 1 * GIB, 0).reserve == GIB // 20


def test_another_ratio_is_told_at_once() -> None:
    """How many times over the disk is promised stands beside what was promised, but for images."""
    told = [item.dump() for item in told_usage([make_folder()], [], "1.5")]
    assert told[0]["overcommit"] == "1.5"
    assert told_usage([make_folder()], told, "2")[0].overcommit == "2"
    images = Folder(StorageName.IMAGES, Room(1, 100 * GIB, GIB), GIB, GIB)
    assert told_usage([images], [], "2")[0].overcommit is None
