"""Why something cannot be done now, in words that name the stage, whether it passes, and what would change it."""

from __future__ import annotations

from dataclasses import dataclass, field

from kumulus_api import Reference
from kumulus_operator.waiting import Need


@dataclass(frozen=True)
class Refusal:
    """A decision against.

    Attributes:
        reason: machine-readable, one of the kind's StrEnum.
        message: a sentence for the user.
        needs: what would change it; the waiter is woken by any of these.
    """

    reason: str
    message: str
    needs: frozenset[Need] = field(default_factory=frozenset)


class Refused(Exception):
    """Carries a refusal out of a nested step."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason, refusal.message)
        self.refusal = refusal


def refuse(reason: str, message: str, *needs: Need) -> Refused:
    """Give the exception to raise for a refusal."""
    return Refused(Refusal(str(reason), message, frozenset(needs)))


def shown(own: str, reference: Reference) -> str:
    """Give a reference as messages show it to who is in the namespace `own`."""
    if reference.namespace is None or reference.namespace == own:
        return reference.name
    return f"{reference.namespace}/{reference.name}"
