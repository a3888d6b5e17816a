"""Conditions, the way every Kubernetes user reads them."""

from datetime import UTC, datetime
from typing import Any

Condition = dict[str, Any]


def timestamp(moment: datetime) -> str:
    """Give a time as Kubernetes writes it (RFC 3339, seconds, UTC); ``moment`` is time zone aware."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def set_condition(  # noqa: PLR0913, PLR0917 - the fields of a condition
    conditions: list[Condition],
    type: str,  # noqa: A002 - the field's name
    status: bool | None,
    reason: str,
    message: str,
    generation: int,
    now: datetime | None = None,
) -> list[Condition]:
    """Set one condition and leave all others as they are.

    Invariants: the argument is not changed; ``lastTransitionTime`` moves only when ``status`` changes; the order of
    known conditions stays, a new one goes to the end; setting the same again returns an equal list, so that it causes
    no write.

    Args:
        conditions: as found in ``status.conditions``.
        type: e.g. ``Ready``.
        status: True, False, or None for Unknown.
        reason: one CamelCase word.
        message: a sentence for people.
        generation: ``metadata.generation`` that was looked at.
        now: time zone aware; default the present.

    Returns:
        A new list.
    """
    word = "Unknown" if status is None else str(status)
    old = get_condition(conditions, type)
    if old is not None and old.get("status") == word and old.get("lastTransitionTime"):
        since = old["lastTransitionTime"]
    else:
        since = timestamp(now or datetime.now(UTC))
    new = {
        "type": type,
        "status": word,
        "observedGeneration": generation,
        "lastTransitionTime": since,
        "reason": reason,
        "message": message,
    }
    if old is None:
        return [*conditions, new]
    return [new if condition.get("type") == type else condition for condition in conditions]


def get_condition(conditions: list[Condition], type: str) -> Condition | None:  # noqa: A002 - the field's name
    """The condition of this type, or None."""
    return next((condition for condition in conditions if condition.get("type") == type), None)
