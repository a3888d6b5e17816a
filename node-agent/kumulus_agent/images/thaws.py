"""Guests whose file systems may stand still for a copy: asked until they go on, whatever has become of the copy."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

import structlog

from kumulus_agent.compute.disk_backup import thaw
from kumulus_agent.compute.errors import HypervisorError, InstanceNotFound
from kumulus_agent.compute.hypervisor import Hypervisor

_FIRST_PAUSE: Final = 1.0
_LAST_PAUSE: Final = 30.0

_log = structlog.stdlib.get_logger(__name__)


class Thaws:
    """One task per guest, until it goes on or is off; what this agent leaves the next one finds by the file.

    Args:
        hypervisor: libvirtd.
    """

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def begin(self, instance_id: str, owed: Path) -> None:
        """Ask a guest again and again, unless it is being asked.

        Args:
            instance_id: whose.
            owed: as of `begin_backup`.
        """
        if instance_id not in self._tasks:
            task = asyncio.create_task(self._until_thawed(instance_id, owed))
            self._tasks[instance_id] = task
            task.add_done_callback(lambda _: self._tasks.pop(instance_id))

    async def ended(self, instance_id: str, seconds: float) -> bool:
        """Wait for a guest to go on; give whether it does. One that is not asked does."""
        task = self._tasks.get(instance_id)
        return task is None or bool((await asyncio.wait([task], timeout=seconds))[0])

    async def close(self) -> None:
        """Ask no more."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _until_thawed(self, instance_id: str, owed: Path) -> None:
        pause = _FIRST_PAUSE
        while not await self._thawed(instance_id, owed):
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LAST_PAUSE)
        _log.info("the guest's file systems go on", instance=instance_id)

    async def _thawed(self, instance_id: str, owed: Path) -> bool:
        def ask(conn: Any) -> bool:
            return thaw(conn.lookupByUUIDString(instance_id), owed)

        try:
            done: bool = await self._hypervisor.call(f"let the file systems of instance {instance_id} go on", ask)
        except InstanceNotFound:
            await asyncio.to_thread(owed.unlink, missing_ok=True)
            return True
        except HypervisorError as error:
            _log.warning("guest not thawed", instance=instance_id, error=str(error))
            return False
        return done
