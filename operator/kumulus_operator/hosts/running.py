"""Which instances hosts report that the API knows nothing of, by the server's name."""

from __future__ import annotations

from collections import defaultdict

from kumulus_api import Host
from kumulus_api.host import UnclaimedInstance
from kumulus_operator.views import Key

Running = tuple[str, UnclaimedInstance]
"""A host and an instance that it runs."""


class RunningInstances:
    """An index of `status.unclaimedInstances` of all hosts that were not given up."""

    def __init__(self) -> None:
        self._by_server: defaultdict[Key, list[Running]] = defaultdict(list)
        self._by_host: dict[str, list[Key]] = {}

    def see(self, host: Host) -> None:
        """Take in what a host reports now."""
        name = host.metadata.name
        self.drop(name)
        if host.status is None or host.spec.decommissioned or not host.status.unclaimed_instances:
            return
        keys = []
        for item in host.status.unclaimed_instances:
            keys.append((item.namespace, item.name))
            self._by_server[keys[-1]].append((name, item))
        self._by_host[name] = keys

    def drop(self, host: str) -> None:
        """Forget what a host reported."""
        for key in self._by_host.pop(host, ()):
            left = [entry for entry in self._by_server.pop(key, []) if entry[0] != host]
            if left:
                self._by_server[key] = left

    def of(self, server: Key) -> list[Running]:
        """Give the instances that hosts report under a server's name."""
        return self._by_server.get(server, [])
