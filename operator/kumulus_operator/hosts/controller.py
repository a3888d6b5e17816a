"""Reconcile a Host: notice its silence."""

from __future__ import annotations

import time

import structlog

from kumulus_operator.cloud import Cloud, enqueue
from kumulus_operator.images.plan import concerns
from kumulus_operator.migration.draining import Drainer
from kumulus_operator.views import Key

_LOG = structlog.stdlib.get_logger(__name__)


class HostController:
    """Watches over the Leases of hosts by the own clock.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._silent: set[str] = set()
        self._drainer = Drainer(cloud)

    async def reconcile(self, key: Key) -> float | None:
        """Look whether a host speaks; give the seconds until its silence would begin."""
        cloud, name = self._cloud, key[1]
        host = cloud.hosts.get(*key)
        given_up = host is None or host.spec.decommissioned
        unused = not cloud.ports_on(name) and not cloud.servers_on[name] and not cloud.balancers.on_host.get(name)
        if host is None and unused and not any(concerns(image, name) for image in cloud.images):
            self._silent.discard(name)
            return None
        now = time.monotonic()
        cloud.liveness.expect(name, now)
        left = cloud.liveness.silent_in(name, now)
        if left > 0:
            self._silent.discard(name)
            again = await self._drainer.look(host) if host is not None else None
            return min(left + 0.05, again or left)
        if name not in self._silent:
            self._silent.add(name)
            _LOG.warning("host is silent", host=name)
            enqueue(cloud.queues.servers, cloud.servers_on[name])
            enqueue(cloud.queues.routers, cloud.edges.gateways_on(name))
            enqueue(cloud.queues.load_balancers, cloud.balancers.on_host.get(name, ()))
            enqueue(cloud.queues.images, (item.key for item in cloud.images if concerns(item, name)))
        if given_up:
            enqueue(cloud.queues.ports, (port.key for port in cloud.ports_on(name)))
            enqueue(cloud.queues.images, (item.key for item in cloud.images if concerns(item, name)))
        return None
