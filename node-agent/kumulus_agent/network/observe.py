"""Reading the datapath namespace."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

from kumulus_agent.network import firewall, names, shaping, vxlan
from kumulus_agent.network.errors import netlink_errors
from kumulus_agent.network.netlink import AsyncIPRoute
from kumulus_agent.network.state import Link, Neighbour, Observed


async def observe(ipr: AsyncIPRoute, namespace: str) -> Observed:
    """Read links, forwarding entries, rates, and rules."""
    return replace(await observe_links(ipr, namespace), firewall=await firewall.observe(namespace))


async def observe_links(ipr: AsyncIPRoute, namespace: str) -> Observed:
    """Read links, forwarding entries and rates."""
    with netlink_errors(f"read the links of namespace {namespace}"):
        messages = [message async for message in await ipr.get_links()]
        entries = [entry async for entry in await ipr.fdb("dump")]
    by_index = {message["index"]: message.get_attr("IFLA_IFNAME") for message in messages}
    links = {link.name: link for link in (_link(message, by_index) for message in messages)}
    # Where nothing has a rate there is no third list to read, which is one of all interfaces too.
    limited = any(names.is_queue(name) or link.discipline == "tbf" for name, link in links.items())
    buckets, redirected = await shaping.observe(ipr, by_index) if limited else ({}, frozenset())
    flood: dict[str, set[str]] = defaultdict(set)
    neighbours: dict[str, set[Neighbour]] = defaultdict(set)
    forwards: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        name, mac, peer = by_index.get(entry["ifindex"]), entry.get_attr("NDA_LLADDR"), entry.get_attr("NDA_DST")
        if name is not None and vxlan.is_fixed(entry):
            forwards[name].add(mac)
        if name not in links or links[name].kind != "vxlan" or peer is None:
            continue
        if mac == vxlan.ANY:
            flood[name].add(peer)
        elif vxlan.is_noted(entry):
            neighbours[name].add((mac, peer))
    return Observed(
        links,
        {name: frozenset(peers) for name, peers in flood.items()},
        {name: frozenset(found) for name, found in neighbours.items()},
        forwards={name: frozenset(macs) for name, macs in forwards.items()},
        buckets=buckets,
        redirected=redirected,
    )


def _link(message: Any, by_index: dict[int, str]) -> Link:
    info = message.get_attr("IFLA_LINKINFO")
    kind = info.get_attr("IFLA_INFO_KIND") if info else None
    data = info.get_attr("IFLA_INFO_DATA") if info and kind == "vxlan" else None
    return Link(
        name=message.get_attr("IFLA_IFNAME"),
        kind=kind or "",
        mtu=message.get_attr("IFLA_MTU"),
        up=bool(message["flags"] & 1),
        master=by_index.get(message.get_attr("IFLA_MASTER") or 0),
        vni=data.get_attr("IFLA_VXLAN_ID") if data else None,
        local=data.get_attr("IFLA_VXLAN_LOCAL") if data else None,
        alias=message.get_attr("IFLA_IFALIAS") or "",
        discipline=message.get_attr("IFLA_QDISC") or "",
    )
