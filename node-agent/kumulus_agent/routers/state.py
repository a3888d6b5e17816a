"""What a router should be on this host, and what is there: the same shape, so that they are compared part by part."""

from __future__ import annotations

from dataclasses import dataclass, field

from kumulus_agent.failover.config import Instance
from kumulus_agent.routers.firewall import Firewall

TABLE_OUT = 10
"""Routing table of what leaves by the external network here."""
TABLE_TRANSIT = 20
"""Routing table of what leaves by the gateway's host."""
PREFERENCE_FLOATING = 33000
"""Preferences behind 32766, the main table's: what the router's own networks need not lead out."""
PREFERENCE_DEFAULT = 34000
PREFERENCE_SHARED_FLOATING, PREFERENCE_LEADING = 33500, 34500
"""Of rules that of two hosts only the one has that leads out now."""
PREFERENCE_WAITING = 35000
PREFERENCE_TUNNELLED_LEADING, PREFERENCE_TUNNELLED, PREFERENCE_NOWHERE = 300, 310, 320
"""Of rules for networks behind VPNs, after charon's and before the main table's, so that no static route leads there
while there is no tunnel: the first where the router leads out now, the last for what none of them leads anywhere."""
NOWHERE = 0
"""In place of a table: what a rule is about is dropped."""
TABLE_TUNNELS = 220
"""Routing table of charon, which it alone writes; asked before all others."""
PEER_ADDRESS = "169.254.0.2"
"""The other of the two as each sees it; its MAC is noted."""


def alone(address: str) -> str:
    """Give an address with the prefix of its whole length."""
    return f"{address}/{128 if ':' in address else 32}"


def family_of(text: str) -> int:
    """Give 4 or 6: of an address or network."""
    return 6 if ":" in text else 4


@dataclass(frozen=True, order=True)
class Join:
    """A veth between the router and a network's bridge, both ends of one name.

    Attributes:
        name: names.router_link.
        bridge: the network's, in the datapath's namespace.
        mac: the router's there.
        mtu: bytes.
    """

    name: str
    bridge: str
    mac: str
    mtu: int


@dataclass(frozen=True, order=True)
class Address:
    """An address of the router: 10.0.1.1/24."""

    link: str
    text: str


@dataclass(frozen=True, order=True)
class Neighbour:
    """A permanent neighbour: nobody is asked for its MAC."""

    link: str
    address: str
    mac: str


@dataclass(frozen=True, order=True)
class Route:
    """A route; without `via` the destination is on the link. The destination is a network, also 0.0.0.0/0."""

    table: int
    destination: str
    link: str
    via: str = ""


@dataclass(frozen=True, order=True)
class PolicyRule:
    """Which table is asked for packets from `source` to `destination` ("" for all of the family, which is 4 or 6).

    Of table NOWHERE they are dropped.
    """

    preference: int
    table: int
    source: str = ""
    family: int = 4
    destination: str = ""
    """A network: 10.20.0.0/16."""


@dataclass(frozen=True, order=True)
class Floating:
    """A floating address, and the address of the server that it leads to."""

    address: str
    fixed: str


@dataclass(frozen=True, order=True)
class Forwarding:
    """A port of a floating address, and where it leads; `protocol` is tcp or udp."""

    protocol: str
    address: str
    port: int
    to_address: str
    to_port: int


@dataclass(frozen=True)
class Translation:
    """What is done to addresses.

    Attributes:
        external: the link to the external network; "" if it is not reached from here.
        internal: networks whose servers find each other by floating addresses, too.
        source: what everything else leaves as; "" if it keeps its address or leaves elsewhere.
        hairpin: what a server without floating address has as source when it speaks to a floating address here.
        shared: another host may lead out instead: a floating address is translated only while it is here.
        tunnelled: networks behind VPNs, where nothing is sent in clear; none overlaps another.
        family: 4 or 6.
        routed: of IPv6, networks that go out and are reached from outside as they are.
        closed: of IPv6, what is neither routed nor has a floating address here does not get out.
        silent: of IPv6, a link that this host never speaks on: another one has its MAC, too, and is found by it.
    """

    external: str = ""
    internal: tuple[str, ...] = ()
    source: str = ""
    hairpin: str = ""
    floating: frozenset[Floating] = frozenset()
    forwardings: frozenset[Forwarding] = frozenset()
    shared: bool = False
    tunnelled: tuple[str, ...] = ()
    family: int = 4
    routed: tuple[str, ...] = ()
    closed: bool = False
    silent: str = ""

    @property
    def needed(self) -> bool:
        """Whether anything is translated or held back: with no IPv6 outside it is not."""
        return self.family == 4 or self != Translation(family=self.family)


@dataclass(frozen=True)
class RouterDesired:
    """A router as it should be on this host.

    Attributes:
        router_id: its identity.
        joins: links to bridges.
        addresses: those in its own networks.
        external: those of the external network, which are announced there.
        speaking6: links on which there is IPv6.
        translation6: of IPv6.
        failover: this host's part in VRRP, if another may lead out instead.
        firewall: what its interfaces let pass.
    """

    router_id: str
    joins: frozenset[Join] = frozenset()
    addresses: frozenset[Address] = frozenset()
    external: frozenset[Address] = frozenset()
    neighbours: frozenset[Neighbour] = frozenset()
    routes: frozenset[Route] = frozenset()
    policy: frozenset[PolicyRule] = frozenset()
    translation: Translation = field(default_factory=Translation)
    translation6: Translation = Translation(family=6)
    speaking6: frozenset[str] = frozenset()
    failover: Instance | None = None
    firewall: Firewall = field(default_factory=Firewall)

    @property
    def virtual(self) -> frozenset[Address | PolicyRule]:
        """What comes and goes by VRRP, without the agent."""
        if self.failover is None:
            return frozenset()
        addresses = (Address(item.link, alone(item.address)) for item in self.failover.of_family(own=False))
        rules = (
            PolicyRule(item.preference, item.table, item.source, item.family, item.destination)
            for item in self.failover.rules
        )
        return frozenset([*addresses, *rules])


@dataclass(frozen=True)
class Observed:
    """The router's namespace as it is, and its links' ends at the bridges.

    Attributes:
        exists: the namespace is there.
        joins: complete ones: both ends up and of one MTU, and the bridge knows for good that the MAC is there.
        links: all that are there, whatever state they are in.
        version: digest of the translation's rules; "" if there are none.
        source: of `Translation`, as the rules say it.
        version6: as `version`, of IPv6.
        source6: as `source`, of IPv6.
        speaking6: links on which there is IPv6.
        firewall: digest of the firewall's rules; "" if they are not whole, None if there are none.
    """

    exists: bool = False
    joins: frozenset[Join] = frozenset()
    links: frozenset[str] = frozenset()
    addresses: frozenset[Address] = frozenset()
    neighbours: frozenset[Neighbour] = frozenset()
    routes: frozenset[Route] = frozenset()
    policy: frozenset[PolicyRule] = frozenset()
    version: str = ""
    source: str = ""
    version6: str = ""
    source6: str = ""
    speaking6: frozenset[str] = frozenset()
    floating: frozenset[Floating] = frozenset()
    forwardings: frozenset[Forwarding] = frozenset()
    firewall: str | None = None
