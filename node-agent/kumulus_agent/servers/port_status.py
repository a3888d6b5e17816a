"""What is written into a Port's status (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from kumulus_api.port import PortConditionType, PortReason
from kumulus_runtime.conditions import get_condition, set_condition


def port_status(
    body: Mapping[str, Any] | None, host: str, now: datetime, *, wired: bool, unlimited: str = ""
) -> dict[str, Any]:
    """Give the agent's part of a Port's status.

    Args:
        body: the Port as it was seen last.
        host: this host.
        now: the present.
        wired: whether its interface is connected here.
        unlimited: why rates cannot be limited on this host; empty if they can.
    """
    status: dict[str, Any] = {"wired": wired, "host": host}
    if body is None or not wired or not body["spec"].get("qos"):
        return status
    mine = get_condition((body.get("status") or {}).get("conditions") or [], PortConditionType.BANDWIDTH_LIMITED)
    reason = PortReason.KERNEL_LACKS if unlimited else PortReason.APPLIED
    message = f"qos: {unlimited}, so the port has no limit; permanent: have it loaded and the agent restarted"
    status["conditions"] = set_condition(
        [mine] if mine is not None else [],
        PortConditionType.BANDWIDTH_LIMITED,
        not unlimited,
        reason,
        message if unlimited else "",
        body["metadata"].get("generation", 0),
        now,
    )
    return status


def is_told(body: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a Port's status says so already."""
    status = body.get("status") or {}
    shown = get_condition(status.get("conditions") or [], PortConditionType.BANDWIDTH_LIMITED)
    asked = next(iter(wanted.get("conditions", [])), None)
    placed = bool(status.get("wired")) and status.get("host") == wanted["host"]
    return placed is wanted["wired"] and shown == asked


def limit_untold(body: Mapping[str, Any]) -> bool:
    """Whether a wired Port's status says nothing of the limit that its spec has now, or of one that it has no more."""
    status = body.get("status") or {}
    shown = get_condition(status.get("conditions") or [], PortConditionType.BANDWIDTH_LIMITED)
    if not status.get("wired") or not body["spec"].get("qos"):
        return shown is not None
    return shown is None or shown.get("observedGeneration") != body["metadata"].get("generation")
