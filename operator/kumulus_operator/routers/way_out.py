"""Find the way out of a router: addresses on the external network, and the host that has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import structlog

from kumulus_api import Network, Router
from kumulus_api.router import AssignedGateway, RouterReason
from kumulus_operator.cloud import Cloud
from kumulus_operator.ipam.holding import Claimant, hold_address
from kumulus_operator.refusal import Refusal, Refused
from kumulus_operator.routers.plan import Needed, Range, Way, gateway_needed, lead_out, network_of, with_prefix
from kumulus_operator.routers.ways import least_used, objection
from kumulus_operator.servers.interfaces import mac_of
from kumulus_operator.waiting import CAPACITY

_LOG = structlog.stdlib.get_logger(__name__)


class WayOut:
    """Gives routers their gateways.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    async def find(
        self, router: Router, router_id: str, inside: Collection[Range], needed: Needed
    ) -> tuple[AssignedGateway | None, list[Refusal]]:
        """Give the gateway that the router is to have, and what is not as its spec says.

        What is assigned stays while floating IPs need it, and while the spec names its network.
        """
        cloud, wanted = self._cloud, router.spec.gateway
        given = router.spec.assignment.gateway if router.spec.assignment is not None else None
        held = gateway_needed(router, needed)
        if held is not None and given is not None:
            return self._stay(router, given, [held])
        if wanted is None:
            return None, []
        same = given is not None and network_of(router.key, wanted.network) == (given.network_namespace, given.network)
        try:
            way = lead_out(router, wanted, cloud, inside)
            return await self._take(router, router_id, way, given if same else None)
        except Refused as refused:
            if given is not None and same:
                return self._stay(router, given, [refused.refusal])
            return None, [refused.refusal]

    async def _take(
        self, router: Router, router_id: str, way: Way, given: AssignedGateway | None
    ) -> tuple[AssignedGateway | None, list[Refusal]]:
        network = way.network
        host, fault = self._host(router, network, given)
        if host is None:
            return None, [fault] if fault is not None else []
        claimant, addresses = Claimant(router, router_id, "gateway"), []
        for subnet, wanted in way.wanted:
            address = await hold_address(self._cloud, claimant, network, subnet, wanted)
            addresses.append(with_prefix(address, subnet))
        gateway = AssignedGateway.model_validate(
            {
                "network": network.metadata.name,
                "networkNamespace": network.key[0],
                "vni": network.status.vni if network.status is not None else None,
                "mac": mac_of(f"{router_id}/gateway"),
                "addresses": addresses,
                "nextHops": [subnet.gateway for subnet, _ in way.wanted if subnet.gateway is not None],
                "enableSNAT": way.snat,
                "host": host,
                "tunnelAddress": self._tunnel(host) or (given.tunnel_address if given is not None else None),
            }
        )
        return gateway, [fault] if fault is not None else []

    def _stay(
        self, router: Router, given: AssignedGateway, faults: list[Refusal]
    ) -> tuple[AssignedGateway, list[Refusal]]:
        """Keep a gateway as it is, on a host that lives."""
        network = self._cloud.networks.get(given.network_namespace, given.network)
        if network is None:
            return given, faults
        host, fault = self._host(router, network, given)
        host = host or given.host
        where = {"host": host, "tunnel_address": self._tunnel(host) or given.tunnel_address}
        return given.model_copy(update=where), faults + ([fault] if fault is not None else [])

    def _host(
        self, router: Router, network: Network, given: AssignedGateway | None
    ) -> tuple[str | None, Refusal | None]:
        """Give the host to lead out on, and why it is not a good one.

        A host is kept while it is good, so that connections go on; where no other is good either, it is kept as well.
        """
        cloud = self._cloud
        current = given.host if given is not None else None
        why = "not chosen" if current is None else self._objection(current, network)
        if current is not None and why is None:
            return current, None
        objections = Counter[str]()
        able = []
        for host in cloud.hosts:
            found = self._objection(host.metadata.name, network)
            if found is None and cloud.host_fresh(host.metadata.name):
                able.append(host.metadata.name)
            else:
                objections[found or "silent"] += 1
        chosen = least_used(able, cloud.edges.led_out())
        if chosen is None:
            return current, _no_host(network, current, why, objections)
        cloud.edges.choosing[router.key] = chosen
        if current is not None:
            _LOG.info(
                "gateway moves", namespace=router.key[0], name=router.key[1], source=current, target=chosen, why=why
            )
        return chosen, None

    def _objection(self, name: str, network: Network) -> str | None:
        if self._cloud.host_silent(name):
            return "silent"
        return objection(self._cloud.hosts.get("", name), network)

    def _tunnel(self, name: str) -> str | None:
        host = self._cloud.hosts.get("", name)
        return host.status.tunnel_address if host is not None and host.status is not None else None


def _no_host(network: Network, current: str | None, why: str | None, objections: Counter[str]) -> Refusal:
    told = ", ".join(f"{count} {text}" for text, count in sorted(objections.items()))
    found = f"of {objections.total()} hosts none can ({told})" if objections else "there is no host"
    stays = f"; host {current}, which is {why}, keeps it meanwhile" if current is not None else ""
    message = (
        f"gateway: a host is asked for that leads out into network {network.metadata.name}, {found}{stays}; "
        "transient: goes on when a host can"
    )
    return Refusal(RouterReason.NO_GATEWAY_HOST.value, message, frozenset({CAPACITY}))
