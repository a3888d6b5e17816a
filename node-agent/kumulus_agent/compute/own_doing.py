"""Which guests go off because we want them to: remembered here, and beside the domain for the agent that comes next."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime

from kumulus_agent.compute.domain_xml import InstanceRecord
from kumulus_agent.compute.state import BUTTON_SECONDS, pressed_lately


class OwnDoing:
    """The instances whose going off says nothing about their guests' will."""

    def __init__(self) -> None:
        # Until when, in monotonic seconds.
        self._until: dict[str, float] = {}

    def pressed(self, instance_id: str) -> None:
        """Note that a guest's power button is pressed; one that goes off much later does so by itself."""
        self._until[instance_id] = time.monotonic() + BUTTON_SECONDS

    def ended(self, instance_id: str) -> None:
        """Note that we end a guest."""
        self._until[instance_id] = float("inf")

    def over(self, instance_id: str) -> None:
        """Forget what was noted: it runs anew, or runs on, or is gone."""
        self._until.pop(instance_id, None)

    def __contains__(self, instance_id: str) -> bool:
        """Say whether an instance that goes off now does so because of us."""
        return time.monotonic() < self._until.get(instance_id, float("-inf"))


def with_button(record: InstanceRecord) -> InstanceRecord:
    """Record that we press the power button."""
    return replace(record, power_button=_now())


def with_end(record: InstanceRecord) -> InstanceRecord:
    """Record that we end the guest."""
    return record if record.switched_off else replace(record, switched_off=_now())


def with_guest_shutdown(record: InstanceRecord) -> InstanceRecord:
    """Record that the guest turned itself off, unless it followed the button."""
    known = record.guest_shutdown or pressed_lately(record, datetime.now(UTC))
    return record if known else replace(record, guest_shutdown=_now())


def with_new_start(record: InstanceRecord) -> InstanceRecord:
    """Record nothing of how it went off before."""
    return replace(record, guest_shutdown="", power_button="", switched_off="")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
