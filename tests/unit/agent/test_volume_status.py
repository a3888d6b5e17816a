"""What a Volume's status says of its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kumulus_agent.volumes.drivers.protocol import Found, SnapshotMissing
from kumulus_agent.volumes.plan import LEAST_STEP, fault_of, volume_status

GIB = 1 << 30


def make_volume(**overrides: Any) -> dict[str, Any]:
    """A Volume on h1 that no server holds."""
    assignment = {"volumeID": "11111111-1111-4111-8111-111111111111", "host": "h1"} | overrides.pop("assignment", {})
    metadata = {"name": "data", "namespace": "demo", "uid": "u", "generation": 2}
    return {"metadata": metadata, "spec": {"size": "1Gi", "assignment": assignment}} | overrides


def found(used: int, **overrides: Any) -> Found:
    """The files of a volume of one GiB."""
    return Found(Path("/v/first.qcow2"), "qcow2", GIB, used, **overrides)


def test_size_and_usage_are_told_and_nothing_else() -> None:
    """The conditions are the operator's: the agent writes none, whoever holds the volume."""
    told = volume_status(make_volume(assignment={"attachedTo": "web"}), found(4096))
    assert told == {"usedBytes": 4096, "sizeBytes": GIB}


def test_a_volume_without_file_is_left_to_the_operator() -> None:
    """Before the first start there is nothing to tell."""
    assert volume_status(make_volume(), None) is None


def test_an_idle_volume_is_not_written() -> None:
    """A usage that moves less than a step, around what was told, gives no write; a step does."""
    told = volume_status(make_volume(), found(GIB // 2))
    assert told is not None
    body = make_volume(status=told | {"conditions": [{"type": "Ready"}]})
    assert volume_status(body, found(GIB // 2)) is None
    assert volume_status(body, found(GIB // 2 + LEAST_STEP - 1)) is None
    assert volume_status(body, found(GIB // 2 - LEAST_STEP)) is not None


def test_a_fault_is_told_until_it_is_over() -> None:
    """What was told before stays beside a fault, and the fault goes with the first look that finds none."""
    body = make_volume(status={"usedBytes": 4096, "sizeBytes": GIB})
    fault = fault_of(SnapshotMissing("no such snapshot"))
    told = volume_status(body, found(4096), fault)
    assert told is not None
    assert told["fault"] == {"reason": "SnapshotNotFound", "message": "no such snapshot"}
    body = make_volume(status=told)
    assert volume_status(body, None, fault) is None
    assert volume_status(body, found(4096, reverted="1")) == {"usedBytes": 4096, "sizeBytes": GIB, "reverted": "1"}


def test_how_far_a_copy_is_costs_few_writes() -> None:
    """Percent are told at first, each ten, and of another move; they go when nothing is copied any more."""
    request, other = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
    volume = make_volume(status={"sizeBytes": 1 << 30})
    first = volume_status(volume, None, moving=(request, 3))
    assert first is not None
    assert first["moving"] == {"request": request, "progress": 3}
    volume = make_volume(status=first)
    assert volume_status(volume, None, moving=(request, 12)) is None
    later = volume_status(volume, None, moving=(request, 13))
    assert later is not None
    assert later["moving"]["progress"] == 13
    again = volume_status(volume, None, moving=(other, 4))
    assert again is not None
    assert again["moving"] == {"request": other, "progress": 4}
    assert volume_status(volume, None) == {"sizeBytes": 1 << 30}
