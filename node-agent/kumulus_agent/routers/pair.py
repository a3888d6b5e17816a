"""The two hosts of which one leads a router out: pure functions of what the operator has assigned.

They hear each other over a network of the hosts alone, number 0, whose tunnels are those of all networks. A router has
a link to it on the two, by link-local IPv6 addresses, which no router passes on: nothing that a guest sends gets there.
What the waiting host's guests send out goes by this link, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2s
from ipaddress import IPv6Address

from kumulus_agent.failover.config import Instance, VirtualAddress, VirtualRule
from kumulus_agent.network import names
from kumulus_agent.network.state import Neighbour as Forward
from kumulus_agent.network.state import NetworkDesired, RouterPort
from kumulus_agent.networks.plan import Here
from kumulus_agent.routers.state import PEER_ADDRESS, Address, Neighbour, PolicyRule
from kumulus_api.router import AssignedGateway

NETWORK = 0
"""The number of the hosts' own network; those of tenants begin with 1."""
_LINK_LOCAL = 0xFE80 << 112
STANDBY_DELAY = 6
"""Seconds that a standby waits after its start: a gateway that leads without VRRP takes four to lead by it."""


@dataclass(frozen=True)
class Pair:
    """This host as one of the two.

    Attributes:
        router_id: of the router.
        host: this host.
        active: it is the one that leads out unless that has been taken over.
        priority: this host's.
        peer: the other host.
        peer_tunnel: where that is reached.
    """

    router_id: str
    host: str
    active: bool
    priority: int
    peer: str
    peer_tunnel: str

    @property
    def link(self) -> str:
        """The router's link to the hosts' network."""
        return names.router_link(self.router_id, "pair")

    def port(self) -> RouterPort:
        """Give that link's end at the bridge."""
        return RouterPort(self.link, mac_of(self.router_id, self.host, "pair"), distributed=False)

    def forward(self) -> Forward:
        """Give where the other host's link is."""
        return mac_of(self.router_id, self.peer, "pair"), self.peer_tunnel

    def neighbours(self) -> Iterator[Neighbour]:
        """Yield the other host as the router sees it."""
        mac, _ = self.forward()
        yield Neighbour(self.link, PEER_ADDRESS, mac)
        yield Neighbour(self.link, link_local(mac), mac)

    def member(self, addresses: Iterable[Address], rules: Iterable[PolicyRule]) -> Instance:
        """Give this host's part in VRRP.

        Args:
            addresses: what the one that leads out has, with a prefix of their whole length.
            rules: by which it leads out.
        """
        shared = {VirtualAddress(item.link, item.text.partition("/")[0]) for item in addresses}
        # One of the family in which the two speak is needed; nobody asks for it.
        shared.add(VirtualAddress(self.link, _hashed(self.router_id)))
        return Instance(
            interface=self.link,
            source=link_local(self.port().mac),
            peers=(link_local(self.forward()[0]),),
            priority=self.priority,
            addresses=frozenset(shared),
            rules=frozenset(
                VirtualRule(item.preference, item.table, item.source, item.family, item.destination) for item in rules
            ),
            delay_seconds=0 if self.active else STANDBY_DELAY,
        )


def pair_of(router_id: str, gateway: AssignedGateway | None, host: str) -> Pair | None:
    """Give the pair of a router's gateway if this host is of it."""
    takeover = gateway.takeover if gateway is not None else None
    if gateway is None or takeover is None or takeover.standby is None:
        return None
    standby, priority = takeover.standby, takeover.priority
    if host == gateway.host:
        return Pair(
            router_id, host, active=True, priority=priority, peer=standby.host, peer_tunnel=standby.tunnel_address
        )
    if host == standby.host:
        peer, tunnel = gateway.host, gateway.tunnel_address
        return Pair(router_id, host, active=False, priority=priority + 1, peer=peer, peer_tunnel=tunnel)
    return None


def hosts_network(pairs: Iterable[Pair], here: Here) -> NetworkDesired:
    """Say what the hosts' network should be here: without flooding, as each knows where the others are."""
    found = sorted(pairs, key=lambda pair: pair.router_id)
    return NetworkDesired(
        vni=NETWORK,
        mtu=here.mtu,
        underlay_address=here.underlay_address,
        routers=tuple(pair.port() for pair in found),
        transits=frozenset(pair.forward() for pair in found),
    )


def mac_of(router_id: str, host: str, what: str = "") -> str:
    """Give a MAC of a router on one host."""
    digest = blake2s("/".join(filter(None, (router_id, host, what))).encode(), digest_size=5).digest()
    return "02:" + ":".join(f"{byte:02x}" for byte in digest)


def link_local(mac: str) -> str:
    """Give the address that the kernel makes of a MAC (RFC 4291)."""
    number = bytes.fromhex(mac.replace(":", ""))
    interface = bytes([number[0] ^ 2]) + number[1:3] + b"\xff\xfe" + number[3:]
    return str(IPv6Address(_LINK_LOCAL | int.from_bytes(interface)))


def _hashed(router_id: str) -> str:
    digest = blake2s(router_id.encode(), digest_size=7).digest()
    return str(IPv6Address(_LINK_LOCAL | int.from_bytes(b"\xfd" + digest)))
