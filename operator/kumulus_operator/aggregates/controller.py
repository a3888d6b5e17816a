"""Reconcile a HostAggregate: say which hosts belong to it."""

from __future__ import annotations

from datetime import UTC, datetime

from kumulus_operator.aggregates.plan import aggregate_status
from kumulus_operator.cloud import Cloud
from kumulus_operator.views import Key


class AggregateController:
    """Keeps the status of aggregates; placement reads their spec.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    async def reconcile(self, key: Key) -> None:
        """Bring the status of one aggregate up to date."""
        cloud = self._cloud
        aggregate = cloud.host_aggregates.get(*key)
        if aggregate is None or aggregate.deleting:
            return
        status = aggregate_status(aggregate, cloud.host_aggregates, cloud.hosts, datetime.now(UTC))
        if status is not None:
            await cloud.write_status(aggregate, status)
