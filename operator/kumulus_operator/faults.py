"""What is told of an object of which several parts may be refused, each for itself (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from kumulus_api import Kind
from kumulus_operator.refusal import Refusal
from kumulus_runtime.conditions import set_condition


def ready_status(
    item: Kind, found: Mapping[str, Any], faults: Sequence[Refusal], good: tuple[str, str], now: datetime
) -> dict[str, Any]:
    """Give the status of an object: of several faults the first is told, the others are counted.

    Args:
        item: the object.
        found: its status.
        faults: what is not as its spec says.
        good: reason and message if there are none.
        now: the present.
    """
    reason, message = (faults[0].reason, faults[0].message) if faults else good
    if len(faults) > 1:
        message += f" (and {len(faults) - 1} more)"
    generation = item.metadata.generation
    conditions = set_condition(found.get("conditions", []), "Ready", not faults, reason, message, generation, now)
    return {"observedGeneration": generation, "conditions": conditions}
