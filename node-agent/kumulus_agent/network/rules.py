"""The datapath's nftables rules as data: fixed chains, and per interface elements of their sets.

Each frame gets a mark as it enters a bridge: the number of its network on this host in the lower 16 bits, and in the
upper the number of the port that it comes from. An interface that has no number drops everything: a port is closed
until its rules are there. br_netfilter then carries the frame, mark and all, to table `inet`, of both families, where
the network's number becomes the conntrack zone, before defragmentation (priority -400), so that equal addresses of two
tenants never meet, and where the port that it comes from is judged. As it leaves the bridge it gets the mark of the
interface that it leaves by, and the port that it goes to is judged. A port without groups, and what is no port, is in
neither map and not judged. A connection that a port begins is counted besides, by the port (`limits`).

A connection that the groups no longer permit keeps its entry, marked as refused: without an entry, the next packet of
the guest itself would begin it anew in the other direction.

What comes from a physical network with a VLAN tag is another network's and dropped; so is IPv6 where the network has
no IPv6 subnet, as no guest could answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from kumulus_agent.network import gateways
from kumulus_agent.network.expressions import (
    ACCEPT,
    DROP,
    TABLE,
    Command,
    absent,
    add,
    anew,
    anyof,
    digest,
    field,
    match,
    meta,
    udp,
)
from kumulus_agent.network.groups import DIRECTIONS, REFUSED, Chain, is_members, members_type, zone_of_members
from kumulus_agent.network.limits import (
    KERNELS,
    NETWORK,
    PORT_MASK,
    REASONS,
    bounds,
    counted_drop,
    counting_sets,
    forgotten,
    fragment_bounds,
    refused,
)
from kumulus_agent.network.spoofing import (
    ADVERTISE,
    ADVERTISE_ROUTER,
    ADVERTISERS,
    DHCP,
    DHCPV6,
    DONE,
    NEIGHBOURS,
    OWN_NEIGHBOURS,
    QUERY,
    RANGES,
    REPORT,
    REPORT_2,
    SOLICIT,
    SOLICIT_ROUTER,
    TAGGED,
    guest_chains,
    no_router,
    of_service,
    to_service,
)
from kumulus_agent.network.spoofing import SETS as PORT_SETS

NETWORK_MASK = NETWORK
PORT_SHIFT = 16
STATELESS = "stateless"
"""The ports of which each packet is judged by itself."""
ANSWERED = "answered"
"""Their interfaces: what the network's own servers answer needs no rule."""
UNASKED = {4: "unasked4", 6: "unasked6"}
"""By family, the interfaces by which no guest's question for an address leaves."""
SETS: dict[str, list[str]] = {
    "guests": ["ifname"],
    **PORT_SETS,
    "overlays": ["ifname"],
    **{name: ["ifname"] for name in UNASKED.values()},
    "services": ["ifname"],
    ANSWERED: ["ifname"],
    "uplinks": ["ifname"],
    "uplinks6": ["ifname"],
    ADVERTISERS: ["ifname"],
    **gateways.SETS,
}
ZONES = "zones"
"""The map of interface to its mark: the numbers of port and network."""
_BRIDGED = {*SETS, ZONES, NEIGHBOURS, OWN_NEIGHBOURS, gateways.SOURCES}
_OF_PORTS = (*DIRECTIONS, "nd")
_ANSWERING = {"udp": (53,), "tcp": (53, 80)}
"""By protocol, the ports of the network's servers of names and metadata."""
_SOLICITED = (SOLICIT_ROUTER, SOLICIT, ADVERTISE, REPORT, DONE, REPORT_2)
"""ICMPv6 that every port may send; what is in it has been looked at."""
_HEARD = (ADVERTISE_ROUTER, SOLICIT, ADVERTISE, QUERY, REPORT, DONE, REPORT_2)
"""ICMPv6 that every port is told; advertisements of routers come from none but those."""


Owner = str | int | tuple[int | None]
"""An interface, the number of a port, or the number of a network."""


