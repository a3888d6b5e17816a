"""The metadata service's address in the namespace of a network's servers, and the rules that bound what guests send.

The address lies on the loopback interface: dnsmasq takes no notice of it there, and the kernel answers ARP for it on
the link. Where the link has IPv6, its link-local counterpart lies on the link. Guests are counted by their MAC, which
the bridge has checked: one that sends without end has its packets dropped here, in the kernel, before the agent hears
of them.
"""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, Final

from kumulus_agent.network import link
from kumulus_agent.network.command import run
from kumulus_agent.network.expressions import anew
from kumulus_agent.network.namespace import entering, within
from kumulus_agent.network.netlink import AsyncIPRoute

ADDRESS: Final = IPv4Address("169.254.169.254")
ADDRESS6: Final = IPv6Address("fe80::a9fe:a9fe")
PORT: Final = 80
TABLE: Final = "kumulus-metadata"
CONNECTIONS: Final = (20, 100)
"""Connections that a guest may begin a second, and at once: cloud-init makes one for each of some forty values."""
PACKETS: Final = (1000, 2000)
_KEPT_SECONDS: Final = 30
_NO_DUPLICATE_DETECTION: Final = 2
_NO_IPV6: Final = Path("/proc/sys/net/ipv6/conf/all/disable_ipv6")


async def ensure(inner: AsyncIPRoute, namespace: str, interface: str) -> None:
    """Give the namespace the addresses.

    Args:
        inner: netlink of the namespace.
        namespace: its name.
        interface: the link's end in it.
    """
    await inner.addr("replace", index=await link.present(inner, "lo"), address=str(ADDRESS), prefixlen=32)
    if within(namespace, has_ipv6):
        # It is the same on every host, and the link shut off from the others.
        address = {"address": str(ADDRESS6), "prefixlen": 64, "flags": _NO_DUPLICATE_DETECTION}
        await inner.addr("replace", index=await link.present(inner, interface), **address)


async def bound(namespace: str) -> None:
    """Put the rules into the namespace, in one transaction; what was counted begins anew.

    Raises:
        CommandFailed: the rules could not be applied.
    """
    await run((*entering(namespace), "nft", "--json", "--file", "-"), stdin=json.dumps(rules()).encode())


def has_ipv6() -> bool:
    """Tell whether the namespace that the calling thread is in has IPv6."""
    return _NO_IPV6.exists() and _NO_IPV6.read_text().strip() == "0"


def rules() -> dict[str, Any]:
    """Give the rules as libnftables-json(5)."""
    here = {"family": "inet", "table": TABLE}
    chain = {**here, "name": "input", "type": "filter", "hook": "input", "prio": 0, "policy": "accept"}
    asked = _match({"payload": {"protocol": "tcp", "field": "dport"}}, PORT)
    begun = _match({"&": [{"payload": {"protocol": "tcp", "field": "flags"}}, ["syn", "ack"]]}, "syn")
    commands: list[Any] = anew("inet", TABLE)
    commands.append({"add": {"chain": chain}})
    for name, match, (rate, burst) in (("begun", [asked, begun], CONNECTIONS), ("sent", [asked], PACKETS)):
        kept = {"size": 65535, "flags": ["timeout"], "timeout": _KEPT_SECONDS}
        commands.append({"add": {"set": {**here, "name": name, "type": "ether_addr", **kept}}})
        limit = {"limit": {"rate": rate, "burst": burst, "per": "second", "inv": True}}
        counted = {"set": {"op": "update", "elem": _sender(), "set": f"@{name}", "stmt": [limit]}}
        commands.append({"add": {"rule": {**here, "chain": "input", "expr": [*match, counted, {"drop": None}]}}})
    return {"nftables": commands}


def _sender() -> Any:
    return {"payload": {"protocol": "ether", "field": "saddr"}}


def _match(left: Any, right: Any) -> Any:
    return {"match": {"op": "==", "left": left, "right": right}}
