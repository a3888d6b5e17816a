"""The links in the kernel: observe, and the verb of each step."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from contextlib import AsyncExitStack
from pathlib import Path
from socket import AF_INET
from typing import Any

from kumulus_agent.network import link, namespace
from kumulus_agent.network.command import run
from kumulus_agent.network.errors import NetworkError, netlink_errors
from kumulus_agent.network.expressions import digest
from kumulus_agent.network.namespace import entering, within
from kumulus_agent.network.netlink import AsyncIPRoute
from kumulus_agent.network.steps import Step
from kumulus_agent.peering import plan, rules
from kumulus_agent.peering.state import (
    INNER,
    PODS,
    PORT,
    SERVICES,
    End,
    LinkDesired,
    LinkSeen,
    Observed,
    namespace_of,
    note,
    noted,
)

_DIGITS = 6
_MAIN = 254
_ANY = "0.0.0.0"  # noqa: S104 - what netlink leaves out of a default route, not a listener
_FORWARDING = Path("/proc/sys/net/ipv4/conf")


class PeeringLinks:
    """The links between networks and a host's own namespace. Every method may be repeated.

    Args:
        host_namespace: name of that namespace; None for the present one.
        services: prefix of the names of the namespaces of networks' own servers.
        pods: of those by which pods reach servers.
    """

    def __init__(self, host_namespace: str | None = None, *, services: str = "kd", pods: str = "kc") -> None:
        self._host_namespace = host_namespace
        self._services = services
        self._pods = pods
        self._changing = asyncio.Lock()
        self.empty = False
        """Whether there was nothing when it was looked at last: neither a link nor rules."""

    @property
    def pods_prefix(self) -> str:
        """What the names of the namespaces begin with by which pods reach servers."""
        return self._pods

    def pods_namespace(self, vni: int) -> str:
        """Name the namespace by which pods reach a network's servers."""
        return f"{self._pods}{vni:06x}"

    def services_namespace(self, vni: int) -> str:
        """Name the namespace of a network's own servers."""
        return f"{self._services}{vni:06x}"

    async def ensure(
        self, desired: Collection[LinkDesired], pods: Collection[str], stays: Callable[[str], bool] = lambda _: False
    ) -> list[Step]:
        """Have these links and no others; return the steps that were needed.

        Args:
            desired: the links; the namespaces that they lead to are here.
            pods: where the cluster's pods are, if they reach servers.
            stays: tells of another one, by its name, that it is not known yet whether it is to go.

        Raises:
            NetworkError: the kernel refused; call again.
        """
        told = rules.of_host(pods)
        async with self._changing, AsyncExitStack() as stack:
            host = await self._open(stack, self._host_namespace)
            observed = await self._observe(host)
            self.empty = not desired and observed == Observed()
            others = {name for name in observed.links.keys() - {item.name for item in desired} if not stays(name)}
            unwanted = {name: namespace_of(name, self._services, self._pods) for name in others}
            try:
                steps = plan.plan(desired, (told, digest(told)), observed, unwanted)
            except plan.NumbersExhausted as error:
                raise NetworkError(str(error)) from error
            for step in steps:
                with netlink_errors(f"change the link {step.target} between network and cluster"):
                    await self._verbs(stack, host)[type(step)](step)
        return list(steps)

    async def _open(self, stack: AsyncExitStack, name: str | None) -> AsyncIPRoute:
        where = {"fileno": namespace.netlink_socket(name)} if name else {}
        return await stack.enter_async_context(AsyncIPRoute(groups=0, **where))

    async def _observe(self, host: AsyncIPRoute) -> Observed:
        """Read the links, and the rules of both their ends."""
        found: dict[str, LinkSeen] = {}
        with netlink_errors("read the links between networks and cluster"):
            for message in [item async for item in await host.get_links()]:
                name = str(message.get_attr("IFLA_IFNAME"))
                if _is_link(name, message):
                    outer = await _end(host, self._host_namespace, message, {name})
                    number = noted(message.get_attr("IFLA_IFALIAS") or "")
                    found[name] = await self._with_inner(LinkSeen(number, outer))
        return Observed(found, await _version(self._host_namespace))

    async def _with_inner(self, seen: LinkSeen) -> LinkSeen:
        name = namespace_of(seen.outer.name, self._services, self._pods)
        if not namespace.exists(name):
            return seen
        async with AsyncExitStack() as stack:
            inner = await self._open(stack, name)
            number = await link.index(inner, INNER)
            if number is None:
                return seen
            (message,) = await inner.link("get", index=number)
            end = await _end(inner, name, message, {INNER, PORT})
        return LinkSeen(seen.number, seen.outer, end, await _version(name))

    def _verbs(self, stack: AsyncExitStack, host: AsyncIPRoute) -> dict[type[Step], Callable[[Any], Awaitable[object]]]:
        return {
            plan.CreateLink: lambda s: _create(host, s),
            plan.RemoveLink: lambda s: _remove(host, s),
            plan.PutRules: lambda s: _nft(s.namespace or self._host_namespace, rules.applied(s.rules)),
            plan.RemoveRules: lambda _: _nft(self._host_namespace, rules.removed()),
            plan.SetEnd: lambda s: self._set_end(stack, host, s),
            plan.NoteNumber: lambda s: _note(host, s),
        }

    async def _set_end(self, stack: AsyncExitStack, host: AsyncIPRoute, step: plan.SetEnd) -> None:
        ipr = host if step.namespace is None else await self._open(stack, step.namespace)
        await _set(ipr, step.end, step.former)
        _forward(step.namespace or self._host_namespace, step.end.forwards)