@dataclass(frozen=True, order=True)
class Element:
    """An element of a set or map.

    In the bridge table the first part of the key is an interface, and a value a mark, a chain or a MAC; in table `inet`
    the key of a map is a port's part of a mark, and the value a chain.
    """

    set: str
    key: tuple[str | int, ...]
    value: int | str | None = None

    @property
    def family(self) -> str:
        """The family of its table."""
        return "bridge" if self.set in _BRIDGED else "inet"

    @property
    def owner(self) -> Owner:
        """What it is about."""
        if self.set in _BRIDGED:
            return self.key[0]
        if self.set in (*DIRECTIONS, STATELESS):
            return int(self.key[0]) >> PORT_SHIFT
        return (zone_of_members(self.set),)


@dataclass(frozen=True)
class FirewallState:
    """The rules as they are.

    Attributes:
        base: digest of the fixed part, "" if it is absent.
        zones: numbers of networks that have a zone chain.
        chains: the ports' chains.
        sets: the sets of groups' members.
    """

    base: str = ""
    elements: frozenset[Element] = frozenset()
    zones: frozenset[int] = frozenset()
    chains: frozenset[Chain] = frozenset()
    sets: frozenset[str] = frozenset()

    @cached_property
    def _owned(self) -> dict[Owner, list[Element]]:
        """The elements by what they are about: a network's are few among those of a host."""
        found: dict[Owner, list[Element]] = {}
        for element in self.elements:
            found.setdefault(element.owner, []).append(element)
        return found

    @cached_property
    def _marks(self) -> dict[str, int]:
        return {str(e.key[0]): int(e.value or 0) for e in self.elements if e.set == ZONES}

    def marks(self) -> Mapping[str, int]:
        """The marks of interfaces."""
        return self._marks

    def zone_of(self, interface: str) -> int | None:
        """The number of the interface's network."""
        mark = self._marks.get(interface)
        return None if mark is None else mark & NETWORK_MASK

    def without(self, zone: int | None, interfaces: Iterable[str] = ()) -> FirewallState:
        """All but what is about the network with that number, or about these interfaces; its zone chain stays."""
        named = set(interfaces)
        if zone is not None:
            named |= {name for name, mark in self._marks.items() if mark & NETWORK_MASK == zone}
        ports = {self._marks[name] >> PORT_SHIFT for name in named & self._marks.keys()} - {0}
        owners = (*named, *ports, *(((zone,),) if zone is not None else ()))
        gone = frozenset(element for owner in owners for element in self._owned.get(owner, ()))
        rest = replace(
            self,
            elements=self.elements - gone,
            chains=frozenset(chain for chain in self.chains if zone is None or chain.zone != zone),
            sets=frozenset(name for name in self.sets if zone is None or zone_of_members(name) != zone),
        )
        dropped = set(owners)
        return _known(
            rest,
            {owner: found for owner, found in self._owned.items() if owner not in dropped},
            {name: mark for name, mark in self._marks.items() if name not in named},
        )

    def having(self, zone: int, elements: frozenset[Element], chains: Set[Chain], sets: Set[str]) -> FirewallState:
        """What is here, and what another network needs, of which nothing is here; under these fixed rules."""
        added = FirewallState(elements=elements)
        joined = FirewallState(
            BASE, self.elements | elements, self.zones | {zone}, self.chains | chains, self.sets | sets
        )
        return _known(joined, self._owned | added._owned, self._marks | added._marks)

    def free_zone(self) -> int:
        """The lowest number that no network has."""
        used = self.zones | {mark & NETWORK_MASK for mark in self.marks().values()}
        return next(number for number in range(1, NETWORK_MASK + 1) if number not in used)

    def ports(self, interfaces: Iterable[str]) -> dict[str, int]:
        """The numbers of ports: those that they have, and free ones for the others."""
        marks = self.marks()
        used = {mark >> PORT_SHIFT for mark in marks.values()}
        free = (number for number in range(1, NETWORK_MASK + 1) if number not in used)
        return {name: marks.get(name, 0) >> PORT_SHIFT or next(free) for name in interfaces}


