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


def test_usage_is_told_and_nothing_else() -> None:
    """The conditions are the operator's: the agent writes none, whoever holds the volume."""
    assert volume_status(make_volume(assignment={"attachedTo": "web"}), 4096, GIB) == {"usedBytes": 4096}


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
