"""Volumes that another project has by now: who may touch a folder that is named by an id alone."""

from __future__ import annotations

import pytest

from kumulus_agent.volumes.controller import removable
from kumulus_agent.volumes.place import read_place
from kumulus_api import FINALIZER, Volume
from kumulus_api.testing import make_assigned


@pytest.mark.parametrize("deleting", [False, True])
def test_what_was_given_to_another_project_is_nothing_of_ours(*, deleting: bool) -> None:
    """The data is that project's: no host looks after it or removes it by the name of the Volume that had it."""
    body = make_assigned(Volume, "data", "h1")
    body["metadata"] |= {"finalizers": [FINALIZER]} | (
        {"deletionTimestamp": "2026-01-01T00:00:00Z"} if deleting else {}
    )
    assert read_place(body) is not None
    assert bool(removable(body, "h1")) is deleting
    body["spec"]["assignment"]["givenTo"] = {"namespace": "other", "name": "mine"}
    assert read_place(body) is None
    assert removable(body, "h1") == ""
