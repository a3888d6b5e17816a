"""Choose the two hosts of a gateway: the one that leads out, and the one that takes over."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import structlog

from kumulus_api import Host, Network, Router
from kumulus_api.router import AssignedGateway, AssignedStandby, AssignedTakeover
from kumulus_operator.cloud import Cloud
from kumulus_operator.routers.ways import has_taken_over, least_used, next_priority, objection, shares

_LOG = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True)
class GatewayHosts:
    """The hosts of a gateway.

    Attributes:
        host: that leads out.
        tunnel: where it is reached.
        takeover: None where the gateway moves by the API alone.
        why: what speaks against the host, if it is not a good one.
        objections: what speaks against the others, with their number, where none is good.
    """

    host: str | None
    tunnel: str | None
    takeover: AssignedTakeover | None
    why: str | None = None
    objections: Counter[str] | None = None


class HostsOfGateways:
    """Chooses.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    def find(self, router: Router, router_id: str, network: Network, given: AssignedGateway | None) -> GatewayHosts:
        """Give the hosts that a router is to lead out on.

        A host is kept while it is good, so that connections go on; where no other is good either, it is kept as well.
        One that is silent is kept, too, as long as its standby hears of it: it leads out though its agent says nothing.
        """
        current = given.host if given is not None else None
        standby = given.takeover.standby if given is not None and given.takeover is not None else None
        why = "not chosen" if current is None else self._objection(current, network)
        host: str | None = current
        objections: Counter[str] | None = None
        if standby is not None and self._ready(standby.host, network):
            if self._replaced(router_id, standby, why):
                host, why = standby.host, None
            elif why == "silent":
                why = None
        if why is not None:
            chosen, objections = self._other(router, network)
            host, why = (chosen, None) if chosen is not None else (current, why)
        if host is None:
            return GatewayHosts(None, None, None, why, objections)
        if current not in (None, host):
            _LOG.info("gateway moves", namespace=router.key[0], name=router.key[1], source=current, target=host)
        tunnel = self._tunnel(host) or (given.tunnel_address if given is not None else None)
        takeover = self._takeover(router, network, host, given)
        return GatewayHosts(host, tunnel, takeover, why, objections)

    def _replaced(self, router_id: str, standby: AssignedStandby, why: str | None) -> bool:
        """Whether the standby is to be the gateway's host: it leads out already, or shall."""
        taken = has_taken_over(self._cloud.hosts.get("", standby.host), router_id)
        return taken or why not in (None, "silent")

    def _takeover(
        self, router: Router, network: Network, host: str, given: AssignedGateway | None
    ) -> AssignedTakeover | None:
        """Give how the gateway goes over; a physical network's hosts hear from the gateway itself where it is."""
        if network.spec.provider is None:
            return None
        former = given.takeover if given is not None else None
        former_host = given.host if given is not None else None
        standby = self._standby(router, network, host, given)
        name = standby.host if standby is not None else None
        priority = next_priority(former, former_host, host, name)
        return AssignedTakeover.model_validate(
            {"priority": priority, "standby": standby.dump() if standby is not None else None}
        )

    def _standby(
        self, router: Router, network: Network, host: str, given: AssignedGateway | None
    ) -> AssignedStandby | None:
        """Keep the standby while it is good; else take another, or where there is none keep one that may come back."""
        cloud = self._cloud
        if not shares(cloud.hosts.get("", host)):
            return None
        former = given.takeover.standby if given is not None and given.takeover is not None else None
        known = [former.host] if former is not None else []
        if given is not None and host != given.host:
            known = [given.host]
        for name in known:
            if name != host and self._ready(name, network):
                return self._named(name, former)
        able = [item.metadata.name for item in cloud.hosts if item.metadata.name != host]
        able = [name for name in able if cloud.host_fresh(name) and self._ready(name, network)]
        chosen = least_used(able, cloud.edges.led_out())
        if chosen is not None:
            return self._named(chosen, former)
        silent = [name for name in known if name != host and self._objection(name, network) in ("silent", "not Ready")]
        return self._named(silent[0], former) if silent else None

    def _named(self, name: str, former: AssignedStandby | None) -> AssignedStandby | None:
        tunnel = self._tunnel(name)
        if tunnel is None:
            return former if former is not None and former.host == name else None
        return AssignedStandby.model_validate({"host": name, "tunnelAddress": tunnel})

    def _other(self, router: Router, network: Network) -> tuple[str | None, Counter[str]]:
        """Choose a host that speaks, the one that the fewest routers use; count what is against the others."""
        cloud = self._cloud
        objections = Counter[str]()
        able = []
        for host in cloud.hosts:
            found = self._objection(host.metadata.name, network)
            if found is None and cloud.host_fresh(host.metadata.name):
                able.append(host.metadata.name)
            else:
                objections[found or "silent"] += 1
        chosen = least_used(able, cloud.edges.led_out())
        if chosen is not None:
            cloud.edges.choosing[router.key] = chosen
        return chosen, objections

    def _ready(self, name: str, network: Network) -> bool:
        """Whether a host can be one of two."""
        return self._objection(name, network) is None and shares(self._cloud.hosts.get("", name))

    def _objection(self, name: str, network: Network) -> str | None:
        if self._cloud.host_silent(name):
            return "silent"
        return objection(self._cloud.hosts.get("", name), network)

    def _tunnel(self, name: str) -> str | None:
        host: Host | None = self._cloud.hosts.get("", name)
        return host.status.tunnel_address if host is not None and host.status is not None else None
