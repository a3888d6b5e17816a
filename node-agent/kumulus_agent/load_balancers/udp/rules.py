"""The nftables rules of datagrams in the namespace of a load balancer.

Each table is replaced whole in one transaction, and known again by the digest in a chain's name. What is counted is in
a table of its own, which stays as it is when members come and go.

Only datagrams for listeners, and answers to them, are tracked: HAProxy's connections would else fill the same table,
and nothing would be gained. What begins anew is bounded as what ports begin is (`network.limits`), before it is noted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from kumulus_agent.load_balancers.udp.plan import Target, Way, limits_of, member_ports
from kumulus_agent.network.expressions import ACCEPT, DROP, Command, absent, anew, anyof, digest, field, match, meta
from kumulus_agent.network.limits import CONNECTIONS, CONNECTIONS_BURST, CONNECTIONS_PER_SECOND

TABLE: Final = "datagrams"
BOUNDS: Final = "datagram-bounds"
_FAMILY: Final = "inet"
_VERSION: Final = "version-"
_NEVER_CONFIRMED: Final = match({"&": [{"ct": {"key": "status"}}, 8]}, 0)
"""Its first packet has not gone all the way yet (IPS_CONFIRMED)."""
_HERE: Final = match({"fib": {"result": "type", "flags": ["daddr"]}}, "local")
"""For an address that this host has now: of the two that share it, one."""
_PASSED_ON: Final = match({"ct": {"key": "status"}}, "dnat", "in")
_UDP: Final = match(meta("l4proto"), "udp")
_TROUBLE: Final = {
    "icmp": ("destination-unreachable", "time-exceeded", "parameter-problem"),
    "icmpv6": ("destination-unreachable", "packet-too-big", "time-exceeded", "parameter-problem"),
}
_SOURCE_PORTS: Final = [10240, 65535]
"""As HAProxy's connections have (`ip_local_port_range`)."""
_SEED: Final = 0x6B75
"""The same on all hosts: a client has the same member after a takeover."""


def tables(ways: Sequence[Way]) -> dict[str, list[Command]]:
    """Give what each table holds, besides its version."""
    return {TABLE: _choosing(ways), BOUNDS: _bounds(limits_of(ways))}


def version(objects: Sequence[Command]) -> str:
    """Give the digest by which a table is known again."""
    return digest(objects)


def replacing(name: str, objects: Sequence[Command]) -> list[Command]:
    """Give the commands that replace a table."""
    return [*anew(_FAMILY, name), *objects, _add(name, "chain", name=_VERSION + version(objects))]


def removing(name: str) -> list[Command]:
    """Give the commands that remove a table, if it is there."""
    return absent(_FAMILY, name)


