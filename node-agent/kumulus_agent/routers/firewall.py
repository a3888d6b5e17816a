"""The firewall of a centralised router: rules of table `firewall` in its namespace, and the same as a pure judgement.

What a router passes on is judged twice: as it comes from the network of an interface (egress), and as it goes into one
(ingress), after addresses of destinations were translated and before those of sources are. An interface without group
lets everything pass. Answers pass by their connection; one that the rules no longer allow is marked as refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, Final, Literal

from kumulus_agent.network.expressions import ACCEPT, DROP, Command, absent, anew, digest, field, match, meta
from kumulus_agent.network.groups import ICMP, REFUSED, Direction, Flow

TABLE: Final = "firewall"
ENDED: Final = "ended"
"""The chain of what belongs to such a connection."""
_FAMILY: Final = "inet"
_VERSION: Final = "version-"
_PRIORITY: Final = 10
_WITH_PORTS: Final = {6: "tcp", 17: "udp", 33: "dccp", 132: "sctp", 136: "udplite"}
_TCP: Final = 6

Action = Literal["Allow", "Deny", "Reject"]


@dataclass(frozen=True)
class Rule:
    """What becomes of connections; None and () are whatever they may be.

    Attributes:
        name: the user's.
        action: what becomes of them.
        protocol: IANA's number; in a rule about both families that of IPv4.
        family: 4 or 6; None for both.
        source: where they begin.
        destination: where they go, as servers have it.
        source_ports: the first and the last.
        destination_ports: the first and the last.
    """

    name: str
    action: Action
    protocol: int | None = None
    family: int | None = None
    source: IPv4Network | IPv6Network | None = None
    destination: IPv4Network | IPv6Network | None = None
    source_ports: tuple[int, ...] = ()
    destination_ports: tuple[int, ...] = ()


@dataclass(frozen=True)
class Guard:
    """A group on interfaces of the router.

    Attributes:
        group: its name.
        links: those of the interfaces.
        ingress: of what goes into their networks; the first rule that is about it decides, else it is denied.
        egress: of what comes from them.
    """

    group: str
    links: tuple[str, ...]
    ingress: tuple[Rule, ...] = ()
    egress: tuple[Rule, ...] = ()

    def rules(self, direction: Direction) -> tuple[Rule, ...]:
        """Give those of a direction."""
        return self.ingress if direction == "ingress" else self.egress


@dataclass(frozen=True)
class Firewall:
    """All groups of a router.

    Attributes:
        guards: the groups.
        ways: networks, and the links behind which they are; what is in none of them is outside.
    """

    guards: tuple[Guard, ...] = ()
    ways: tuple[tuple[str, str], ...] = ()


def chain_of(direction: Direction, group: str) -> str:
    """Name the chain that judges a direction for a group."""
    return f"{direction}-{group}"


def group_of(chain: str) -> tuple[Direction, str] | None:
    """Read the name of such a chain; None if it is another."""
    word, _, group = chain.partition("-")
    directions: dict[str, Direction] = {"ingress": "ingress", "egress": "egress"}
    return (directions[word], group) if word in directions and group else None


def applied(wanted: Firewall) -> dict[str, list[Command]]:
    """Give the transaction of libnftables-json(5) after which these rules hold instead of the former; none is no table.

    What tells the version comes by `sealed`, when connections have been held to the rules.
    """
    return {"nftables": [*anew(_FAMILY, TABLE), *_objects(wanted)] if wanted.guards else absent(_FAMILY, TABLE)}


def sealed(wanted: Firewall) -> dict[str, list[Command]]:
    """Give the transaction that notes that all is done, after which the rules are known by their version."""
    return {"nftables": [_add("chain", name=_VERSION + version(wanted))] if wanted.guards else []}


def version(wanted: Firewall) -> str:
    """Give the digest by which the rules are known again; "" if there are none."""
    if not wanted.guards:
        return ""
    return digest([list(_objects(wanted)), wanted.ways])


def parse(listed: Iterable[Command]) -> str | None:
    """Give the version of `nft -j list ruleset`; "" if it is not whole, None if there is none."""
    found: str | None = None
    for kind, item in (pair for entry in listed for pair in entry.items()):
        if item.get("family") != _FAMILY:
            continue
        name = item.get("name", "")
        if kind == "table" and name == TABLE:
            found = found or ""
        elif kind == "chain" and item["table"] == TABLE and name.startswith(_VERSION):
            found = name.removeprefix(_VERSION)
    return found


def allows(firewall: Firewall, flow: Flow) -> bool:
    """Tell whether the router would let a connection begin; its destination is the one after translation."""
    ends: tuple[tuple[Direction, str], ...] = (
        ("egress", _link_to(firewall, flow.source)),
        ("ingress", _link_to(firewall, flow.destination)),
    )
    judging = ((guard, direction) for direction, link in ends for guard in firewall.guards if link in guard.links)
    return all(decides(guard.rules(direction), flow) for guard, direction in judging)


def decides(rules: Iterable[Rule], flow: Flow) -> bool:
    """Tell whether the first rule that is about a connection allows it."""
    first = next((rule for rule in rules if is_about(rule, flow)), None)
    return first is not None and first.action == "Allow"


def is_about(rule: Rule, flow: Flow) -> bool:
    """Tell whether a rule is about a connection."""
    family = flow.source.version
    if rule.family not in (None, family) or rule.protocol not in (None, _of_family(flow.protocol)):
        return False
    ends = ((rule.source, flow.source), (rule.destination, flow.destination))
    if any(network is not None and address not in network for network, address in ends):
        return False
    ports = ((rule.source_ports, flow.first), (rule.destination_ports, flow.second))
    return all(not wanted or wanted[0] <= port <= wanted[-1] for wanted, port in ports)


def _of_family(protocol: int) -> int:
    """Give a protocol's number, ICMP of either family by that of IPv4."""
    return ICMP[4] if protocol == ICMP[6] else protocol


