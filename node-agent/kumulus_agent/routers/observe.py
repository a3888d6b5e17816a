"""Reading a router's namespace, and its links' ends in the datapath's."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from socket import AF_INET, AF_INET6
from typing import Any

from kumulus_agent.network import namespace
from kumulus_agent.network.command import run
from kumulus_agent.network.errors import netlink_errors
from kumulus_agent.network.names import ROUTER
from kumulus_agent.network.netlink import AsyncIPRoute
from kumulus_agent.network.state import Observed as Datapath
from kumulus_agent.routers import firewall
from kumulus_agent.routers.rules import TableState, parse
from kumulus_agent.routers.state import (
    NOWHERE,
    PREFERENCE_NOWHERE,
    PREFERENCE_TUNNELLED,
    PREFERENCE_TUNNELLED_LEADING,
    TABLE_TUNNELS,
    Address,
    Join,
    Neighbour,
    Observed,
    PolicyRule,
    Route,
)

_SCOPE_LINK = 253
_PERMANENT = 0x80
_STATIC = 4
"""Protocol of routes that somebody added; the kernel's own have another."""
_OWN_PREFERENCES = 32767
_TUNNELLED = {PREFERENCE_TUNNELLED_LEADING, PREFERENCE_TUNNELLED, PREFERENCE_NOWHERE}
_FR_ACT_BLACKHOLE = 6
_UP = 1


async def observe(name: str, wanted: Collection[str], datapath: Datapath) -> Observed:
    """Read all of a router.

    Args:
        name: of its namespace.
        wanted: names of the links that it should have.
        datapath: the other ends of its links.
    """
    ends = frozenset(link for link in wanted if link in datapath.links)
    if not namespace.exists(name):
        return Observed(links=ends)
    async with AsyncIPRoute(fileno=namespace.netlink_socket(name), groups=0) as inner:
        with netlink_errors(f"read namespace {name}"):
            found = await _read(inner, datapath)
    rules, rules6, guarded = await _rules(name)
    return replace(
        found,
        links=found.links | ends,
        version=rules.version,
        source=rules.source,
        version6=rules6.version,
        source6=rules6.source,
        floating=rules.floating | rules6.floating,
        forwardings=rules.forwardings | rules6.forwardings,
        firewall=guarded,
    )


async def _rules(name: str) -> tuple[TableState, TableState, str | None]:
    listed = json.loads(await run((*namespace.entering(name), "nft", "--json", "list", "ruleset")))["nftables"]
    return parse(listed), parse(listed, 6), firewall.parse(listed)


async def _read(inner: AsyncIPRoute, datapath: Datapath) -> Observed:
    links = {message["index"]: message async for message in await inner.get_links()}
    names = {number: message.get_attr("IFLA_IFNAME") for number, message in links.items()}
    own = {number: name for number, name in names.items() if name.startswith(ROUTER)}
    joins = (_join(links[number], name, datapath) for number, name in own.items())
    addresses: list[Any] = []
    routes: list[Any] = []
    neighbours: list[Any] = []
    rules: list[Any] = []
    for family in (AF_INET, AF_INET6):
        addresses += [message async for message in await inner.get_addr(family=family)]
        routes += [message async for message in await inner.route("dump", family=family)]
        neighbours += [message async for message in await inner.neigh("dump", family=family)]
        rules += [message async for message in await inner.rule("dump", family=family)]
    return Observed(
        exists=True,
        joins=frozenset(join for join in joins if join is not None),
        links=frozenset(own.values()),
        addresses=frozenset(
            Address(own[message["index"]], f"{_local(message)}/{message['prefixlen']}")
            for message in addresses
            if message["index"] in own and message["scope"] != _SCOPE_LINK
        ),
        neighbours=frozenset(
            Neighbour(own[message["ifindex"]], message.get_attr("NDA_DST"), message.get_attr("NDA_LLADDR"))
            for message in neighbours
            if message["ifindex"] in own and message["state"] & _PERMANENT and message.get_attr("NDA_LLADDR")
        ),
        routes=frozenset(
            route
            for message in routes
            if message["proto"] == _STATIC and (route := _route(message, own)).table != TABLE_TUNNELS
        ),
        # Where there is IPv6 there is an address of the link, at least.
        speaking6=frozenset(
            own[message["index"]] for message in addresses if message["index"] in own and message["family"] == AF_INET6
        ),
        policy=frozenset(
            _rule(message)
            for message in rules
            if (preference := _preference(message)) > _OWN_PREFERENCES or preference in _TUNNELLED
        ),
    )


def _join(message: Any, name: str, datapath: Datapath) -> Join | None:
    """Give the link if both its ends are as they should be for each other."""
    end, mac = datapath.links.get(name), message.get_attr("IFLA_ADDRESS")
    if end is None or end.master is None or not end.up or not message["flags"] & _UP:
        return None
    if end.mtu != message.get_attr("IFLA_MTU") or mac not in datapath.forwards.get(name, ()):
        return None
    return Join(name, end.master, mac, end.mtu)


def _local(message: Any) -> str:
    return str(message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS"))


def _route(message: Any, links: dict[int, str]) -> Route:
    anywhere = IPv6Address(0) if message["family"] == AF_INET6 else IPv4Address(0)
    destination = f"{message.get_attr('RTA_DST') or anywhere}/{message['dst_len']}"
    table = message.get_attr("RTA_TABLE") or message["table"]
    link = links.get(message.get_attr("RTA_OIF"), "")
    return Route(table, destination, link, message.get_attr("RTA_GATEWAY") or "")


def _preference(message: Any) -> int:
    return message.get_attr("FRA_PRIORITY") or 0


def _rule(message: Any) -> PolicyRule:
    drops = message["action"] == _FR_ACT_BLACKHOLE
    table = NOWHERE if drops else message.get_attr("FRA_TABLE") or message["table"]
    family = 6 if message["family"] == AF_INET6 else 4
    destination = message.get_attr("FRA_DST")
    network = f"{destination}/{message['dst_len']}" if destination else ""
    return PolicyRule(_preference(message), table, message.get_attr("FRA_SRC") or "", family, network)
