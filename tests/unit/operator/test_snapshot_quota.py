"""Snapshots of volumes count against gigabytes, beside the volumes, as in Cinder."""

from kumulus_api import Volume
from kumulus_api.tenancy import Quota
from kumulus_operator.ledger.ledger import Ledger

GIB = 2**30
KEY = ("demo", "s")


def make_books(gigabytes):
    """Give a book of snapshots and a ledger that know of each other, and the projects whose usage has changed."""
    changed = []

    def quota_of(_):
        return Quota(gigabytes=gigabytes)

    ledger = Ledger(quota_of, lambda _: True, None, changed.append)
    return ledger.snapshots, ledger, changed


def volume(name, size):
    """Give a volume that is not bound."""
    return Volume.model_validate({"metadata": {"name": name, "namespace": "demo"}, "spec": {"size": size}})


def test_a_snapshot_takes_what_its_volume_has():
    """Volumes and snapshots share one limit: what the one takes the other cannot have."""
    book, ledger, _ = make_books(5)
    assert ledger.admit_volume(volume("v", "2Gi"), counted=False) is None
    assert book.admit(KEY, 2 * GIB, ledger.stored("demo")) is None
    assert book.admit(("demo", "t"), 2 * GIB, ledger.stored("demo")) == "4Gi of 5Gi are in use, 2Gi is asked for"
    assert ledger.admit_volume(volume("w", "2Gi"), counted=False) == "4Gi of 5Gi are in use, 2Gi is asked for"
    assert ledger.usage("demo").volume_bytes == 4 * GIB


def test_a_deleted_snapshot_gives_its_bytes_back():
    """What is gone counts no more, and the project is told."""
    book, ledger, changed = make_books(2)
    book.measure(KEY, 2 * GIB)
    assert ledger.admit_volume(volume("v", "1Gi"), counted=False) is not None
    changed.clear()
    book.withdraw(KEY)
    book.withdraw(KEY)
    assert changed == ["demo"]
    assert ledger.admit_volume(volume("v", "1Gi"), counted=False) is None


def test_what_was_admitted_is_counted_whatever_the_quota():
    """A lowered quota refuses nothing that is there; what is known better later is counted anew, once."""
    book, ledger, changed = make_books(0)
    book.measure(KEY, 0)
    book.measure(KEY, 3 * GIB)
    book.measure(KEY, 3 * GIB)
    assert book.admit(KEY, 3 * GIB, ledger.stored("demo")) is None
    assert (book.used("demo"), len(changed)) == ((1, 3 * GIB), 2)
