"""The routers of a host in its kernel: observe, plan, apply."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from socket import AF_INET, AF_INET6
from typing import Any

from kumulus_agent.network import link, names, namespace, vxlan
from kumulus_agent.network.command import run
from kumulus_agent.network.datapath import Datapath
from kumulus_agent.network.errors import NetworkError, netlink_errors
from kumulus_agent.network.names import TAP_DIGITS, router_namespace
from kumulus_agent.network.netlink import AsyncIPRoute
from kumulus_agent.network.state import NetworkDesired
from kumulus_agent.routers import firewall, plan, rules, tracked
from kumulus_agent.routers.advertise import Advertised, Advertisers
from kumulus_agent.routers.announce import announce
from kumulus_agent.routers.observe import observe
from kumulus_agent.routers.pair import NETWORK
from kumulus_agent.routers.plan import Step
from kumulus_agent.routers.state import (
    NOWHERE,
    Address,
    Floating,
    Forwarding,
    Join,
    Neighbour,
    Observed,
    PolicyRule,
    Route,
    RouterDesired,
)

_NUD_PERMANENT = 0x80
_RTNH_F_ONLINK = 4
_NO_PREFIX_ROUTE = 0x200
_FR_ACT_TO_TBL = 1


class RouterPaths:
    """Routers of this host. Every method may be repeated; each router is changed by one at a time.

    Args:
        datapath: where the bridges are.
        prefix: of the names of routers' namespaces.
    """

    def __init__(self, datapath: Datapath, prefix: str = "kr-") -> None:
        self._datapath = datapath
        self._prefix = prefix
        self._advertisers = Advertisers()

    async def observe(self, desired: RouterDesired) -> Observed:
        """Read the router as it is."""
        wanted = {join.name for join in desired.joins}
        return await observe(self.namespace(desired.router_id), wanted, await self._datapath.observe_links())

    async def ensure(self, desired: RouterDesired, applied: RouterDesired | None = None) -> list[Step]:
        """Make the router as desired; its networks are here already. Return the steps that were needed.

        Args:
            desired: the router.
            applied: as it was made before, if that is known: where only ports have come and gone since, all else is
                not read again.

        Raises:
            NetworkError: the kernel refused; call again, with nothing known.
        """
        known = applied is not None and replace(applied, neighbours=desired.neighbours) == desired
        observed = plan.assumed(applied) if applied is not None and known else await self.observe(desired)
        steps = plan.plan(desired, observed)
        if steps:
            await self._apply(self.namespace(desired.router_id), steps)
        return list(steps)

    def advertise(self, desired: RouterDesired, *, again: bool) -> None:
        """Have guests told of the router, where it has IPv6 addresses; `again` if its links may be others than before.

        Raises:
            NetworkError: a link is gone; ensure the router first.
        """
        name = self.namespace(desired.router_id)
        joins = {join.name: join for join in desired.joins}
        links = {
            address.link: Advertised(joins[address.link].mac, joins[address.link].mtu)
            for address in desired.addresses
            if ":" in address.text
        }
        if not again and links == self._advertisers.known(name):
            return
        try:
            self._advertisers.ensure(name, links)
        except OSError as error:
            raise NetworkError(f"asked to advertise router {desired.router_id}: {error}") from error

    async def keep_advertising(self) -> None:
        """Tell guests of their routers now and then; never returns, and says nothing more when it is cancelled."""
        try:
            await self._advertisers.keep_announcing()
        finally:
            self._advertisers.close()

    async def ensure_hosts_network(self, desired: NetworkDesired) -> None:
        """Have the network by which the hosts of gateways hear each other; without any link it goes.

        Raises:
            NetworkError: the kernel refused.
        """
        if desired.routers:
            await self._datapath.ensure_network(desired)
        else:
            await self._datapath.remove_network(desired.vni)

    async def end_shared(self, desired: RouterDesired) -> None:
        """End the connections of the addresses that another host has now."""
        for item in desired.virtual:
            if isinstance(item, Address):
                address = item.text.partition("/")[0]
                await _end(self.namespace(desired.router_id), Floating(address, ""))

    def netns(self, router_id: str) -> Path:
        """Give the file of a router's namespace."""
        return namespace.path(self.namespace(router_id))

    async def remove(self, router_id: str) -> bool:
        """Remove the router, its connections and its links; False if it was not here."""
        self._advertisers.end(self.namespace(router_id))
        return await namespace.absent(self.namespace(router_id))

    async def sweep(self, kept: Collection[str]) -> list[str]:
        """Remove all routers but these; return the names of their namespaces."""
        names = {self.namespace(router_id) for router_id in kept}
        size = len(self._prefix) + TAP_DIGITS
        found = await asyncio.to_thread(lambda: sorted(namespace.DIRECTORY.glob(f"{self._prefix}*")))
        gone = [file.name for file in found if len(file.name) == size and file.name not in names]
        for name in gone:
            await namespace.absent(name)
        return gone

    def namespace(self, router_id: str) -> str:
        """Name a router's namespace."""
        return router_namespace(router_id, self._prefix)

    async def _apply(self, name: str, steps: Sequence[Step]) -> None:
        async with AsyncExitStack() as stack:
            outer = await self._open(stack, self._datapath.namespace)
            inner: AsyncIPRoute | None = None
            for step in steps:
                if isinstance(step, plan.EnsureNamespace):
                    await _make(name)
                    continue
                if inner is None:
                    inner = await self._open(stack, name)
                await _verbs(name, outer, inner)[type(step)](step)

    async def _open(self, stack: AsyncExitStack, name: str) -> AsyncIPRoute:
        return await stack.enter_async_context(AsyncIPRoute(fileno=namespace.netlink_socket(name), groups=0))