def _known(state: FirewallState, owned: dict[Owner, list[Element]], marks: dict[str, int]) -> FirewallState:
    """Give the state what it need not find out anew: a network is small, and a host large."""
    state.__dict__.update(_owned=owned, _marks=marks)
    return state


@dataclass(frozen=True)
class FirewallChange:
    """One transaction: from what was observed to `result`."""

    before: FirewallState
    result: FirewallState

    def transaction(self) -> dict[str, list[Command]]:
        """The change as libnftables-json(5): all of it happens, or none."""
        if self.before.base == self.result.base:
            before, commands = self.before, []
        else:
            before, commands = FirewallState(), base_commands()
        result = self.result
        commands += [c for zone in sorted(result.zones - before.zones) for c in _zone_added(zone)]
        added = sorted(result.sets - before.sets)
        commands += [add("set", "inet", name=name, type=members_type(name)) for name in added]
        commands += _chains_made(before.chains, result.chains)
        commands += [_element("delete", e) for e in sorted(before.elements - result.elements, key=repr)]
        commands += [_element("add", e) for e in sorted(result.elements - before.elements, key=repr)]
        commands += forgotten(TABLE, before.marks(), result.marks())
        kept = {chain.name for chain in result.chains}
        commands += [c for chain in sorted(before.chains) if chain.name not in kept for c in _chain_removed(chain)]
        commands += [_deleted("set", name) for name in sorted(before.sets - result.sets)]
        commands += [c for zone in sorted(before.zones - result.zones) for c in _zone_removed(zone)]
        return {"nftables": commands}


def _entering() -> list[list[Any]]:
    network = {"map": {"key": meta("iifname"), "data": f"@{ZONES}"}}
    uplink, ether_type = match(meta("iifname"), "@uplinks"), field("ether", "type")
    return [
        [{"mangle": {"key": meta("mark"), "value": 0}}],
        [{"mangle": {"key": meta("mark"), "value": network}}],
        [match(meta("mark"), 0), DROP],
        [match(meta("iifname"), "@overlays"), of_service(), DROP],
        *([uplink, match(ether_type, kind), DROP] for kind in TAGGED),
        [uplink, match(meta("iifname"), "@uplinks6", "!="), match(ether_type, "ip6"), DROP],
        no_router(),
        *gateways.entering(),
        [match(meta("iifname"), "@guests"), {"jump": {"target": "guest"}}],
    ]


def _crossing() -> list[list[Any]]:
    guest, service, overlay = ("guests", "services", "overlays")

    def between(source: str, target: str) -> list[Any]:
        return [match(meta("iifname"), f"@{source}"), match(meta("oifname"), f"@{target}")]

    return [
        [*between(service, overlay), DROP],
        [*between(overlay, service), DROP],
        *(
            [*between(guest, unasked), *udp(client, server), DROP]
            for unasked, (server, client) in ((UNASKED[4], DHCP), (UNASKED[6], DHCPV6))
        ),
        *gateways.crossing(),
        [{"mangle": {"key": meta("mark"), "value": 0}}],
        *([*between(service, guest), *udp(server, client), ACCEPT] for server, client in (DHCP, DHCPV6)),
        *(
            [*between(service, ANSWERED), match(field(protocol, "sport"), anyof(*ports)), ACCEPT]
            for protocol, ports in _ANSWERING.items()
        ),
        [{"mangle": {"key": meta("mark"), "value": {"map": {"key": meta("oifname"), "data": f"@{ZONES}"}}}}],
        to_service(),
    ]


