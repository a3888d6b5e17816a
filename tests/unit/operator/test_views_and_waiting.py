"""Views, waiters and liveness: what was seen, who is woken, who speaks."""

from datetime import UTC, datetime

from kumulus_api import Flavor
from kumulus_operator.hosts.liveness import Liveness
from kumulus_operator.views import View
from kumulus_operator.waiting import Waiters, any_of

WALL = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


def make_flavor(version, uid="u1", vcpus=1):
    """Give a flavor as the API server shows it."""
    spec = {"vcpus": vcpus, "memory": "1Gi", "rootDisk": "1Gi"}
    return {"metadata": {"name": "small", "uid": uid, "resourceVersion": str(version)}, "spec": spec}


def test_an_older_state_never_replaces_a_newer_one():
    """A late answer to a write does not undo what a watch has shown since."""
    view = View(Flavor)
    view.put(make_flavor(10, vcpus=2))
    former, new = view.put(make_flavor(9, vcpus=1))
    assert former is new
    assert view.get("", "small").spec.vcpus == 2


def test_a_deleted_object_stays_deleted():
    """The answer to an own write that arrives after the deletion does not bring the object back; a successor comes."""
    view = View(Flavor)
    view.put(make_flavor(1))
    view.drop(make_flavor(2))
    view.put(make_flavor(3))
    assert view.get("", "small") is None
    view.put(make_flavor(4, uid="u2"))
    assert view.get("", "small").metadata.uid == "u2"


def test_the_deletion_of_a_predecessor_leaves_the_successor():
    """A late DELETED of the former incarnation does not remove the present one."""
    view = View(Flavor)
    view.put(make_flavor(4, uid="u2"))
    assert view.drop(make_flavor(2, uid="u1")) is None
    assert view.get("", "small") is not None


def test_an_object_against_its_schema_is_left_out():
    """One malformed object does not stop the others from being seen."""
    view = View(Flavor)
    assert view.put({"metadata": {"name": "bad", "resourceVersion": "1"}, "spec": {"vcpus": "many"}}) == (None, None)
    assert len(view) == 0


def test_a_change_wakes_exactly_those_that_wait_for_it():
    """A waiter is woken by its needs and by wildcards of its kind and namespace, and by nothing after it forgot."""
    waiters = Waiters()
    waiters.wait(("demo", "a"), {("Image", "demo", "tiny")})
    waiters.wait(("demo", "b"), {any_of("Image", "demo")})
    assert waiters.woken_by(("Image", "demo", "tiny")) == [("demo", "a"), ("demo", "b")]
    assert waiters.woken_by(("Image", "demo", "other")) == [("demo", "b")]
    assert waiters.woken_by(("Image", "else", "tiny")) == []
    waiters.forget(("demo", "a"))
    waiters.forget(("demo", "b"))
    assert waiters.woken_by(("Image", "demo", "tiny")) == []
    assert len(waiters) == 0


def make_lease(renewed):
    """Give the Lease of host h1."""
    return {"metadata": {"name": "host-h1"}, "spec": {"renewTime": renewed}}


def test_a_renewed_lease_is_fresh_until_the_limit():
    """A host is fresh while its Lease changes, and silent one limit after the last change by the own clock."""
    liveness = Liveness(40)
    assert liveness.see(make_lease("2026-01-01T12:00:00.000000Z"), 100.0, WALL) == "h1"
    assert liveness.fresh("h1", 139.0)
    assert not liveness.fresh("h1", 140.0)
    assert liveness.silent_in("h1", 120.0) == 20.0
    assert liveness.silent_in("h1", 150.0) == 0.0
    assert liveness.see(make_lease("2026-01-01T12:01:00.000000Z"), 150.0, WALL) == "h1"
    assert liveness.fresh("h1", 151.0)


def test_the_same_lease_again_is_no_renewal():
    """Being shown an unchanged Lease again, as after a re-list, does not make a host fresh."""
    liveness = Liveness(40)
    liveness.see(make_lease("2026-01-01T12:00:00Z"), 100.0, WALL)
    assert liveness.see(make_lease("2026-01-01T12:00:00Z"), 139.0, WALL) is None
    assert not liveness.fresh("h1", 141.0)


def test_an_old_lease_is_neither_fresh_nor_silent_at_first():
    """A new leader places nothing on a host whose Lease looks old, and calls it silent only after a full limit."""
    liveness = Liveness(40)
    assert liveness.see(make_lease("2026-01-01T11:00:00Z"), 100.0, WALL) is None
    assert not liveness.fresh("h1", 101.0)
    assert liveness.silent_in("h1", 101.0) == 39.0
