"""What a load balancer should be on this host (pure)."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_interface, ip_network
from typing import Literal

from kumulus_agent.load_balancers.inside import Own, Place
from kumulus_agent.load_balancers.pair import pair_of
from kumulus_agent.network import names
from kumulus_agent.network.groups import GroupKey, GroupRule
from kumulus_agent.routers.pair import Pair
from kumulus_agent.servers.desired import DesiredPort, NetworkKey
from kumulus_api.load_balancer import ListenerProtocol, LoadBalancerAssignment
from kumulus_api.security_group import DEFAULT_GROUP

TCP, UDP = 6, 17
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
        here: this host.
    """

    namespace: str
    name: str
    uid: str
    generation: int
    assignment: LoadBalancerAssignment
    here: str

    @property
    def pair(self) -> Pair | None:
        """This host as one of two, of which one has the addresses; None where they are on its host for good."""
        return pair_of(self.assignment, self.here)

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
            shared=self.pair is not None,
        )

    @property
    def own(self) -> DesiredPort | None:
        """The standby's own port, by which it reaches members; None on the other host, which does so as itself."""
        takeover, pair = self.assignment.takeover, self.pair
        if takeover is None or pair is None or pair.active:
            return None
        return replace(
            self.port(),
            name="own",
            port=takeover.port,
            mac=takeover.mac,
            addresses=tuple(str(ip_interface(item).ip) for item in takeover.addresses),
            tap=names.tap(self.balancer_id, "own"),
            port_id=takeover.port_id,
            shared=False,
        )

    def ports(self) -> list[DesiredPort]:
        """Give all its ports here."""
        own = self.own
        return [self.port(), *([own] if own is not None else [])]

    def place(self, mtu: int) -> Place:
        """Say what it should be in its namespace."""
        given, own, takeover = self.assignment, self.own, self.assignment.takeover
        return Place(
            self.balancer_id,
            self.tap,
            given.vni,
            given.mac,
            tuple(given.addresses),
            tuple(given.next_hops),
            mtu,
            self.pair,
            Own(own.tap, own.mac, tuple(takeover.addresses)) if own is not None and takeover is not None else None,
        )

    def rules(self) -> frozenset[GroupRule]:
        """Give what its port takes and makes besides what its groups say: who may connect, and its members."""
        versions = {ip_interface(item).version for item in self.assignment.addresses}
        return frozenset([*self._listening(versions), *(GroupRule("egress", family=family) for family in _FAMILIES)])

    def _listening(self, versions: Collection[int]) -> Iterator[GroupRule]:
        for listener in self.assignment.listeners:
            protocol = UDP if listener.protocol is ListenerProtocol.UDP else TCP
            ranges = [ip_network(item, strict=False) for item in listener.allowed_cidrs]
            for family in _FAMILIES:
                if family not in versions:
                    continue
                for remote in [item for item in ranges if item.version == family] if ranges else [None]:
                    yield GroupRule("ingress", protocol, (listener.port, listener.port), None, remote, family)
