"""Show what a project uses of its quota."""

from __future__ import annotations

from kumulus_api import Project
from kumulus_operator.bodies import identity
from kumulus_operator.cloud import Cloud
from kumulus_operator.projects.plan import usage_status
from kumulus_operator.views import Key
from kumulus_runtime.errors import Conflict, NotFound

_MANAGER = "kumulus-operator-usage"
"""A field manager of its own: conditions and usage of a project are written at different times."""


class UsageController:
    """Writes the books' figures of a project; keys come after `usage_debounce`, so a burst of servers is one write.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    async def reconcile(self, key: Key) -> None:
        """Bring the shown usage of one project up to date."""
        cloud = self._cloud
        project = cloud.projects.get(*key)
        status = usage_status(project, cloud.ledger.usage(key[1])) if project is not None else None
        if project is None or status is None:
            return
        try:
            body = identity(project) | {"status": status}
            cloud.take(Project, await cloud.client.apply_status(Project, body, manager=_MANAGER))
        except (NotFound, Conflict):
            return  # It is gone; the watch says so too.
