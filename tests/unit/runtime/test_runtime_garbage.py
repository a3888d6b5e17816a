"""The garbage collector of a process that keeps many objects."""

import gc
import weakref

import pytest

from kumulus_runtime.garbage import keep_pauses_short, keep_waste_small


class _Ring:
    """Refers to itself."""

    def __init__(self):
        self.own = self


@pytest.fixture
def clock():
    """A clock that the test sets, of a collector that is put back afterwards."""
    former, seconds = list(gc.callbacks), [0.0]
    keep_pauses_short(lambda: seconds[0])
    yield seconds
    gc.callbacks[:] = former
    gc.unfreeze()


def test_what_survives_is_set_aside_for_an_hour(clock):
    """A full collection does not look again at what survived one, until it looks at everything once an hour."""
    ring = _Ring()
    gone = weakref.ref(ring)
    gc.collect()
    assert gc.get_freeze_count() > 0
    del ring
    clock[0] = 3599.0
    gc.collect()
    assert gone() is not None
    clock[0] = 3600.0
    gc.collect()
    assert gone() is None


@pytest.fixture
def collector():
    """The collector, put back afterwards."""
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


@pytest.mark.usefixtures("collector")
def test_waste_is_found_however_much_was_imported():
    """What falls apart is found while a tenth as much is made as was there at the start, however old it was."""
    imported = [[] for _ in range(300_000)]
    gc.collect()
    keep_waste_small()
    rings = [_Ring() for _ in range(10_000)]
    gone = weakref.ref(rings[0])
    del rings
    made = [[] for _ in range(len(imported) // 10)]
    assert gone() is None
    assert len(made) == 30_000
