"""A step that failed, with what the status says of it."""

from __future__ import annotations

from kumulus_api.server_status import ReadyReason, ServerConditionType


class StepFailed(Exception):
    """A step of starting a server failed.

    Attributes:
        reason: of the Ready condition.
        part: the condition beside Ready that does not hold, if it is one.
        detail: reason of that condition; `reason` if empty.
        lasting: the same will happen again until somebody changes something: it is tried again seldom.
    """

    def __init__(
        self,
        reason: ReadyReason,
        message: str,
        *,
        part: ServerConditionType | None = None,
        detail: str = "",
        lasting: bool = False,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.part = part
        self.detail = detail or reason.value
        self.lasting = lasting


class StartGivenUp(StepFailed):
    """A start was given up half-way, because its Server is on its way out."""

    def __init__(self) -> None:
        super().__init__(ReadyReason.STARTING, "the Server is being deleted")


def first_failure(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Give the failure of a task group that tells most: a `StepFailed` if there is one."""
    flat: list[BaseException] = []
    for error in group.exceptions:
        flat.append(first_failure(error) if isinstance(error, BaseExceptionGroup) else error)
    return next((error for error in flat if isinstance(error, StepFailed)), flat[0])
