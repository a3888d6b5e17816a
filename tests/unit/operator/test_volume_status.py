"""What a Volume says of itself."""

from datetime import UTC, datetime, timedelta

import pytest

from kumulus_api import Volume
from kumulus_operator.volumes.plan import admitted_before, volume_status

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PLACE = {"volumeID": "00000000-0000-4000-8000-000000000001", "host": "h1"}


def make_volume(assignment=None, conditions=None):
    """Give a volume, bound if it has an assignment."""
    spec = {"size": "1Gi"} | ({"assignment": assignment} if assignment else {})
    metadata = {"name": "data", "namespace": "demo", "uid": "u", "generation": 1}
    return Volume.model_validate({"metadata": metadata, "spec": spec, "status": {"conditions": conditions or []}})


@pytest.mark.parametrize(
    ("assignment", "excess", "status", "reason", "word"),
    [
        (None, None, "False", "WaitingForFirstServer", "first server"),
        (None, "2 of 2 volumes are in use", "False", "QuotaExceeded", "2 of 2 volumes"),
        (PLACE, None, "True", "Available", "host h1"),
        (PLACE | {"attachedTo": "web"}, None, "True", "InUse", "server web"),
    ],
)
def test_volume_says_where_it_is_and_who_has_it(assignment, excess, status, reason, word) -> None:
    """A volume is Ready once a host keeps it, and its reason tells whether a server holds it."""
    written = volume_status(make_volume(assignment), excess, NOW)
    assert written is not None
    (ready,) = written["conditions"]
    assert (ready["status"], ready["reason"]) == (status, reason)
    assert word in ready["message"]


def test_status_is_written_once() -> None:
    """What a volume says already is not written again, however much later."""
    written = volume_status(make_volume(PLACE), None, NOW)
    assert written is not None
    later = make_volume(PLACE, written["conditions"])
    assert volume_status(later, None, NOW + timedelta(hours=1)) is None
    assert admitted_before(later)
