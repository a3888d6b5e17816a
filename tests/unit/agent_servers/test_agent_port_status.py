"""What a Port is told of its limit."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from kumulus_agent.servers.port_status import is_told, limit_untold, port_status
from kumulus_runtime.conditions import get_condition

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def make_port(generation: int = 1, *, qos: bool = True, **status: Any) -> dict[str, Any]:
    """A Port with or without qos."""
    spec = {"qos": {"egressKbps": 1000}} if qos else {}
    return {"metadata": {"name": "web", "generation": generation}, "spec": spec, "status": status}


def test_a_port_without_qos_is_told_where_it_is_and_no_more() -> None:
    """A port that asks for no limit costs no condition."""
    body = make_port(qos=False)
    status = port_status(body, "h1", NOW, wired=True)
    assert status == {"wired": True, "host": "h1"}
    assert not is_told(body, status)
    assert is_told(body | {"status": status}, status)
    assert not limit_untold(body | {"status": status})


def test_a_limit_is_told_once() -> None:
    """A port with a limit is told that it holds, again when its spec has changed, and not when nothing has."""
    body = make_port()
    status = port_status(body, "h1", NOW, wired=True)
    told = body | {"status": status}
    assert status["conditions"][0]["reason"] == "Applied"
    assert is_told(told, port_status(told, "h1", NOW, wired=True))
    assert not limit_untold(told)
    changed = make_port(2) | {"status": status}
    assert limit_untold(changed)
    assert not is_told(changed, port_status(changed, "h1", NOW, wired=True))
    assert limit_untold(make_port(2, qos=False) | {"status": status})


def test_a_kernel_that_cannot_limit_is_named() -> None:
    """A host that cannot slow a port down says so, with what its kernel lacks, instead of nothing."""
    lacking = "the host's kernel lacks an interface of type ifb (module ifb)"
    status = port_status(make_port(), "h1", NOW, wired=True, unlimited=lacking)
    condition = get_condition(status["conditions"], "BandwidthLimited")
    assert condition is not None
    assert (condition["status"], condition["reason"]) == ("False", "KernelLacksQueueing")
    assert lacking in condition["message"]
    assert "conditions" not in port_status(make_port(), "h1", NOW, wired=False, unlimited=lacking)