def _judging(direction: str) -> list[list[Any]]:
    """Established connections of stateful ports pass without a look at the rules, unless these changed against them."""
    number = {"&": [meta("mark"), PORT_MASK]}
    port = {"vmap": {"key": number, "data": f"@{direction}"}}
    established = match({"ct": {"key": "state"}}, {"set": ["established", "related"]})
    connection = {"ct": {"key": "mark"}}
    discovery = _SOLICITED if direction == "egress" else _HEARD
    return [
        [match(connection, REFUSED), {"goto": {"target": refused(direction)}}],
        [established, match(number, f"@{STATELESS}", "!="), ACCEPT],
        # Neutron's users may always ask for their address.
        *([*udp(client, server), ACCEPT] for server, client in (DHCP, DHCPV6) if direction == "egress"),
        [match(field("icmpv6", "type"), anyof(*discovery)), ACCEPT],
        *(bounds() if direction == "egress" else []),
        [port],
    ]


def _set(name: str, types: list[str]) -> Command:
    ranges = {"flags": ["interval"]} if name in RANGES else {}
    return add("set", "bridge", name=name, type=types if len(types) > 1 else types[0], **ranges)


def _base_objects() -> list[Command]:
    bridge, inet = "bridge", "inet"
    lookup = {"vmap": {"key": {"&": [meta("mark"), NETWORK_MASK]}, "data": f"@{ZONES}"}}
    chains: dict[str, tuple[str, int, list[list[Any]]]] = {
        "entering": ("prerouting", -300, _entering()),
        "crossing": ("forward", -200, _crossing()),
    }
    commands = [add("map", bridge, name=ZONES, type="ifname", map="mark"), *counting_sets(TABLE)]
    commands += [add("map", bridge, name=name, type="ifname", map="verdict") for name in (NEIGHBOURS, OWN_NEIGHBOURS)]
    commands.append(add("map", bridge, name=gateways.SOURCES, type="ifname", map="ether_addr"))
    commands += [_set(name, types) for name, types in SETS.items()]
    for name, rules in guest_chains().items():
        commands.append(add("chain", bridge, name=name))
        commands += [add("rule", bridge, chain=name, expr=rule) for rule in rules]
    for name, (hook, priority, rules) in chains.items():
        commands.append(add("chain", bridge, name=name, type="filter", hook=hook, prio=priority, policy="accept"))
        commands += [add("rule", bridge, chain=name, expr=rule) for rule in rules]
    commands.append(add("map", inet, name=ZONES, type="mark", map="verdict"))
    commands.append(add("set", inet, name=STATELESS, type="mark"))
    commands.append(add("chain", inet, name="zone", type="filter", hook="prerouting", prio=-450, policy="accept"))
    commands.append(add("rule", inet, chain="zone", expr=[lookup]))
    for name in REASONS:
        commands.append(add("chain", inet, name=name))
        commands.append(add("rule", inet, chain=name, expr=counted_drop(name)))
    commands.append(add("chain", inet, name="pieces", type="filter", hook="prerouting", prio=-460, policy="accept"))
    commands += [add("rule", inet, chain="pieces", expr=rule) for rule in fragment_bounds()]
    # After connections are tracked (-200): a guest's own frames as they come, those for it as they are passed on.
    for direction, hook, priority in (("egress", "prerouting", -150), ("ingress", "forward", 0)):
        commands.append(add("map", inet, name=direction, type="mark", map="verdict"))
        commands.append(
            add("chain", inet, name=direction, type="filter", hook=hook, prio=priority, policy="accept"),
        )
        commands += [add("rule", inet, chain=direction, expr=rule) for rule in _judging(direction)]
    return commands


BASE = digest(_base_objects())
"""Digest of the fixed part: the name of a chain of its own, by which a newer agent sees that the rules are old."""


def base_commands() -> list[Command]:
    """Replace both tables by the fixed part, without elements; and remove that of an earlier version."""
    renewed = [*anew("bridge", TABLE), *anew("inet", TABLE)]
    return [*renewed, *absent("ip", TABLE), *_base_objects(), add("chain", "bridge", name=f"version-{BASE}")]


