"""Security groups (Neutron's): which connections a port takes and makes, as data and as a pure judgement.

A port's groups are one chain for each direction, named after what is in it: ports of a network with the same groups
share their chains, and a changed rule is another chain, to which the port's map entry points by the same transaction.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2s
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, Final, Literal

from kumulus_agent.network.expressions import ACCEPT, digest, field, match, meta
from kumulus_agent.network.limits import refused

Direction = Literal["ingress", "egress"]
GroupKey = tuple[str, str]
"""Namespace and name of a SecurityGroup."""

DIRECTIONS: Final[tuple[Direction, ...]] = ("ingress", "egress")
ICMP: Final = {4: 1, 6: 58}
"""IANA's number of each family's ICMP."""
REFUSED: Final = 1
"""Mark of a tracked connection that the rules no longer allow."""
_WITH_PORTS: Final = {6: "tcp", 17: "udp", 33: "dccp", 132: "sctp", 136: "udplite"}
_MEMBERS: Final = {"members": "ipv4_addr", "members6": "ipv6_addr"}
"""The sets of members: of one family each."""


@dataclass(frozen=True, slots=True)
class GroupRule:
    """What is let through; None is whatever it may be.

    Attributes:
        direction: as seen from the port.
        protocol: IANA's number.
        ports: first and last destination port, of a protocol that has ports.
        icmp: type, and code or None.
        remote: the other end: its addresses, or the group that its port is a member of.
        family: IPv4 or IPv6: a rule is about one of them.
        stateful: it lets through connections, answers included; else packets.
    """

    direction: Direction
    protocol: int | None = None
    ports: tuple[int, int] | None = None
    icmp: tuple[int, int | None] | None = None
    remote: IPv4Network | IPv6Network | GroupKey | None = None
    family: Literal[4, 6] = 4
    stateful: bool = True

    def __post_init__(self) -> None:
        if self.ports and self.protocol not in _WITH_PORTS:
            raise ValueError(f"protocol {self.protocol} has no ports")
        if self.icmp and self.protocol != ICMP[self.family]:
            raise ValueError(f"protocol {self.protocol} has no ICMP types of IPv{self.family}")
        if isinstance(self.remote, IPv4Network | IPv6Network) and self.remote.version != self.family:
            raise ValueError(f"a rule about IPv{self.family} is not about {self.remote}")


@dataclass(frozen=True, slots=True)
class SecurityGroup:
    """A group as one network sees it: its rules, and the addresses of its members there.

    Attributes:
        rules: what it lets through.
        members: its members' addresses, and those that they may use besides.
        ranges: those that they may use besides, which are more than one each.
    """

    rules: frozenset[GroupRule] = frozenset()
    members: frozenset[IPv4Address | IPv6Address] = frozenset()
    ranges: frozenset[IPv4Network | IPv6Network] = frozenset()


Groups = Mapping[GroupKey, SecurityGroup]


@dataclass(frozen=True, slots=True)
class Flow:
    """The first packet of a connection.

    Attributes:
        first: source port, or type of an ICMP message; 0 without.
        second: destination port, or its code.
    """

    protocol: int
    source: IPv4Address | IPv6Address
    destination: IPv4Address | IPv6Address
    first: int = 0
    second: int = 0


@dataclass(frozen=True, order=True)
class Chain:
    """A chain of ports, told from others by its name: what for, number of the network, digest of its rules.

    The kernel lists rules otherwise than they were written, so those of one name are compared by how many they are: a
    chain of which somebody has deleted some is another.
    """

    name: str
    rules: tuple[Any, ...] = dataclasses.field(default=(), compare=False)
    count: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", len(self.rules))

    @property
    def zone(self) -> int:
        """The number of the network whose ports it judges."""
        return int(self.name.split("-")[1])

    @property
    def family(self) -> str:
        """The family of its table: frames, or packets of both families."""
        return "bridge" if self.name.startswith("nd-") else "inet"


def rules_of(keys: Iterable[GroupKey], groups: Groups, direction: Direction) -> list[GroupRule]:
    """Give what the groups let through in a direction, in a fixed order; one that is not known lets nothing through.

    A rule about a group whose members have ranges is there once more for each range.
    """
    found = {rule for key in keys if key in groups for rule in groups[key].rules if rule.direction == direction}
    return sorted(found | {more for rule in found for more in _of_ranges(rule, groups)}, key=repr)


def _of_ranges(rule: GroupRule, groups: Groups) -> Iterator[GroupRule]:
    if isinstance(rule.remote, tuple) and rule.remote in groups:
        for network in groups[rule.remote].ranges:
            if network.version == rule.family:
                yield dataclasses.replace(rule, remote=network)


def permits(keys: Iterable[GroupKey], groups: Groups, direction: Direction, flow: Flow) -> bool:
    """Tell whether a port of these groups may take (ingress) or make (egress) the connection."""
    remote = flow.source if direction == "ingress" else flow.destination
    return any(_matches(rule, groups, flow, remote) for rule in rules_of(keys, groups, direction))


def permitting(
    keys: Iterable[GroupKey], groups: Groups, direction: Direction, flow: Flow
) -> tuple[GroupKey, GroupRule] | None:
    """Give the first rule that lets the connection through, with its group; None if none does."""
    remote = flow.source if direction == "ingress" else flow.destination
    found = ((key, rule) for key in sorted(keys) for rule in rules_of([key], groups, direction))
    return next((item for item in found if _matches(item[1], groups, flow, remote)), None)


def _matches(rule: GroupRule, groups: Groups, flow: Flow, remote: IPv4Address | IPv6Address) -> bool:
    if remote.version != rule.family or rule.protocol not in (None, flow.protocol):
        return False
    if rule.ports and not rule.ports[0] <= flow.second <= rule.ports[1]:
        return False
    if rule.icmp and (flow.first != rule.icmp[0] or rule.icmp[1] not in (None, flow.second)):
        return False
    if isinstance(rule.remote, IPv4Network | IPv6Network):
        return remote in rule.remote
    return rule.remote is None or (rule.remote in groups and remote in groups[rule.remote].members)


def stateless(keys: Iterable[GroupKey], groups: Groups) -> bool:
    """Tell whether each packet of a port of these groups is judged by itself.

    Groups of both kinds at once are refused by who assigns them; if there are, answers pass: a load balancer's own
    group is stateful, whatever its others are.
    """
    known = [rule for key in keys if key in groups for rule in groups[key].rules]
    return bool(known) and not any(rule.stateful for rule in known)


def members_set(zone: int, key: GroupKey, family: int) -> str:
    """Name the set of a group's members of a family in a network."""
    kind = "members" if family == 4 else "members6"
    return f"{kind}-{zone}-{blake2s('/'.join(key).encode(), digest_size=8).hexdigest()}"