async def _make(name: str) -> None:
    await namespace.ensure(name)
    namespace.configure_router(name)
    await run(("ip", "-netns", name, "link", "set", "lo", "up"))


def _verbs(name: str, outer: AsyncIPRoute, inner: AsyncIPRoute) -> dict[type[Step], Callable[[Any], Awaitable[object]]]:
    """Return the verb of each kind of step."""
    return {
        plan.CreateJoin: lambda s: create_join(name, outer, inner, s.join),
        plan.DeleteJoin: lambda s: _delete(outer, inner, s.name),
        plan.SpeakIPv6: lambda s: _speak(name, s),
        plan.Add: lambda s: _change(inner, s.item, add=True),
        plan.Remove: lambda s: _change(inner, s.item, add=False),
        plan.Translate: lambda s: _transact(name, rules.transaction(s.translation)),
        plan.Judge: lambda s: _judge(name, s),
        plan.EndConnections: lambda s: _end(name, s.by),
        plan.Announce: lambda s: announce(name, s.address.link, s.mac, (s.address.text.partition("/")[0],)),
    }


async def create_join(name: str, outer: AsyncIPRoute, inner: AsyncIPRoute, join: Join) -> None:
    """Make a veth between a namespace and a bridge."""
    peer = {"ifname": join.name, "address": join.mac, "mtu": join.mtu, "net_ns_fd": name}
    with netlink_errors(f"make the veth {join.name} to namespace {name}"):
        await outer.link("add", ifname=join.name, kind="veth", mtu=join.mtu, peer=peer)
        await inner.link("set", index=await link.present(inner, join.name), state="up")
    await link.configure(outer, join.name, join.mtu, join.bridge)
    if join.bridge == names.bridge(NETWORK):
        # One router's never reaches another's.
        await outer.brport("set", index=await link.present(outer, join.name), isolated=1)
    await vxlan.ensure_forward(outer, join.name, join.mac)


async def _delete(outer: AsyncIPRoute, inner: AsyncIPRoute, name: str) -> None:
    await link.absent(inner, name)
    await link.absent(outer, name)


async def _speak(name: str, step: plan.SpeakIPv6) -> None:
    namespace.enable_ipv6_on(name, step.link, enable=step.speaks)


async def _change(inner: AsyncIPRoute, item: Address | Neighbour | Route | PolicyRule, *, add: bool) -> None:
    verb = "replace" if add else "del"
    with netlink_errors(f"{verb} {item}"):
        if isinstance(item, Address):
            await _address(inner, item, verb)
        elif isinstance(item, Neighbour):
            number = await link.present(inner, item.link)
            noted = {"lladdr": item.mac, "state": _NUD_PERMANENT} if add else {}
            await inner.neigh(verb, family=_family(item.address), ifindex=number, dst=item.address, **noted)
        elif isinstance(item, Route):
            await _route(inner, item, verb)
        else:
            six = item.family != 4
            which: dict[str, Any] = {"src": item.source, "src_len": 128 if six else 32} if item.source else {}
            if item.destination:
                address, length = item.destination.split("/")
                which |= {"dst": address, "dst_len": int(length)}
            family = AF_INET6 if six else AF_INET
            which |= {"action": "blackhole"} if item.table == NOWHERE else {"table": item.table}
            await inner.rule("add" if add else "del", family=family, priority=item.preference, **which)


async def _address(inner: AsyncIPRoute, item: Address, verb: str) -> None:
    address, length = item.text.split("/")
    number = await link.present(inner, item.link)
    await inner.addr(verb, index=number, address=address, prefixlen=int(length), family=_family(address))


async def _route(inner: AsyncIPRoute, item: Route, verb: str) -> None:
    way: dict[str, Any] = {"gateway": item.via, "flags": _RTNH_F_ONLINK} if item.via else {"scope": "link"}
    number = await link.present(inner, item.link)
    await inner.route(verb, family=_family(item.destination), dst=item.destination, oif=number, table=item.table, **way)


def _family(text: str) -> int:
    return AF_INET6 if ":" in text else AF_INET


async def _judge(name: str, step: plan.Judge) -> None:
    """Apply the rules, then hold connections to them, then note that it is done: who finds no note does it again."""
    await _transact(name, firewall.applied(step.firewall))
    if step.anew:
        await tracked.forget_halves(name)
    await tracked.hold(name, step.firewall)
    await _transact(name, firewall.sealed(step.firewall))


async def _transact(name: str, transaction: dict[str, Any]) -> None:
    argv = (*namespace.entering(name), "nft", "--json", "--file", "-")
    await run(argv, stdin=json.dumps(transaction).encode())


async def _end(name: str, by: Floating | Forwarding | PolicyRule | str) -> None:
    if isinstance(by, PolicyRule):
        await _delete_connections(name, "--family", f"ipv{by.family}", "--orig-dst", by.destination)
        return
    address = by if isinstance(by, str) else by.address
    delete = partial(_delete_connections, name, "--family", "ipv6" if ":" in address else "ipv4")
    if isinstance(by, Forwarding):
        await delete("--proto", by.protocol, "--orig-dst", by.address, "--orig-port-dst", str(by.port))
        return
    if isinstance(by, Floating):
        await delete("--orig-dst", address)
    await delete("--reply-dst", address)


async def _delete_connections(name: str, *which: str) -> None:
    # conntrack ends with 1 when there was nothing to delete.
    await run((*namespace.entering(name), "conntrack", "--delete", *which), allowed=(0, 1))