def _link_to(firewall: Firewall, address: Any) -> str:
    found = [(network.prefixlen, link) for text, link in firewall.ways if address in (network := ip_network(text))]
    return max(found)[1] if found else ""


def _objects(wanted: Firewall) -> Iterator[Command]:
    yield _add("chain", name=ENDED)
    yield _add("rule", chain=ENDED, expr=[DROP])
    for guard in wanted.guards:
        for direction in ("ingress", "egress"):
            name = chain_of(direction, guard.group)
            yield _add("chain", name=name)
            for expression in _judged(guard.rules(direction)):
                yield _add("rule", chain=name, expr=expression)
    yield _add("chain", name="judged", type="filter", hook="forward", prio=_PRIORITY, policy="accept")
    for expression in _crossing(wanted):
        yield _add("rule", chain="judged", expr=expression)


def _crossing(wanted: Firewall) -> Iterator[list[Any]]:
    yield [match({"ct": {"key": "mark"}}, REFUSED), {"goto": {"target": ENDED}}]
    yield [match({"ct": {"key": "state"}}, {"set": ["established", "related"]}), ACCEPT]
    for key, direction in (("iifname", "egress"), ("oifname", "ingress")):
        for guard in wanted.guards:
            chain = {"jump": {"target": chain_of(direction, guard.group)}}  # type: ignore[arg-type]
            yield from ([match(meta(key), link), chain] for link in guard.links)


def _judged(rules: Iterable[Rule]) -> Iterator[list[Any]]:
    yield [{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "invalid"}}, DROP]
    for rule in rules:
        for protocol in _protocols(rule):
            about = [*_about(rule, protocol)]
            yield from ([*about, *verdict] for verdict in _verdicts(rule.action))
    yield [DROP]


def _protocols(rule: Rule) -> tuple[int | None, ...]:
    if rule.protocol != ICMP[4]:
        return (rule.protocol,)
    return tuple(number for family, number in ICMP.items() if rule.family in (None, family))


def _about(rule: Rule, protocol: int | None) -> Iterator[Any]:
    if rule.family is not None:
        yield match(meta("nfproto"), f"ipv{rule.family}")
    for network, name in ((rule.source, "saddr"), (rule.destination, "daddr")):
        if network is not None and network.prefixlen:
            prefix = {"prefix": {"addr": str(network.network_address), "len": network.prefixlen}}
            yield match(field("ip" if network.version == 4 else "ip6", name), prefix)
    if protocol is not None:
        yield match(meta("l4proto"), protocol)
    for ports, name in ((rule.source_ports, "sport"), (rule.destination_ports, "dport")):
        if ports and protocol is not None:
            first, last = ports[0], ports[-1]
            yield match(field(_WITH_PORTS[protocol], name), first if first == last else {"range": [first, last]})


def _verdicts(action: Action) -> Iterator[list[Any]]:
    if action == "Allow":
        yield [{"return": None}]
    elif action == "Deny":
        yield [DROP]
    else:
        yield [match(meta("l4proto"), _TCP), {"reject": {"type": "tcp reset"}}]
        yield [{"reject": {"type": "icmpx", "expr": "admin-prohibited"}}]


def _add(kind: str, **attributes: Any) -> Command:
    return {"add": {kind: {"family": _FAMILY, "table": TABLE, **attributes}}}