def _element(verb: str, element: Element) -> Command:
    key: Any = element.key[0] if len(element.key) == 1 else {"concat": [_written(part) for part in element.key]}
    value: Any = element.value
    if isinstance(value, str) and element.set != gateways.SOURCES:
        value = {"goto": {"target": value}}
    entry = key if value is None else [key, value]
    return {verb: {"element": {"family": element.family, "table": TABLE, "name": element.set, "elem": [entry]}}}


def _written(part: str | int) -> Any:
    address, _, length = str(part).partition("/")
    return {"prefix": {"addr": address, "len": int(length)}} if length else part


def _read(part: Any) -> str:
    if isinstance(part, dict):
        return f"{part['prefix']['addr']}/{part['prefix']['len']}"
    return f"{part}/{128 if ':' in part else 32}"


def _deleted(kind: str, name: str, family: str = "inet") -> Command:
    return {"delete": {kind: {"family": family, "table": TABLE, "name": name}}}


def _chain_added(chain: Chain) -> list[Command]:
    rules = (add("rule", chain.family, chain=chain.name, expr=rule) for rule in chain.rules)
    return [add("chain", chain.family, name=chain.name), *rules]


def _chains_made(before: Set[Chain], result: Set[Chain]) -> list[Command]:
    """Make the chains that are missing, and those anew that are not whole."""
    there = {chain.name for chain in before}
    missing = sorted(result - before)
    broken = [{"flush": {"chain": _named(chain)}} for chain in missing if chain.name in there]
    return [*broken, *(command for chain in missing for command in _chain_added(chain))]


def _named(chain: Chain) -> dict[str, str]:
    return {"family": chain.family, "table": TABLE, "name": chain.name}


def _chain_removed(chain: Chain) -> list[Command]:
    return [{"flush": {"chain": _named(chain)}}, {"delete": {"chain": _named(chain)}}]


def _zone_parts(zone: int) -> tuple[Chain, Command]:
    chain = Chain(f"zone-{zone}", ([{"mangle": {"key": {"ct": {"key": "zone"}}, "value": zone}}],))
    entry = [zone, {"jump": {"target": chain.name}}]
    return chain, {"element": {"family": "inet", "table": TABLE, "name": ZONES, "elem": [entry]}}


def _zone_added(zone: int) -> list[Command]:
    chain, element = _zone_parts(zone)
    return [*_chain_added(chain), {"add": element}]


def _zone_removed(zone: int) -> list[Command]:
    chain, element = _zone_parts(zone)
    return [{"delete": element}, *_chain_removed(chain)]


def parse(listed: Iterable[Command]) -> FirewallState:
    """Read the objects of `nft -j list ruleset`; what is not ours is passed over."""
    base, elements, zones, sets = "", set(), set(), set()
    rules: dict[str, list[Any]] = {}
    for kind, item in (pair for entry in listed for pair in entry.items()):
        name = item.get("name", "")
        if item.get("table") != TABLE:
            continue
        if kind == "chain":
            word, _, rest = name.partition("-")
            if word == "version":
                base = rest
            elif word == "zone" and rest:
                zones.add(int(rest))
            elif word in _OF_PORTS and rest:
                rules.setdefault(name, [])
        elif kind == "rule" and item["chain"].partition("-")[0] in _OF_PORTS and item["chain"] not in DIRECTIONS:
            rules.setdefault(item["chain"], []).append(item["expr"])
        elif kind in {"set", "map"} and (item["family"] == "bridge" or name != ZONES) and name not in KERNELS:
            elements |= {_parsed(name, element) for element in item.get("elem", [])}
            if is_members(name):
                sets.add(name)
    chains = frozenset(Chain(name, tuple(found)) for name, found in rules.items())
    return FirewallState(base, frozenset(elements), frozenset(zones), chains, frozenset(sets))


def _parsed(name: str, element: Any) -> Element:
    key, value = element if isinstance(element, list) else (element, None)
    if isinstance(value, dict):
        value = value["goto"]["target"]
    parts = tuple(key["concat"]) if isinstance(key, dict) else (key,)
    return Element(name, (parts[0], _read(parts[1])) if name in RANGES else parts, value)
