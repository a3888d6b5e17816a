"""Interfaces of any kind: find, set, move, delete."""

from __future__ import annotations

import errno
from dataclasses import dataclass

from kumulus_agent.network.errors import NetlinkFailed, netlink_errors
from kumulus_agent.network.netlink import AsyncIPRoute, NetlinkError


@dataclass(frozen=True, slots=True)
class Seen:
    """An interface: its index, that of its bridge (0: of none), MTU in bytes, and whether it is up."""

    index: int
    master: int
    mtu: int
    up: bool


async def seen(ipr: AsyncIPRoute, name: str) -> Seen | None:
    """Look at an interface; None if it is not in the namespace of `ipr`."""
    try:
        # Not get_links(): that is a dump, of which a socket can have but one at a time.
        for found in await ipr.link("get", ifname=name):
            up, master = bool(found["flags"] & 1), found.get_attr("IFLA_MASTER") or 0
            return Seen(int(found["index"]), int(master), int(found.get_attr("IFLA_MTU")), up)
    except NetlinkError as error:
        if error.code != errno.ENODEV:
            raise
    return None


async def index(ipr: AsyncIPRoute, name: str) -> int | None:
    """Return the interface's index, None if it is not in the namespace of `ipr`."""
    found = await seen(ipr, name)
    return found.index if found is not None else None


async def present(ipr: AsyncIPRoute, name: str) -> int:
    """Return the interface's index.

    Raises:
        NetlinkFailed: it is not there (any more): what was planned with it is out of date.
    """
    number = await index(ipr, name)
    if number is None:
        raise NetlinkFailed(f"interface {name} is gone; observe again")
    return number


async def become(ipr: AsyncIPRoute, wanted: Seen) -> None:
    """Set MTU and bridge of the interface of that index, and bring it up."""
    with netlink_errors(f"set interface {wanted.index} to mtu {wanted.mtu}, bridge {wanted.master}, up"):
        await ipr.link("set", index=wanted.index, mtu=wanted.mtu, master=wanted.master, state="up")


async def configure(ipr: AsyncIPRoute, name: str, mtu: int, master: str | None) -> None:
    """Set MTU in bytes and bridge (None: of no bridge), and bring the interface up."""
    with netlink_errors(f"set {name} to mtu {mtu}, bridge {master}, up"):
        settings: dict[str, int | str] = {"mtu": mtu, "state": "up"}
        settings["master"] = await present(ipr, master) if master else 0
        await ipr.link("set", index=await present(ipr, name), **settings)


async def move(ipr: AsyncIPRoute, name: str, namespace: str) -> bool:
    """Move the interface from the namespace of `ipr` to the named one; False if it is not there."""
    number = await index(ipr, name)
    if number is None:
        return False
    with netlink_errors(f"move {name} to namespace {namespace}"):
        await ipr.link("set", index=number, net_ns_fd=namespace)
    return True


async def absent(ipr: AsyncIPRoute, name: str) -> bool:
    """Delete the interface; False if there was none."""
    number = await index(ipr, name)
    if number is None:
        return False
    with netlink_errors(f"delete {name}"):
        try:
            await ipr.link("del", index=number)
        except NetlinkError as error:
            if error.code != errno.ENODEV:
                raise
    return True