def versions(listed: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Read `nft -j list chains`: the version of each of our tables that is there."""
    found: dict[str, str] = {}
    for chain in (entry["chain"] for entry in listed if "chain" in entry):
        if chain["family"] == _FAMILY and chain["table"] in (TABLE, BOUNDS):
            found.setdefault(chain["table"], "")
            if chain["name"].startswith(_VERSION):
                found[chain["table"]] = chain["name"].removeprefix(_VERSION)
    return found


def _choosing(ways: Sequence[Way]) -> list[Command]:
    chains = [_to_members(number, way) for number, way in enumerate(ways)]
    first = [_by_number(number, way) for number, way in enumerate(ways) if way.chosen]
    last = [_as_balancer(way) for way in {way.version: way for way in reversed(ways)}.values()]
    return [
        *_chain(TABLE, "tracking", ("filter", "prerouting", -300), _tracked(ways)),
        *_chain(TABLE, "own", ("filter", "output", -300), [*_no_redirects(), *_trouble(), [{"notrack": None}]]),
        *(command for commands in chains for command in commands),
        *_chain(TABLE, "choosing", ("nat", "prerouting", -100), first),
        *_chain(TABLE, "leaving", ("nat", "postrouting", 100), last),
        *_chain(TABLE, "passing", ("filter", "forward", 0), [[_PASSED_ON, ACCEPT], [DROP]]),
        *_chain(TABLE, "staying", ("filter", "input", 0), _refused(ways)),
    ]


def _tracked(ways: Sequence[Way]) -> Iterator[list[Any]]:
    yield [_HERE, match(field("udp", "dport"), _ports(ways)), ACCEPT]
    answering = sorted(member_ports(ways))
    if answering:
        yield [_HERE, match(field("udp", "sport"), anyof(*answering)), ACCEPT]
    yield from _trouble()
    yield [{"notrack": None}]


def _trouble() -> Iterator[list[Any]]:
    """What routers and members say of a datagram is told to who sent it."""
    for protocol, types in _TROUBLE.items():
        yield [match(field(protocol, "type"), anyof(*types)), ACCEPT]


def _no_redirects() -> Iterator[list[Any]]:
    """Who sends to a member by a link that leads to the client, too, would tell the client to ask that itself."""
    yield [match(field("icmp", "type"), "redirect"), DROP]
    yield [match(field("icmpv6", "type"), "nd-redirect"), DROP]


def _to_members(number: int, way: Way) -> list[Command]:
    commands: list[Command] = []
    for place, target in enumerate(_in_order(way.chosen)):
        name = f"to-{number}-{place}"
        commands.append(_add(TABLE, "chain", name=name))
        translated = {"dnat": {"family": _ip(way), "addr": target.address, "port": target.port}}
        commands.append(_add(TABLE, "rule", chain=name, expr=[_UDP, translated]))
    return commands


def _in_order(targets: Iterable[Target]) -> list[Target]:
    return sorted(set(targets))


def _by_number(number: int, way: Way) -> list[Any]:
    chains = {target: f"to-{number}-{place}" for place, target in enumerate(_in_order(way.chosen))}
    led = [[turn, {"goto": {"target": chains[target]}}] for turn, target in enumerate(way.chosen)]
    sender = {"jhash": {"mod": len(led), "seed": _SEED, "expr": field(_ip(way), "saddr")}}
    # A hash of one value is refused.
    hashed = way.by_source and len(led) > 1
    key = sender if hashed else {"numgen": {"mode": "inc", "mod": len(led), "offset": 0}}
    return [*_at(way), {"vmap": {"key": key, "data": {"set": led}}}]


def _as_balancer(way: Way) -> list[Any]:
    """Have members answer to the load balancer, which translates what they say."""
    return [
        match(meta("nfproto"), "ipv4" if way.version == 4 else "ipv6"),
        _PASSED_ON,
        _UDP,
        {"snat": {"family": _ip(way), "addr": way.address, "port": {"range": _SOURCE_PORTS}}},
    ]


def _refused(ways: Sequence[Way]) -> Iterator[list[Any]]:
    """Say that nobody serves, where nobody does; nothing else that is tracked is for this namespace itself."""
    said = {"reject": {"type": "icmpx", "expr": "port-unreachable"}}
    yield [match(field("udp", "dport"), _ports(ways)), said]
    yield [_UDP, match({"ct": {"key": "state"}}, "new", "in"), DROP]


def _bounds(limits: Mapping[int, int]) -> list[Command]:
    begins = [_NEVER_CONFIRMED, _HERE]
    ports = anyof(*sorted(limits))
    rate = {"rate": CONNECTIONS_PER_SECOND, "burst": CONNECTIONS_BURST, "per": "second", "inv": True}

    def counted(most: int) -> Any:
        return {"ct count": {"val": most, "inv": True}}

    listened = match(field("udp", "dport"), ports)
    rules = [[*begins, listened, {"limit": rate}, DROP], [*begins, listened, counted(CONNECTIONS), DROP]]
    rules += [
        [*begins, match(field("udp", "dport"), port), counted(limit), DROP]
        for port, limit in sorted(limits.items())
        if limit < CONNECTIONS
    ]
    return _chain(BOUNDS, "beginning", ("filter", "prerouting", -150), rules)


def _ports(ways: Iterable[Way]) -> Any:
    return anyof(*sorted(limits_of(ways)))


def _at(way: Way) -> list[Any]:
    return [_HERE, match(field(_ip(way), "daddr"), way.address), match(field("udp", "dport"), way.port)]


def _ip(way: Way) -> str:
    return "ip" if way.version == 4 else "ip6"


def _add(table: str, kind: str, **attributes: Any) -> Command:
    return {"add": {kind: {"family": _FAMILY, "table": table, **attributes}}}


def _chain(table: str, name: str, at: tuple[str, str, int], rules: Iterable[list[Any]]) -> list[Command]:
    kind, hook, priority = at
    chain = _add(table, "chain", name=name, type=kind, hook=hook, prio=priority, policy="accept")
    return [chain, *(_add(table, "rule", chain=name, expr=rule) for rule in rules)]
