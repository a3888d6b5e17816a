"""From what actuators raise to a step that failed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kumulus_agent.compute.errors import HypervisorError
from kumulus_agent.compute.errors import Terminal as HypervisorTerminal
from kumulus_agent.network.errors import NetworkError
from kumulus_agent.networks.carried import NetworkUnknown
from kumulus_agent.networks.reach import NetworkUnreached
from kumulus_agent.servers.errors import StepFailed, first_failure
from kumulus_agent.storage.errors import HolderAway, StorageError
from kumulus_agent.storage.errors import Terminal as StorageTerminal
from kumulus_agent.volumes.drivers.keys import KeyMissing, KeyWrong
from kumulus_api.server_status import ReadyReason, ServerConditionType
from kumulus_runtime.api_client import ApiError

_TELLING = HolderAway | NetworkUnreached | KeyMissing | KeyWrong
"""What passes, and has a reason of its own all the same."""


@asynccontextmanager
async def failing_as(
    reason: ReadyReason, part: ServerConditionType | None = None, detail: str = ""
) -> AsyncIterator[None]:
    """Turn the errors of the actuators into a failed step."""
    try:
        yield
    except (StorageError, HypervisorError, NetworkError, NetworkUnknown, ApiError, OSError, ValueError) as error:
        lasting = isinstance(error, StorageTerminal | HypervisorTerminal)
        own = str(getattr(error, "reason", "")) if lasting or isinstance(error, _TELLING) else ""
        raise StepFailed(reason, str(error), part=part, detail=own or detail, lasting=lasting) from error
    except BaseExceptionGroup as group:
        failure = first_failure(group)
        if isinstance(failure, StepFailed):
            raise failure from group
        if not isinstance(failure, NetworkError | NetworkUnknown | ApiError | ValueError):
            raise
        own = failure.reason if isinstance(failure, NetworkUnreached) else ""
        raise StepFailed(reason, str(failure), part=part, detail=own or detail) from group
