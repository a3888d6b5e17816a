"""Taps: made in the host's namespace, where libvirt finds them, and moved into the datapath's after the start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kumulus_agent.network import link
from kumulus_agent.network.command import run
from kumulus_agent.network.errors import netlink_errors
from kumulus_agent.network.netlink import AsyncIPRoute


@dataclass(frozen=True)
class Counters:
    """Traffic since the tap was made, as the guest sees it: received is what was sent to it."""

    received_bytes: int
    received_packets: int
    received_dropped: int
    sent_bytes: int
    sent_packets: int
    sent_dropped: int


async def ensure(host: AsyncIPRoute, namespace: str | None, name: str, mtu: int) -> bool:
    """Make a persistent tap with that MTU in bytes in the host's namespace; False if it was there."""
    made = await link.index(host, name) is None
    if made:
        where = ("-netns", namespace) if namespace else ()
        await run(("ip", *where, "tuntap", "add", "dev", name, "mode", "tap"))
    with netlink_errors(f"set the MTU of {name} to {mtu}"):
        await host.link("set", index=await link.present(host, name), mtu=mtu)
    return made


async def counters(ipr: AsyncIPRoute, name: str) -> Counters | None:
    """Read the tap's counters; None if it is not in the namespace of `ipr`."""
    number = await link.index(ipr, name)
    if number is None:
        return None
    with netlink_errors(f"read the counters of {name}"):
        (answer,) = [message async for message in await ipr.get_links(number)]
    return _counters(answer)


async def all_counters(ipr: AsyncIPRoute) -> dict[str, Counters]:
    """Read the counters of all interfaces in the namespace of `ipr`, by name, with one dump."""
    with netlink_errors("read the counters of all interfaces"):
        return {message.get_attr("IFLA_IFNAME"): _counters(message) async for message in await ipr.get_links()}


def _counters(message: Any) -> Counters:
    stats = message.get_attr("IFLA_STATS64")
    return Counters(
        received_bytes=stats["tx_bytes"],
        received_packets=stats["tx_packets"],
        received_dropped=stats["tx_dropped"],
        sent_bytes=stats["rx_bytes"],
        sent_packets=stats["rx_packets"],
        sent_dropped=stats["rx_dropped"],
    )