def _is_link(name: str, message: Any) -> bool:
    info = message.get_attr("IFLA_LINKINFO")
    kind = info.get_attr("IFLA_INFO_KIND") if info else None
    return kind == "veth" and name[:2] in (SERVICES, PODS) and len(name) == len(SERVICES) + _DIGITS


async def _end(ipr: AsyncIPRoute, where: str | None, message: Any, watched: Collection[str]) -> End:
    number, name = int(message["index"]), str(message.get_attr("IFLA_IFNAME"))
    addresses = [
        f"{item.get_attr('IFA_LOCAL')}/{item['prefixlen']}"
        async for item in await ipr.get_addr(family=AF_INET, index=number)
    ]
    routes = {
        (f"{item.get_attr('RTA_DST') or _ANY}/{item['dst_len']}", str(item.get_attr("RTA_GATEWAY")))
        async for item in await ipr.get_routes(family=AF_INET, table=_MAIN, oif=number)
        if item.get_attr("RTA_GATEWAY") is not None
    }
    return End(
        name,
        " ".join(sorted(addresses)),
        int(message.get_attr("IFLA_MTU")),
        bool(message["flags"] & 1),
        frozenset(routes),
        frozenset(_forwarding(where, watched)),
    )


async def _set(ipr: AsyncIPRoute, wanted: End, former: End) -> None:
    number = await link.present(ipr, wanted.name)
    for text in former.address.split():
        if text != wanted.address:
            address, length = text.split("/")
            await ipr.addr("del", index=number, address=address, prefixlen=int(length))
    address, length = wanted.address.split("/")
    await ipr.addr("replace", index=number, address=address, prefixlen=int(length))
    await ipr.link("set", index=number, mtu=wanted.mtu, state="up")
    for cidr, gateway in sorted(former.routes - wanted.routes):
        await ipr.route("del", dst=cidr, gateway=gateway, oif=number, family=AF_INET)
    for cidr, gateway in sorted(wanted.routes):
        await ipr.route("replace", dst=cidr, gateway=gateway, oif=number, family=AF_INET)


async def _create(host: AsyncIPRoute, step: plan.CreateLink) -> None:
    await link.absent(host, step.target)
    peer = {"ifname": INNER, "mtu": step.mtu, "net_ns_fd": step.namespace}
    await host.link("add", ifname=step.target, kind="veth", mtu=step.mtu, peer=peer)


async def _note(host: AsyncIPRoute, step: plan.NoteNumber) -> None:
    await host.link("set", index=await link.present(host, step.target), IFLA_IFALIAS=note(step.number))


async def _remove(host: AsyncIPRoute, step: plan.RemoveLink) -> None:
    await link.absent(host, step.target)
    if namespace.exists(step.namespace):
        _forward(step.namespace, {PORT}, on=False)
        await _nft(step.namespace, rules.removed())


async def _nft(where: str | None, transaction: bytes) -> None:
    await run((*entering(where), "nft", "--json", "--file", "-"), stdin=transaction)


async def _version(where: str | None) -> str:
    return rules.read(await run((*entering(where), "nft", "--json", "list", "chains", rules.FAMILY)))


def _forwarding(where: str | None, interfaces: Collection[str]) -> set[str]:
    def look() -> set[str]:
        files = {name: _FORWARDING / name / "forwarding" for name in interfaces}
        return {name for name, file in files.items() if file.exists() and file.read_text().strip() == "1"}

    return within(where, look) if where else look()


def _forward(where: str | None, interfaces: Collection[str], *, on: bool = True) -> None:
    def write() -> None:
        for name in interfaces:
            file = _FORWARDING / name / "forwarding"
            if file.exists():
                file.write_text("1" if on else "0")

    if where:
        within(where, write)
    else:
        write()
