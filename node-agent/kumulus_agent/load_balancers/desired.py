"""What a load balancer should be on this host (pure)."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from ipaddress import ip_interface, ip_network
from typing import Literal

from kumulus_agent.network import names
from kumulus_agent.network.groups import GroupKey, GroupRule
from kumulus_agent.servers.desired import DesiredPort, NetworkKey
from kumulus_api.load_balancer import LoadBalancerAssignment
from kumulus_api.security_group import DEFAULT_GROUP

TCP = 6
_FAMILIES: tuple[Literal[4], Literal[6]] = (4, 6)


@dataclass(frozen=True)
class HereBalancer:
    """A load balancer that this host has.

    Attributes:
        namespace: of its project.
        name: its name.
        uid: of the object, so that a successor of its name is not told of.
        generation: of the object.
        assignment: what was decided.
    """

    namespace: str
    name: str
    uid: str
    generation: int
    assignment: LoadBalancerAssignment

    @property
    def balancer_id(self) -> str:
        """Its identity."""
        return self.assignment.load_balancer_id

    @property
    def network(self) -> NetworkKey:
        """The network that it is in."""
        given = self.assignment
        return NetworkKey(given.network_namespace, given.network, given.vni)

    @property
    def tap(self) -> str:
        """The bridge's end of its link."""
        return names.tap(self.balancer_id, "vip")

    @property
    def own_group(self) -> GroupKey:
        """The group of its port that no object stands for: what it listens on."""
        return ("", self.balancer_id)

    def port(self) -> DesiredPort:
        """Give its port, which is on this host as those of servers are."""
        given = self.assignment
        groups = [(self.namespace, name) for name in given.security_groups or [DEFAULT_GROUP]]
        return DesiredPort(
            name="vip",
            port=given.port,
            network=self.network,
            mac=given.mac,
            addresses=tuple(str(ip_interface(item).ip) for item in given.addresses),
            tap=self.tap,
            port_id=given.port_id,
            groups=(*groups, self.own_group),
            namespace=self.namespace,
        )

    def rules(self) -> frozenset[GroupRule]:
        """Give what its port takes and makes besides what its groups say: who may connect, and its members."""
        versions = {ip_interface(item).version for item in self.assignment.addresses}
        return frozenset([*self._listening(versions), *(GroupRule("egress", family=family) for family in _FAMILIES)])

    def _listening(self, versions: Collection[int]) -> Iterator[GroupRule]:
        for listener in self.assignment.listeners:
            ranges = [ip_network(item, strict=False) for item in listener.allowed_cidrs]
            for family in _FAMILIES:
                if family not in versions:
                    continue
                for remote in [item for item in ranges if item.version == family] if ranges else [None]:
                    yield GroupRule("ingress", TCP, (listener.port, listener.port), None, remote, family)
