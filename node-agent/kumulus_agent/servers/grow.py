"""Give a running guest more virtual CPUs and memory."""

from __future__ import annotations

import asyncio
import time

import structlog

from kumulus_agent.compute.errors import HypervisorError
from kumulus_agent.compute.hypervisor import Hypervisor

_log = structlog.stdlib.get_logger(__name__)
_PATIENCE_SECONDS = 3.0
"""How long a guest's answer is waited for; one that comes later is an event."""
_LOOK_SECONDS = 0.2
_TRY_AGAIN = 30.0


async def grow(
    hypervisor: Hypervisor, instance_id: str, vcpus: int, memory: int
) -> tuple[tuple[int, int] | None, float | None]:
    """Give a guest more, as far as it takes it; what it does not take it gets at its next start.

    Args:
        hypervisor: that runs it.
        instance_id: the instance.
        vcpus: virtual CPUs.
        memory: bytes.

    Returns:
        Virtual CPUs and bytes that it has then, if they are known, and the seconds after which to try again.
    """
    try:
        await hypervisor.grow(instance_id, vcpus, memory)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            state = await hypervisor.get_instance(instance_id)
            if state is None:
                return None, 0.0
            if (state.vcpus, state.memory) == (vcpus, memory) or time.monotonic() > deadline:
                return (state.vcpus, state.memory), None
            await asyncio.sleep(_LOOK_SECONDS)
    except HypervisorError as error:
        # The guest is as it was, and RestartRequired says so.
        _log.warning("a guest cannot grow as it runs", instance=instance_id, error=str(error), retry_in=_TRY_AGAIN)
        return None, _TRY_AGAIN