def is_members(name: str) -> bool:
    """Whether a set is one of `members_set`."""
    return name.partition("-")[0] in _MEMBERS


def members_type(name: str) -> str:
    """Give the type of what is in such a set."""
    return _MEMBERS[name.partition("-")[0]]


def zone_of_members(name: str) -> int | None:
    """Give the number of the network that such a set is about; None of another set."""
    return int(name.split("-")[1]) if is_members(name) else None


def chain(keys: Iterable[GroupKey], groups: Groups, direction: Direction, zone: int) -> Chain:
    """Give the chain that judges ports of these groups in the network of that number."""
    rules = tuple([*_match(rule, zone), ACCEPT] for rule in rules_of(keys, groups, direction))
    return Chain(f"{direction}-{zone}-{digest(rules)}", (*rules, [{"goto": {"target": refused(direction)}}]))


def remotes(keys: Iterable[GroupKey], groups: Groups) -> frozenset[GroupKey]:
    """Give the groups whose members the rules of these groups speak of."""
    return frozenset(
        rule.remote
        for direction in DIRECTIONS
        for rule in rules_of(keys, groups, direction)
        if isinstance(rule.remote, tuple)
    )


def _match(rule: GroupRule, zone: int) -> Iterator[dict[str, Any]]:
    ip = "ip" if rule.family == 4 else "ip6"
    address = field(ip, "saddr" if rule.direction == "ingress" else "daddr")
    if isinstance(rule.remote, tuple):
        yield match(address, f"@{members_set(zone, rule.remote, rule.family)}")
    elif rule.remote and rule.remote.prefixlen:
        network = {"addr": str(rule.remote.network_address), "len": rule.remote.prefixlen}
        yield match(address, {"prefix": network})
    else:
        yield match(meta("nfproto"), f"ipv{rule.family}")
    if rule.protocol is not None:
        yield match(meta("l4proto"), rule.protocol)
    if rule.ports and rule.protocol:
        first, last = rule.ports
        ports = first if first == last else {"range": [first, last]}
        yield match(field(_WITH_PORTS[rule.protocol], "dport"), ports)
    if rule.icmp:
        icmp = "icmp" if rule.family == 4 else "icmpv6"
        for part, value in zip(("type", "code"), rule.icmp, strict=True):
            if value is not None:
                yield match(field(icmp, part), value)
