"""What of the peering of networks should be on this host (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kumulus_agent.network import names
from kumulus_agent.network.expressions import digest
from kumulus_agent.network.groups import GroupKey, GroupRule
from kumulus_agent.network.state import NetworkDesired
from kumulus_agent.peering import rules
from kumulus_agent.peering.place import PodsPlace
from kumulus_agent.peering.state import PODS, SERVICES, LinkDesired
from kumulus_agent.servers.desired import DesiredPort, NetworkKey
from kumulus_api import Network
from kumulus_api.peering import AssignedPeer, NetworkAssignment

ANYWHERE = "0.0.0.0/0"


@dataclass(frozen=True)
class PeeredHere:
    """A network whose servers this host's pods reach: its key, what was decided, and this host's part of it."""

    network: NetworkKey
    assignment: NetworkAssignment
    peer: AssignedPeer

    @property
    def port_id(self) -> str:
        """What its port is held by."""
        return f"peering-{self.network.vni}"

    @property
    def own_group(self) -> GroupKey:
        """The group of its port that no object stands for."""
        return ("", self.port_id)

    @property
    def hostname(self) -> str:
        """The name that the network's DNS has for it, as for all that is no server."""
        return "ip-" + self._bare()[0].replace(".", "-")

    def rules(self) -> frozenset[GroupRule]:
        """Give what its port takes and makes besides what its groups say: it makes connections of IPv4."""
        return frozenset({GroupRule("egress", family=4)})

    def port(self) -> DesiredPort:
        """Give its port, which is on this host as those of servers are; two dots are in no object's name."""
        groups = [(self.network.namespace, name) for name in self.assignment.security_groups]
        return DesiredPort(
            name="cluster",
            port=f"peering..{self.peer.host}",
            network=self.network,
            mac=self.peer.mac,
            addresses=self._bare(),
            tap=names.tap(self.port_id, "cluster"),
            groups=(*groups, self.own_group),
            namespace=self.network.namespace,
        )

    def place(self, namespace: str, mtu: int) -> PodsPlace:
        """Say what its port should be."""
        port = self.port()
        return PodsPlace(namespace, self.network.vni, port.tap, port.mac, tuple(self.peer.addresses), mtu)

    def link(self, namespace: str, mtu: int) -> LinkDesired:
        """Say what should join it to the host."""
        subnets = frozenset(self.assignment.subnets)
        told = rules.of_pods(subnets)
        name = f"{PODS}{self.network.vni:06x}"
        return LinkDesired(name, namespace, mtu, subnets, frozenset({ANYWHERE}), told, digest(told))

    def _bare(self) -> tuple[str, ...]:
        return tuple(item.partition("/")[0] for item in self.peer.addresses)


def peered_here(body: dict[str, Any], host: str) -> PeeredHere | None:
    """Read a Network as the API server sends it; None if this host has no part in it."""
    network = Network.model_validate(body)
    given, vni = network.spec.assignment, network.status.vni if network.status is not None else None
    if given is None or vni is None or not given.from_pods:
        return None
    peer = next((item for item in given.hosts if item.host == host), None)
    return PeeredHere(NetworkKey(*network.key, vni), given, peer) if peer is not None else None


def services_link(network: NetworkDesired, namespace: str) -> LinkDesired | None:
    """Say by what servers of a network here should reach Services; None if they reach none."""
    subnets = {str(subnet.cidr) for subnet in network.served if subnet.cidr.version == 4}
    if not network.services or network.service_link is None or not subnets:
        return None
    services = frozenset(map(str, network.services))
    told = rules.of_services(subnets, services)
    name = f"{SERVICES}{network.vni:06x}"
    return LinkDesired(name, namespace, network.mtu, frozenset(), services, told, digest(told))
