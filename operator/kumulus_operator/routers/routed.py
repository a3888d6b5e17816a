"""Which IPv6 subnets of a router go out, and are reached from outside, as they are.

A project writes what it likes into its subnets. So a subnet goes out untranslated only within the ranges of which the
external network says that the outside routes them here, and through one router alone: no project sends from the
addresses of another, and answers come to who has asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv6Network, ip_network
from typing import TYPE_CHECKING

from kumulus_api import Network, Router
from kumulus_api.router import AssignedGateway, AssignedInterface, RouterReason
from kumulus_operator.refusal import Refusal
from kumulus_operator.routers.plan import ranges_of
from kumulus_operator.views import Key
from kumulus_operator.waiting import Need

if TYPE_CHECKING:
    from kumulus_operator.cloud import Cloud


def need_of(network: Key) -> Need:
    """Give the need for a subnet that another router leads out to an external network."""
    return ("RoutedPrefix", *network)


def within_reach(interfaces: Iterable[AssignedInterface], network: Network) -> list[IPv6Network]:
    """Give the IPv6 subnets that the outside routes to routers of an external network, in order (pure)."""
    ranges = [found for text in network.spec.routed_prefixes if isinstance(found := ip_network(text), IPv6Network)]
    subnets = {found for item in interfaces for found in ranges_of(item.addresses) if isinstance(found, IPv6Network)}
    return sorted(subnet for subnet in subnets if any(subnet.subnet_of(item) for item in ranges))


def of_gateway(router: Router | None) -> tuple[Key, frozenset[IPv6Network]] | None:
    """Give the external network that a router leads to, and the subnets that go out there as they are."""
    given = router.spec.assignment if router is not None else None
    if given is None or given.gateway is None:
        return None
    way = given.gateway
    return (way.network_namespace, way.network), frozenset(IPv6Network(text) for text in way.routed)


class RoutedPrefixes:
    """Gives each subnet to one router.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._deciding: dict[Key, tuple[Key, frozenset[IPv6Network]]] = {}
        """By router: others decide before the watch shows it."""

    def forget(self, router: Key) -> None:
        """Take note that a router is gone, or that what was decided is written."""
        self._deciding.pop(router, None)

    def choose(
        self, router: Router, interfaces: Sequence[AssignedInterface], gateway: AssignedGateway
    ) -> tuple[AssignedGateway, list[Refusal]]:
        """Give the gateway with the subnets that go out as they are, and what is not as it should be."""
        key: Key = (gateway.network_namespace, gateway.network)
        network = self._cloud.networks.get(*key)
        if network is None or not any(":" in text for text in gateway.addresses):
            return gateway.model_copy(update={"routed": []}), []
        given = of_gateway(router)
        own = given[1] if given is not None and given[0] == key else frozenset()
        chosen, faults = [], []
        for subnet in within_reach(interfaces, network):
            if any(subnet.overlaps(item) for item in self._of_others(router, key, own)):
                message = (
                    f"gateway: {subnet} leads out to network {network.metadata.name} by another router, and not by "
                    "this one; transient: goes on when that gives it up, or choose another subnet"
                )
                reason = RouterReason.OVERLAPPING_SUBNETS.value
                faults.append(Refusal(reason, message, frozenset({need_of(key)})))
            else:
                chosen.append(subnet)
        self._deciding[router.key] = key, frozenset(chosen)
        return gateway.model_copy(update={"routed": [str(subnet) for subnet in chosen]}), faults

    def _of_others(self, router: Router, network: Key, own: frozenset[IPv6Network]) -> set[IPv6Network]:
        """Give what others lead out; of two that have the same, as after a restore, the older one does."""
        found: set[IPv6Network] = set()
        for key in self._cloud.edges.routers_in.get(network, set()) - {router.key}:
            other = self._cloud.routers.get(*key)
            led = of_gateway(other)
            if other is not None and led is not None and led[0] == network:
                found |= led[1] if _age(other) < _age(router) else led[1] - own
        for key, (where, subnets) in self._deciding.items():
            if key != router.key and where == network:
                found |= subnets
        return found


def _age(router: Router) -> tuple[str, Key]:
    return router.metadata.creation_timestamp or "", router.key
