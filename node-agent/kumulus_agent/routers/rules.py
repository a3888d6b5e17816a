"""The nftables rules of a router's namespace: a table for each family, replaced whole in one transaction.

A tracked connection keeps its translation whatever the rules are later; that of a floating address that was taken away
is ended by the plan.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from kumulus_agent.network.expressions import anew, digest
from kumulus_agent.routers import asking
from kumulus_agent.routers.state import Floating, Forwarding, Translation, family_of

TABLE = "kumulus"
_PREFIX = "version-"
_LINK_LOCAL = "169.254.0.0/16"
_FLOATING, _FORWARDED, _SOURCE = "floating", "forwarded", "source"
_IPV4 = 4
_FAMILIES: dict[int, Literal["ip", "ip6"]] = {_IPV4: "ip", 6: "ip6"}

_REDIRECTED: Any = {"match": {"op": "in", "left": {"ct": {"key": "status"}}, "right": "dnat"}}
_INVALID: Any = {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "invalid"}}

Command = dict[str, Any]


@dataclass(frozen=True)
class TableState:
    """What the rules of a namespace say."""

    version: str = ""
    source: str = ""
    floating: frozenset[Floating] = frozenset()
    forwardings: frozenset[Forwarding] = frozenset()


def transaction(wanted: Translation) -> dict[str, list[Command]]:
    """Give the table as libnftables-json(5), which replaces the one that is there."""
    objects = [*_objects(wanted), _add("chain", name=_PREFIX + version(wanted))]
    of_family = [_in_family(command, wanted.family) for command in objects]
    return {"nftables": [*anew(_FAMILIES[wanted.family], TABLE), *of_family]}


def version(wanted: Translation) -> str:
    """Give the digest by which the rules are known again."""
    return digest(_objects(wanted))


def parse(listed: Iterable[Command], family: int = 4) -> TableState:
    """Read the objects of `nft -j list ruleset` of a family; what is not ours is passed over."""
    found, source = "", ""
    floating: set[Floating] = set()
    forwardings: set[Forwarding] = set()
    for kind, item in (pair for entry in listed for pair in entry.items()):
        if item.get("table") != TABLE or item.get("family") != _FAMILIES[family]:
            continue
        name = item.get("name", "")
        if kind == "chain" and name.startswith(_PREFIX):
            found = name.removeprefix(_PREFIX)
        elif kind == "map" and name == _FLOATING:
            floating = {Floating(address, fixed) for address, fixed in item.get("elem", [])}
        elif kind == "rule" and item["chain"] == _FORWARDED:
            forwardings.add(_forwarding(item["expr"]))
        elif kind == "set" and name == _SOURCE:
            source = next(iter(item.get("elem", [])), "")
    return TableState(found, source, frozenset(floating), frozenset(forwardings))


def _forwarding(expressions: list[Any]) -> Forwarding:
    address, port, translated = expressions
    left = port["match"]["left"]["payload"]
    target = translated["dnat"]
    return Forwarding(
        left["protocol"], address["match"]["right"], port["match"]["right"], target["addr"], target["port"]
    )


def _objects(wanted: Translation) -> list[Command]:
    asked = asking.objects(_FAMILIES[wanted.family], TABLE)
    if not wanted.needed:
        return asked
    floating = sorted(wanted.floating)
    # The first of several addresses of one server is the one that it goes out as.
    outgoing = {item.fixed: item.address for item in reversed(floating)}
    objects = [
        _map(_FLOATING, wanted, [[item.address, item.fixed] for item in floating]),
        _map("fixed", wanted, [[fixed, outgoing[fixed]] for fixed in sorted(outgoing)]),
        _set(_SOURCE, wanted, [wanted.source] if wanted.source else []),
    ]
    objects.append(_add("chain", name=_FORWARDED))
    # Rules, as nft's JSON has no map to an address and a port.
    objects += [_add("rule", chain=_FORWARDED, expr=_forwarded(item)) for item in sorted(wanted.forwardings)]
    objects += _chain("incoming", "nat", "prerouting", -100, _incoming(wanted))
    if wanted.external:
        objects += _chain("outgoing", "nat", "postrouting", 100, _outgoing(wanted))
        # What belongs to no connection is not translated, and so not let out; nor is what is meant for a link.
        name, leaving = ("leaving", _leaving(wanted)) if wanted.family == _IPV4 else ("unrouted", _leaving6(wanted))
        objects += _chain(name, "filter", "forward", 0, leaving)
    if wanted.silent:
        objects += _chain("silent", "filter", "output", 0, [[_is(_meta("oifname"), wanted.silent), {"drop": None}]])
    return [*objects, *asked]


def _incoming(wanted: Translation) -> list[list[Any]]:
    floating = {"map": {"key": _field(_FAMILIES[wanted.family], "daddr"), "data": f"@{_FLOATING}"}}
    elsewhere = _is({"fib": {"result": "type", "flags": ["daddr"]}}, "local", "!=")
    first = [[elsewhere, {"accept": None}]] if wanted.shared else []
    return [*first, [{"jump": {"target": _FORWARDED}}], [{"dnat": {"addr": floating}}]]


def _forwarded(item: Forwarding) -> list[Any]:
    target = {"dnat": {"addr": item.to_address, "port": item.to_port}}
    address = _is(_field(_FAMILIES[family_of(item.address)], "daddr"), item.address)
    return [address, _is(_field(item.protocol, "dport"), item.port), target]


def _outgoing(wanted: Translation) -> list[list[Any]]:
    source = _field(_FAMILIES[wanted.family], "saddr")
    as_floating = {"snat": {"addr": {"map": {"key": source, "data": "@fixed"}}}}
    out = _is(_meta("oifname"), wanted.external)
    rules: list[list[Any]] = []
    if wanted.internal:
        # The answer has to come back here: the server would else answer one of its neighbours directly.
        own = _is(source, prefixes(wanted.internal))
        rules.append([own, _REDIRECTED, as_floating])
        if wanted.hairpin:
            rules.append([own, _REDIRECTED, {"snat": {"addr": wanted.hairpin}}])
    rules.append([out, as_floating])
    if wanted.source:
        routed = [_is(source, prefixes(wanted.routed), "!=")] if wanted.routed else []
        inside = _is(_meta("iifname"), wanted.external, "!=")
        rules.append([out, inside, *routed, {"snat": {"addr": wanted.source}}])
    return rules


def _leaving(wanted: Translation) -> list[list[Any]]:
    out, drop = _is(_meta("oifname"), wanted.external), {"drop": None}
    rules: list[list[Any]] = [[out, _is(_field("ip", "daddr"), _prefix(_LINK_LOCAL)), drop]]
    if wanted.tunnelled:
        # What has no tunnel now does not leave in clear.
        rules.append([out, _is(_field("ip", "daddr"), prefixes(wanted.tunnelled)), drop])
    if wanted.source or wanted.floating:
        rules.append([out, _INVALID, drop])
    return rules


def _leaving6(wanted: Translation) -> list[list[Any]]:
    """Let through what begins or ends in networks that the outside routes here, and what is translated.

    Who is not let out is told so, and takes IPv4. It uses no floating address of others either: what is translated on
    its own host would be reached, and what is elsewhere would not.
    """
    drop, out, inward = {"drop": None}, _is(_meta("oifname"), wanted.external), _is(_meta("iifname"), wanted.external)
    source, target = (_field("ip6", name) for name in ("saddr", "daddr"))
    begun = _is({"ct": {"key": "direction"}}, "original")
    elsewhere = [_is(target, prefixes(wanted.routed), "!=")] if wanted.routed else []
    rules: list[list[Any]] = [[inward, begun, _REDIRECTED, {"accept": None}], [inward, begun, *elsewhere, drop]]
    routed = [_is(source, prefixes(wanted.routed), "!=")] if wanted.routed else []
    fixed = sorted({item.fixed for item in wanted.floating})
    if fixed:
        rules.append([out, _INVALID, _is(source, {"set": fixed}), drop])
    if wanted.source:
        # Answers to what is routed may come another way: of such a connection this host sees the half.
        rules.append([out, _INVALID, *routed, drop])
    if wanted.closed:
        floating = [_is(source, {"set": fixed}, "!=")] if fixed else []
        refused = {"reject": {"type": "icmpv6", "expr": "policy-fail"}}
        rules += [[leading, begun, *routed, *floating, refused] for leading in (out, _REDIRECTED)]
    return rules


def prefixes(networks: Iterable[str]) -> Any:
    """Give networks as a set of nftables."""
    return {"set": [_prefix(network) for network in networks]}


def _prefix(network: str) -> dict[str, Any]:
    address, length = network.split("/")
    return {"prefix": {"addr": address, "len": int(length)}}


def _meta(key: str) -> Any:
    return {"meta": {"key": key}}


def _field(protocol: str, field: str) -> Any:
    return {"payload": {"protocol": protocol, "field": field}}


def _is(left: Any, right: Any, op: str = "==") -> Any:
    return {"match": {"op": op, "left": left, "right": right}}


def _add(kind: str, **attributes: Any) -> Command:
    return {"add": {kind: {"family": "ip", "table": TABLE, **attributes}}}


def _in_family(command: Command, family: int) -> Command:
    (kind, item), *_ = command["add"].items()
    return {"add": {kind: item | {"family": _FAMILIES[family]}}}


def _map(name: str, wanted: Translation, elements: list[Any]) -> Command:
    given = {"elem": elements} if elements else {}
    addresses = f"ipv{wanted.family}_addr"
    return _add("map", name=name, type=addresses, map=addresses, **given)


def _set(name: str, wanted: Translation, elements: list[str]) -> Command:
    given = {"elem": elements} if elements else {}
    return _add("set", name=name, type=f"ipv{wanted.family}_addr", **given)


def _chain(name: str, kind: str, hook: str, priority: int, rules: list[list[Any]]) -> list[Command]:
    chain = _add("chain", name=name, type=kind, hook=hook, prio=priority, policy="accept")
    return [chain, *(_add("rule", chain=name, expr=rule) for rule in rules)]
