"""What a Volume's status says of its file."""

from __future__ import annotations

from typing import Any

from kumulus_agent.volumes.plan import LEAST_STEP, volume_status

GIB = 1 << 30


def make_volume(**overrides: Any) -> dict[str, Any]:
    """A Volume on h1 that no server holds."""
    assignment = {"volumeID": "11111111-1111-4111-8111-111111111111", "host": "h1"} | overrides.pop("assignment", {})
    metadata = {"name": "data", "namespace": "demo", "uid": "u", "generation": 2}
    return {"metadata": metadata, "spec": {"size": "1Gi", "assignment": assignment}} | overrides


def ready(status: dict[str, Any] | None) -> tuple[str, str]:
    """The Ready condition's status and reason."""
    assert status is not None
    return status["conditions"][0]["status"], status["conditions"][0]["reason"]


def test_a_volume_without_holder_is_available_and_one_with_is_in_use() -> None:
    """Ready says who holds the volume, once its file exists."""
    assert ready(volume_status(make_volume(), 0, GIB)) == ("True", "Available")
    held = volume_status(make_volume(assignment={"attachedTo": "web"}), 4096, GIB)
    assert ready(held) == ("True", "InUse")
    assert held is not None
    assert held["usedBytes"] == 4096


def test_a_volume_without_file_is_left_to_the_operator() -> None:
    """Before the first start there is nothing to tell."""
    assert volume_status(make_volume(), None, 0) is None


def test_an_idle_volume_is_not_written() -> None:
    """A usage that moves less than a step, around what was told, gives no write; a step does."""
    told = volume_status(make_volume(), GIB // 2, GIB)
    assert told is not None
    body = make_volume(status=told)
    assert volume_status(body, GIB // 2, GIB) is None
    assert volume_status(body, GIB // 2 + LEAST_STEP - 1, GIB) is None
    assert volume_status(body, GIB // 2 - LEAST_STEP, GIB) is not None


def test_detaching_is_told_whatever_the_usage() -> None:
    """From InUse to Available is one write though the usage is the same."""
    held = volume_status(make_volume(assignment={"attachedTo": "web"}), 4096, GIB)
    assert ready(volume_status(make_volume(status=held), 4096, GIB)) == ("True", "Available")
