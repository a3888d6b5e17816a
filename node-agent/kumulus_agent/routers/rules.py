"""The nftables rules of a router's namespace: a table for each family, replaced whole in one transaction.

A tracked connection keeps its translation whatever the rules are later; that of a floating address that was taken away
is ended by the plan.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2s
from typing import Any

from kumulus_agent.routers import asking
from kumulus_agent.routers.state import Floating, Forwarding, Translation

TABLE = "kumulus"
_PREFIX = "version-"
_LINK_LOCAL = "169.254.0.0/16"
_FLOATING, _FORWARDED, _SOURCE = "floating", "forwarded", "source"

Command = dict[str, Any]


@dataclass(frozen=True)
class TableState:
    """What the rules of a namespace say."""

    version: str = ""
    source: str = ""
    floating: frozenset[Floating] = frozenset()
    forwardings: frozenset[Forwarding] = frozenset()


def transaction(wanted: Translation) -> dict[str, list[Command]]:
    """Give the tables as libnftables-json(5), which replace those that are there."""
    tables = [{"table": {"family": family, "name": TABLE}} for family in ("ip", "ip6")]
    objects = [*_objects(wanted), _add("chain", name=_PREFIX + version(wanted))]
    return {"nftables": [*({verb: table} for table in tables for verb in ("add", "delete", "add")), *objects]}


def version(wanted: Translation) -> str:
    """Give the digest by which the rules are known again."""
    return blake2s(json.dumps(_objects(wanted)).encode(), digest_size=8).hexdigest()


def parse(listed: Iterable[Command]) -> TableState:
    """Read the objects of `nft -j list ruleset`; what is not ours is passed over."""
    found, source = "", ""
    floating: set[Floating] = set()
    forwardings: set[Forwarding] = set()
    for kind, item in (pair for entry in listed for pair in entry.items()):
        if item.get("table") != TABLE or item.get("family") != "ip":
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
    floating = sorted(wanted.floating)
    # The first of several addresses of one server is the one that it goes out as.
    outgoing = {item.fixed: item.address for item in reversed(floating)}
    objects = [
        _map(_FLOATING, "ipv4_addr", "ipv4_addr", [[item.address, item.fixed] for item in floating]),
        _map("fixed", "ipv4_addr", "ipv4_addr", [[fixed, outgoing[fixed]] for fixed in sorted(outgoing)]),
        _set(_SOURCE, [wanted.source] if wanted.source else []),
    ]
    objects.append(_add("chain", name=_FORWARDED))
    # Rules, as nft's JSON has no map to an address and a port.
    objects += [_add("rule", chain=_FORWARDED, expr=_forwarded(item)) for item in sorted(wanted.forwardings)]
    objects += _chain("incoming", "nat", "prerouting", -100, _incoming(shared=wanted.shared))
    if wanted.external:
        objects += _chain("outgoing", "nat", "postrouting", 100, _outgoing(wanted))
        # What belongs to no connection is not translated, and so not let out; nor is what is meant for a link.
        objects += _chain("leaving", "filter", "forward", 0, _leaving(wanted))
    return [*objects, *asking.objects("ip", TABLE), *asking.objects("ip6", TABLE)]


def _incoming(*, shared: bool) -> list[list[Any]]:
    floating = {"map": {"key": _field("ip", "daddr"), "data": f"@{_FLOATING}"}}
    elsewhere = _is({"fib": {"result": "type", "flags": ["daddr"]}}, "local", "!=")
    first = [[elsewhere, {"accept": None}]] if shared else []
    return [*first, [{"jump": {"target": _FORWARDED}}], [{"dnat": {"addr": floating}}]]


def _forwarded(item: Forwarding) -> list[Any]:
    target = {"dnat": {"addr": item.to_address, "port": item.to_port}}
    return [_is(_field("ip", "daddr"), item.address), _is(_field(item.protocol, "dport"), item.port), target]


def _outgoing(wanted: Translation) -> list[list[Any]]:
    as_floating = {"snat": {"addr": {"map": {"key": _field("ip", "saddr"), "data": "@fixed"}}}}
    redirected = {"match": {"op": "in", "left": {"ct": {"key": "status"}}, "right": "dnat"}}
    out = _is(_meta("oifname"), wanted.external)
    rules: list[list[Any]] = []
    if wanted.internal:
        prefixes = [_prefix(network) for network in wanted.internal]
        # The answer has to come back here: the server would else answer one of its neighbours directly.
        own = _is(_field("ip", "saddr"), {"set": prefixes})
        rules.append([own, redirected, as_floating])
        if wanted.hairpin:
            rules.append([own, redirected, {"snat": {"addr": wanted.hairpin}}])
    rules.append([out, as_floating])
    if wanted.source:
        rules.append([out, _is(_meta("iifname"), wanted.external, "!="), {"snat": {"addr": wanted.source}}])
    return rules


def _leaving(wanted: Translation) -> list[list[Any]]:
    out, drop = _is(_meta("oifname"), wanted.external), {"drop": None}
    rules: list[list[Any]] = [[out, _is(_field("ip", "daddr"), _prefix(_LINK_LOCAL)), drop]]
    if wanted.source or wanted.floating:
        invalid = {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "invalid"}}
        rules.append([out, invalid, drop])
    return rules


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


def _map(name: str, key: Any, value: Any, elements: list[Any]) -> Command:
    given = {"elem": elements} if elements else {}
    return _add("map", name=name, type=key, map=value, **given)


def _set(name: str, elements: list[str]) -> Command:
    given = {"elem": elements} if elements else {}
    return _add("set", name=name, type="ipv4_addr", **given)


def _chain(name: str, kind: str, hook: str, priority: int, rules: list[list[Any]]) -> list[Command]:
    chain = _add("chain", name=name, type=kind, hook=hook, prio=priority, policy="accept")
    return [chain, *(_add("rule", chain=name, expr=rule) for rule in rules)]
