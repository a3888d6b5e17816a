"""Reading the host's interfaces that are mapped to physical networks, and what the host itself needs them for."""

from __future__ import annotations

import errno
from collections.abc import Collection
from ipaddress import ip_address
from typing import Any

from kumulus_agent.network.errors import netlink_errors
from kumulus_agent.network.netlink import AsyncIPRoute, NetlinkError
from kumulus_agent.network.state import HostInterface
from kumulus_agent.network.taken import Taken

_OUTSIDE = ("203.0.113.1", "2001:db8::1")
"""Documentation addresses (RFC 5737, RFC 3849), which only a default route leads to."""
_NO_ROUTE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL, errno.EACCES, errno.EOPNOTSUPP, errno.EAFNOSUPPORT}
_APART = {"veth", "bridge"}
"""Kinds whose IFLA_LINK does not say what they lie upon."""


async def observe(host: AsyncIPRoute, datapath: AsyncIPRoute, wanted: Collection[str]) -> dict[str, HostInterface]:
    """Read the interfaces of these names that are there: in the host's namespace, or taken in the datapath's."""
    if not wanted:
        return {}
    with netlink_errors("read the host's interfaces"):
        taken = await _links(datapath)
        links = await _links(host)
        addresses = [message async for message in await host.get_addr()]
    found: dict[str, HostInterface] = {}
    for name in wanted:
        if name in links:
            uses = _uses(links[name], links, addresses) or await _default_route(host, links[name]["index"])
            # One whose namespace somebody has deleted came back with the note.
            stale = Taken.read(_alias(links[name]))
            found[name] = _interface(links[name], alias=stale.alias if stale is not None else None, used=uses)
        elif name in taken and (note := Taken.read(_alias(taken[name]))) is not None:
            found[name] = _interface(taken[name], alias=note.alias, taken=True)
    return found


async def supports_vlans(host: AsyncIPRoute) -> bool:
    """Ask the kernel for a VLAN device of nothing: it says what is missing, or that it does not know the kind."""
    try:
        await host.link("add", ifname="kuprobe", kind="vlan")
    except NetlinkError as error:
        return bool(error.code != errno.EOPNOTSUPP)
    return True


async def _links(ipr: AsyncIPRoute) -> dict[str, Any]:
    return {message.get_attr("IFLA_IFNAME"): message async for message in await ipr.get_links()}


def _alias(message: Any) -> str:
    return message.get_attr("IFLA_IFALIAS") or ""


def _interface(message: Any, *, alias: str | None = None, used: str = "", taken: bool = False) -> HostInterface:
    return HostInterface(
        name=message.get_attr("IFLA_IFNAME"),
        mtu=message.get_attr("IFLA_MTU"),
        up=bool(message["flags"] & 1),
        alias=_alias(message) if alias is None else alias,
        used=used,
        taken=taken,
    )


def _uses(link: Any, links: dict[str, Any], addresses: list[Any]) -> str:
    """Say what the host uses an interface for, or nothing; link-local addresses come by themselves."""
    number = link["index"]
    own = (message.get_attr("IFA_ADDRESS") for message in addresses if message["index"] == number)
    first = next((address for address in own if not ip_address(address).is_link_local), None)
    if first is not None:
        return f"it has the host's address {first}"
    names = {message["index"]: name for name, message in links.items()}
    master = link.get_attr("IFLA_MASTER")
    if master:
        return f"it is a part of {names.get(master, master)}"
    for name, message in links.items():
        apart = message.get_attr("IFLA_LINK_NETNSID") is not None or _kind(message) in _APART
        if not apart and message.get_attr("IFLA_LINK") == number:
            return f"{name} lies upon it"
    return ""


def _kind(message: Any) -> str:
    info = message.get_attr("IFLA_LINKINFO")
    return (info.get_attr("IFLA_INFO_KIND") or "") if info else ""


async def _default_route(host: AsyncIPRoute, number: int) -> str:
    for address in _OUTSIDE:
        try:
            answers = await host.route("get", dst=address)
            if any(answer.get_attr("RTA_OIF") == number for answer in answers):
                return "the host's default route leads through it"
        except NetlinkError as error:
            if error.code not in _NO_ROUTE:
                raise
    return ""
