"""Write where a network's ports are, in slices, at most once in a while."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from kumulus_api import FloatingIP, Host, LoadBalancer, Network, NetworkEndpoints, Router, Server
from kumulus_api.network import NETWORK_LABEL
from kumulus_operator.bodies import MANAGER, owner_reference
from kumulus_operator.cloud import Cloud
from kumulus_operator.metrics import ENDPOINT_WRITES
from kumulus_operator.networks.plan import balancer_endpoints, edge_endpoints, endpoints_of, plan_slices, tunnel_of
from kumulus_operator.pacing import Turns
from kumulus_operator.peerings.plan import peer_endpoints
from kumulus_operator.views import Key
from kumulus_runtime.errors import Forbidden, Invalid, NotFound

_BURST = 20
"""So many networks are written at once after a quiet time."""


class EndpointsController:
    """Writes NetworkEndpoints: at once after a quiet time, else what gathered in `endpoints_debounce` seconds.

    When many networks change at once they take turns at `endpoints_per_second`: each waits a little longer and more
    gathers for it, so that slices, which are large, do not hold up what servers are placed with.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._written_at: dict[Key, float] = {}
        self._turns = Turns(cloud.settings.endpoints_per_second, _BURST)

    async def reconcile(self, key: Key) -> float | None:
        """Bring the slices of one network up to date."""
        cloud = self._cloud
        network = cloud.networks.get(*key)
        users = cloud.users_of_network.get(key, set())
        if network is None or network.status is None or network.status.vni is None:
            self._written_at.pop(key, None)
            self._turns.done(key)
            return None
        if network.deleting and not users and not cloud.balancers.in_network.get(key):
            return None  # It goes, and they with it.
        quiet = self._written_at.get(key, 0.0) + cloud.settings.endpoints_debounce
        wait = self._turns.wait(key, time.monotonic(), quiet)
        if wait > 0:
            return wait
        self._turns.done(key)
        servers = [server for user in sorted(users) if (server := cloud.servers.get(*user)) is not None]
        wanted = endpoints_of(key, servers, self._hosts_of(servers), cloud.ports.get)
        wanted |= balancer_endpoints(key, self._balancers_in(key), self._tunnel, cloud.ports.get)
        if network.spec.external and network.spec.provider is None:
            wanted |= edge_endpoints(key, *self._edges_of(key))
        if network.spec.assignment is not None:
            wanted |= dict(peer_endpoints(network, self._tunnels()))
        plan = plan_slices(wanted, self._found(key))
        for index, endpoints in plan.write.items():
            await self._write(network, index, endpoints)
        for index in plan.delete:
            await cloud.client.delete(NetworkEndpoints, _name(key[1], index), key[0])
        if plan.write or plan.delete:
            self._written_at[key] = time.monotonic()
        return None

    def _edges_of(self, key: Key) -> tuple[list[Router], list[FloatingIP], dict[str, str]]:
        """Give routers and floating IPs with addresses in a network, and where hosts are reached."""
        cloud = self._cloud
        leading = (cloud.routers.get(*at) for at in cloud.edges.routers_in.get(key, ()))
        floating = (cloud.floating_ips.get(*at) for at in cloud.edges.floating_in.get(key, ()))
        return [item for item in leading if item], [item for item in floating if item], self._tunnels()

    def _tunnels(self) -> dict[str, str]:
        """Give where hosts are reached."""
        return {host.metadata.name: tunnel for host in self._cloud.hosts if (tunnel := tunnel_of(host)) is not None}

    def _balancers_in(self, key: Key) -> list[LoadBalancer]:
        found = (self._cloud.load_balancers.get(*at) for at in self._cloud.balancers.in_network.get(key, ()))
        return [balancer for balancer in found if balancer is not None]

    def _tunnel(self, name: str) -> str | None:
        host = self._cloud.hosts.get("", name)
        return tunnel_of(host) if host is not None else None

    def _hosts_of(self, servers: Iterable[Server]) -> dict[str, Host]:
        """Give the hosts that the servers are on; looking at all of them would cost more than the rest."""
        names = {server.spec.assignment.host for server in servers if server.spec.assignment is not None}
        return {name: host for name in names if (host := self._cloud.hosts.get("", name)) is not None}

    def _found(self, network: Key) -> dict[int, list[dict[str, Any]]]:
        found = {}
        for item in self._cloud.endpoints.in_namespace(network[0]):
            index = item.metadata.name.removeprefix(f"{network[1]}-")
            if item.spec.network.name == network[1] and index.isdigit():
                found[int(index)] = [endpoint.dump() for endpoint in item.spec.endpoints]
        return found

    async def _write(self, network: Network, index: int, endpoints: list[dict[str, Any]]) -> None:
        namespace, name = network.key
        body = {
            "metadata": {
                "name": _name(name, index),
                "namespace": namespace,
                "labels": {NETWORK_LABEL: name[:63]},
                "ownerReferences": [owner_reference(network)],
            },
            "spec": {
                "network": {"name": name},
                "vni": network.status.vni if network.status else None,
                "endpoints": endpoints,
            },
        }
        try:
            self._cloud.take(NetworkEndpoints, await self._cloud.client.apply(NetworkEndpoints, body, manager=MANAGER))
        except (NotFound, Invalid, Forbidden):
            # In a namespace that is being deleted nothing new can be made, and no server comes any more.
            live = await self._cloud.client.get(Network, name, namespace)
            if live is not None and not live["metadata"].get("deletionTimestamp"):
                raise
        ENDPOINT_WRITES.inc()


def _name(network: str, index: int) -> str:
    return f"{network}-{index}"
