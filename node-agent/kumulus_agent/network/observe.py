"""Reading the datapath namespace."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from kumulus_agent.network import names, shaping, vxlan
from kumulus_agent.network.errors import NetlinkFailed
from kumulus_agent.network.listing import ListedLink, listed
from kumulus_agent.network.netlink import AsyncIPRoute
from kumulus_agent.network.state import Link, Neighbour, Observed


async def observe_links(ipr: AsyncIPRoute, namespace: str) -> Observed:
    """Read links, forwarding entries and rates."""
    try:
        found, entries = await asyncio.to_thread(listed, namespace)
    except OSError as error:
        raise NetlinkFailed(f"read the links of namespace {namespace}: {error}") from error
    by_index = {link.index: link.name for link in found}
    links = {link.name: _link(link, by_index) for link in found}
    # Where nothing has a rate there is no third list to read, which is one of all interfaces too.
    limited = any(names.is_queue(name) or link.discipline == "tbf" for name, link in links.items())
    buckets, redirected = await shaping.observe(ipr, by_index) if limited else ({}, frozenset())
    flood: dict[str, set[str]] = defaultdict(set)
    neighbours: dict[str, set[Neighbour]] = defaultdict(set)
    forwards: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        name = by_index.get(entry.index)
        if name is None:
            continue
        if vxlan.is_fixed(entry.flags):
            forwards[name].add(entry.mac)
        if entry.peer is None or links[name].kind != "vxlan":
            continue
        if entry.mac == vxlan.ANY:
            flood[name].add(entry.peer)
        elif vxlan.is_noted(entry.flags):
            neighbours[name].add((entry.mac, entry.peer))
    return Observed(
        links,
        {name: frozenset(peers) for name, peers in flood.items()},
        {name: frozenset(found) for name, found in neighbours.items()},
        forwards={name: frozenset(macs) for name, macs in forwards.items()},
        buckets=buckets,
        redirected=redirected,
    )


def _link(found: ListedLink, by_index: dict[int, str]) -> Link:
    return Link(
        name=found.name,
        kind=found.kind,
        mtu=found.mtu,
        up=found.up,
        master=by_index.get(found.master),
        vni=found.vni,
        local=found.local,
        alias=found.alias,
        discipline=found.discipline,
    )
