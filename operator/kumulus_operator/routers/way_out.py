"""Find the way out of a router: addresses on the external network, and the host that has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from kumulus_api import Network, Router
from kumulus_api.router import AssignedGateway, RouterReason
from kumulus_operator.cloud import Cloud
from kumulus_operator.ipam.holding import Claimant, hold_address
from kumulus_operator.refusal import Refusal, Refused
from kumulus_operator.routers.gateway_hosts import GatewayHosts, HostsOfGateways
from kumulus_operator.routers.plan import Needed, Range, Way, gateway_needed, lead_out, network_of, with_prefix
from kumulus_operator.servers.interfaces import mac_of
from kumulus_operator.waiting import CAPACITY


class WayOut:
    """Gives routers their gateways.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._hosts = HostsOfGateways(cloud)

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
        hosts = self._hosts.find(router, router_id, network, given)
        fault = _no_host(network, hosts)
        if hosts.host is None:
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
                "enableSNATIPv6": way.snat_ipv6,
                "host": hosts.host,
                "tunnelAddress": hosts.tunnel,
                "takeover": hosts.takeover.dump() if hosts.takeover is not None else None,
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
        assigned = router.spec.assignment
        hosts = self._hosts.find(router, assigned.router_id if assigned is not None else "", network, given)
        fault = _no_host(network, hosts)
        where = {"host": hosts.host, "tunnel_address": hosts.tunnel, "takeover": hosts.takeover}
        return given.model_copy(update=where), faults + ([fault] if fault is not None else [])


def _no_host(network: Network, hosts: GatewayHosts) -> Refusal | None:
    """Say why no host is a good one, if none is."""
    if hosts.why is None:
        return None
    objections = hosts.objections or Counter[str]()
    told = ", ".join(f"{count} {text}" for text, count in sorted(objections.items()))
    found = f"of {objections.total()} hosts none can ({told})" if objections else "there is no host"
    stays = f"; host {hosts.host}, which is {hosts.why}, keeps it meanwhile" if hosts.host is not None else ""
    message = (
        f"gateway: a host is asked for that leads out into network {network.metadata.name}, {found}{stays}; "
        "transient: goes on when a host can"
    )
    return Refusal(RouterReason.NO_GATEWAY_HOST.value, message, frozenset({CAPACITY}))
