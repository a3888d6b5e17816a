"""Which host imports an image, and what of the status is ours."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from kumulus_api import Image
from kumulus_api.testing import make_object
from kumulus_operator.images.plan import import_status
from kumulus_operator.placement.facts import HostFacts

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def make_image(status: dict[str, Any] | None = None) -> Image:
    """Give an image with a status."""
    return Image.model_validate(make_object(Image) | ({"status": status} if status else {}))


def make_host(name: str, **overrides: Any) -> HostFacts:
    """Give a host that can import."""
    facts = {"ready": True, "fresh": True, "schedulable": True, "maintenance": False, "decommissioned": False}
    return HostFacts(name=name, tunnel=True, **(facts | overrides))


def test_every_status_of_ours_has_the_whole_condition() -> None:
    """Whether a host is named or waited for, Ready is written in full, so that no part of it is ever left behind."""
    waiting = import_status(make_image(), [], (), {}, NOW)
    assert waiting is not None
    named = import_status(make_image(waiting), [make_host("a")], (), {}, NOW)
    assert named is not None
    assert named["importHost"] == "a"
    for status, reason in ((waiting, "WaitingForHost"), (named, "Importing")):
        (condition,) = status["conditions"]
        assert (condition["type"], condition["status"], condition["reason"]) == ("Ready", "False", reason)


@pytest.mark.parametrize("host", [{"importHost": "a"}, {"importHost": "gone"}, {}])
def test_an_image_that_is_ready_is_left_alone(host: dict[str, str]) -> None:
    """What was imported stays so, whatever became of the host that did it."""
    ready = {"type": "Ready", "status": "True", "reason": "Imported", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    assert import_status(make_image(host | {"conditions": [ready]}), [make_host("b")], ("a",), {}, NOW) is None


def test_another_host_takes_over_from_a_silent_one() -> None:
    """The import goes to the host with the least of them, maintenance and silence apart."""
    found = import_status(make_image(), [make_host("a")], (), {}, NOW)
    hosts = [make_host("a", fresh=False), make_host("b"), make_host("c"), make_host("d", maintenance=True)]
    assert found is not None
    moved = import_status(make_image(found), hosts, ("a",), {"b": 2, "c": 1}, NOW)
    assert moved is not None
    assert moved["importHost"] == "c"
    assert import_status(make_image(moved), hosts, ("a",), {"b": 2, "c": 1}, NOW) is None
