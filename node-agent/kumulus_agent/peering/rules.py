"""What passes between networks and the cluster: nftables' rules of both kinds of namespaces, and of the host (pure).

On the host all is dropped that comes by a link, unless a Service has led it elsewhere (kube-proxy has translated it)
or it answers: a server reaches Services, and nothing of the host by its own address. To servers goes what is from pods
or was led there by a Service; another machine that sends to the host what is meant for a server is not heard.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from ipaddress import IPv4Network
from typing import Any, Final

from kumulus_agent.network.expressions import ACCEPT, DROP, absent, anew, anyof, digest, field, match, meta
from kumulus_agent.peering.state import INNER, PODS, PORT, SERVICES

TABLE: Final = "kumulus-peering"
FAMILY: Final = "ip"
VERSION: Final = "version-"
CONNECTIONS: Final = 16384
"""So many connections to Services the servers of a network on a host may have: the host's own table holds them too."""

_STATE: Final[Any] = {"ct": {"key": "state"}}
_ANSWERS: Final = match({"ct": {"key": "direction"}}, "reply")
_LED: Final = match({"ct": {"key": "status"}}, "dnat", "in")
"""A Service has led it to where it goes."""
_KNOWN: Final = match(_STATE, {"set": ["established", "related"]})
_IN, _OUT = meta("iifname"), meta("oifname")
_FROM, _TO = field("ip", "saddr"), field("ip", "daddr")


def of_services(subnets: Collection[str], services: Collection[str]) -> Any:
    """Give the rules of the namespace by which servers reach Services.

    Args:
        subnets: whose servers do.
        services: where these are.
    """
    asked = [
        match(_IN, PORT),
        match(_OUT, INNER),
        match(_FROM, _ranges(subnets)),
        match(_TO, _ranges(services)),
    ]
    return _table(
        {
            "forward": (
                ("filter", "forward", 0, "drop"),
                [
                    [match(_IN, INNER), match(_OUT, PORT), _KNOWN, ACCEPT],
                    [*asked, _KNOWN, ACCEPT],
                    [*asked, {"ct count": {"val": CONNECTIONS, "inv": True}}, DROP],
                    [*asked, match(_STATE, "new"), ACCEPT],
                ],
            ),
            "input": (("filter", "input", 0, "accept"), [[match(_IN, INNER), DROP]]),
            "source": (("nat", "postrouting", 100, "accept"), [[match(_OUT, INNER), {"masquerade": None}]]),
        }
    )


def of_pods(subnets: Collection[str]) -> Any:
    """Give the rules of the namespace by which pods reach servers in these subnets."""
    return _table(
        {
            "forward": (
                ("filter", "forward", 0, "drop"),
                [
                    [match(_IN, INNER), match(_OUT, PORT), match(_TO, _ranges(subnets)), ACCEPT],
                    [match(_IN, PORT), match(_OUT, INNER), _KNOWN, _ANSWERS, ACCEPT],
                ],
            ),
            "input": (("filter", "input", 0, "drop"), []),
            "source": (("nat", "postrouting", 100, "accept"), [[match(_OUT, PORT), {"masquerade": None}]]),
        }
    )


def of_host(pods: Collection[str]) -> Any:
    """Give the rules of the host's namespace; `pods` are where the cluster's pods are, if these reach any server."""
    back: list[Any] = [{"return": None}]
    by_services, by_pods = (match(_IN, f"{name}*") for name in (SERVICES, PODS))
    entering = [[by_services, _jump("from-servers")], [by_pods, _jump("answers")]]
    leaving = [[match(_OUT, f"{SERVICES}*"), _jump("answers")], [match(_OUT, f"{PODS}*"), _jump("to-servers")]]
    from_pods = [[match(_FROM, _ranges(pods)), *back]] if pods else []
    return _table(
        {
            "from-servers": (None, [[_ANSWERS, *back], [_LED, *back], [DROP]]),
            "answers": (None, [[_ANSWERS, *back], [DROP]]),
            "to-servers": (None, [*from_pods, [_LED, *back], [DROP]]),
            "forward": (("filter", "forward", 0, "accept"), [*entering, *leaving]),
            "input": (("filter", "input", 0, "accept"), entering),
        }
    )


def applied(rules: Any) -> bytes:
    """Give the transaction that puts rules in the place of whatever of ours is there."""
    marked = {"add": {"chain": {"family": FAMILY, "table": TABLE, "name": VERSION + digest(rules)}}}
    return json.dumps({"nftables": [*anew(FAMILY, TABLE), *rules, marked]}).encode()


def removed() -> bytes:
    """Give the transaction that removes them."""
    return json.dumps({"nftables": absent(FAMILY, TABLE)}).encode()


def read(listed: bytes) -> str:
    """Read the version from `nft --json list chains`."""
    chains = (item["chain"] for item in json.loads(listed)["nftables"] if "chain" in item)
    own = (chain["name"] for chain in chains if (chain["family"], chain["table"]) == (FAMILY, TABLE))
    return next((name.removeprefix(VERSION) for name in own if name.startswith(VERSION)), "")


_Chain = tuple[tuple[str, str, int, str] | None, list[list[Any]]]
"""Type, hook, priority and policy of one that packets enter by themselves; its rules."""


def _table(chains: dict[str, _Chain]) -> list[Any]:
    commands: list[Any] = []
    for name, (base, rules) in chains.items():
        hooked = dict(zip(("type", "hook", "prio", "policy"), base, strict=True)) if base is not None else {}
        commands.append({"add": {"chain": {"family": FAMILY, "table": TABLE, "name": name, **hooked}}})
        for rule in rules:
            commands.append({"add": {"rule": {"family": FAMILY, "table": TABLE, "chain": name, "expr": rule}}})
    return commands


def _jump(target: str) -> Any:
    return {"jump": {"target": target}}


def _ranges(cidrs: Collection[str]) -> Any:
    networks = sorted(map(IPv4Network, cidrs))
    return anyof(*({"prefix": {"addr": str(item.network_address), "len": item.prefixlen}} for item in networks))
