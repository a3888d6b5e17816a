"""Show what a project uses of its quota."""

from __future__ import annotations

import time

from kumulus_api import Project
from kumulus_operator.cloud import Cloud
from kumulus_operator.pacing import Turns
from kumulus_operator.projects.plan import usage_status
from kumulus_operator.views import Key

_MANAGER = "kumulus-operator-usage"
"""A field manager of its own: conditions and usage of a project are written at different times."""


_PER_SECOND = 5.0
"""Writes for all projects together, when many change at once."""

_BURST = 20
"""So many projects are written at once after a quiet time."""


class UsageController:
    """Writes the books' figures of a project; keys come after `usage_debounce`, so a burst of servers is one write.

    When many projects change they take turns, and their figures are a little older.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._turns = Turns(_PER_SECOND, _BURST)
        self._written_at: dict[Key, float] = {}

    async def reconcile(self, key: Key) -> float | None:
        """Bring the shown usage of one project up to date; give the seconds until its turn."""
        cloud = self._cloud
        project = cloud.projects.get(*key)
        if project is None:
            self._written_at.pop(key, None)
        if project is None or usage_status(project, cloud.usage_of(key[1])) is None:
            self._turns.done(key)
            return None
        last = self._written_at.get(key, 0.0)
        wait = self._turns.wait(key, time.monotonic(), last + cloud.settings.usage_debounce)
        if wait > 0:
            return wait
        self._turns.done(key)
        self._written_at[key] = time.monotonic()
        await self._write(project)
        return None

    async def _write(self, project: Project) -> None:
        cloud = self._cloud
        status = usage_status(project, cloud.usage_of(project.metadata.name))
        if status is not None:
            await cloud.write_status(project, status, manager=_MANAGER)
