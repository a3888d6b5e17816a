"""Images that users send: which host waits for the bytes, and what becomes of an image whose host goes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from kumulus_api import Image, Project
from kumulus_api.testing import make_object
from kumulus_operator.cloud import Cloud
from kumulus_operator.images.admission import admit
from kumulus_operator.images.book import size_of
from kumulus_operator.images.held import found_status
from kumulus_operator.images.plan import import_status
from kumulus_operator.placement.facts import HostFacts
from kumulus_operator.refusal import Refused
from kumulus_operator.settings import OperatorSettings
from kumulus_operator.waiting import quota

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def cloud() -> Cloud:
    """Give an operator with a project that may have images of 3 GiB."""
    cloud = Cloud(None, OperatorSettings())  # type: ignore[arg-type] - nothing is written
    cloud.take(Project, make_object(Project, "demo", quota={"imageGigabytes": 3}))
    return cloud


def make_image(status: dict[str, Any] | None = None, name: str = "golden", **upload: str) -> Image:
    body = make_object(Image, name, source={"upload": upload}, checksum=None)
    return Image.model_validate(body | ({"status": status} if status else {}))


def make_host(name: str, **overrides: Any) -> HostFacts:
    facts = {"ready": True, "fresh": True, "schedulable": True, "maintenance": False, "decommissioned": False}
    return HostFacts(name=name, tunnel=True, **(facts | overrides))


def condition(reason: str, status: str = "False") -> list[dict[str, Any]]:
    return [{"type": "Ready", "status": status, "reason": reason, "lastTransitionTime": "2026-01-01T00:00:00Z"}]


def test_the_command_stands_in_the_condition() -> None:
    """Whoever looks at an image that waits for its bytes reads how to send them."""
    status = import_status(make_image(), [make_host("a")], (), {}, NOW)
    assert status is not None
    (ready,) = status["conditions"]
    assert (status["importHost"], ready["reason"]) == ("a", "WaitingForUpload")
    assert "kubectl kumulus image upload FILE --name golden --namespace demo" in ready["message"]


def test_another_host_waits_if_the_first_is_silent() -> None:
    """What was sent to a host that no longer speaks is not waited for: another is named, and the condition says so."""
    begun = make_image({"importHost": "a", "conditions": condition("Uploading")})
    status = import_status(begun, [make_host("a", fresh=False), make_host("b")], ("a",), {}, NOW)
    assert status is not None
    assert status["importHost"] == "b"
    assert status["conditions"][0]["message"].startswith("host b waits for its bytes")
    assert import_status(begun, [make_host("a")], (), {}, NOW) is None


def test_what_was_sent_and_found_is_ready_again() -> None:
    """A host that comes back with the bytes of an upload that was given up makes it Ready, as it was."""
    status = found_status(make_image({"importHost": "a", "conditions": condition("HostLost")}), NOW)
    assert status is not None
    assert (status["conditions"][0]["status"], status["conditions"][0]["reason"]) == ("True", "Imported")


async def test_a_quota_bounds_what_is_uploaded(cloud: Cloud) -> None:
    """What is admitted stays, what would exceed the quota waits for room, and is not counted before."""
    admit(cloud, make_image(name="a", size="2Gi"))
    admit(cloud, make_image(name="a", size="2Gi"))
    large = make_image(name="b", size="1073741825")
    with pytest.raises(Refused, match=r"2Gi of 3Gi of images are in use; transient") as refused:
        admit(cloud, large)
    assert refused.value.refusal.needs == {quota("demo")}
    admit(cloud, make_image(name="c", size="1Gi"))
    assert cloud.image_book.used("demo") == (2, 3 << 30)
    assert cloud.image_book.withdraw(("demo", "a"))
    admit(cloud, large)


async def test_with_a_quota_each_image_says_its_size(cloud: Cloud) -> None:
    """What nobody has said the size of is refused where a quota counts it; an earlier operator's word stands."""
    with pytest.raises(Refused, match=r"spec.source.upload.size is needed"):
        admit(cloud, make_image())
    assert make_image().key not in cloud.image_book
    admit(Cloud(None, OperatorSettings()), make_image())  # type: ignore[arg-type] - no quota, nothing is written
    begun = make_image({"importHost": "a"}).dump()
    begun["metadata"] |= {"uid": "golden", "resourceVersion": "1"}
    cloud.take(Image, begun)
    admit(cloud, make_image())
    assert cloud.image_book.used("demo") == (1, 0)


def test_what_came_is_counted_instead_of_what_was_said() -> None:
    """Until the bytes are there those count that the user has announced, and then those of the file that is kept."""
    said = make_image(size="2Gi")
    assert (size_of(make_image()), size_of(said)) == (0, 2 << 30)
    stored = {"digest": "sha256:" + 64 * "a", "size": 3 << 30, "format": "qcow2"}
    assert size_of(make_image({"size": 2 << 30, "stored": stored}, size="2Gi")) == 3 << 30
