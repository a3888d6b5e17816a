"""nftables of the datapath namespace: read, and change in one transaction."""

from __future__ import annotations

import asyncio
import json

from kumulus_agent.network.command import run
from kumulus_agent.network.expressions import TABLE
from kumulus_agent.network.limits import DROPPED, FAMILY, SPOOFED, counts_of
from kumulus_agent.network.namespace import entering
from kumulus_agent.network.rules import FirewallChange, FirewallState, parse


async def observe(namespace: str) -> FirewallState:
    """Read the rules of the namespace."""
    listed = await run((*entering(namespace), "nft", "--json", "list", "ruleset"))
    return parse(json.loads(listed)["nftables"])


async def apply(namespace: str, change: FirewallChange) -> None:
    """Apply the change: all of it, or (CommandFailed) nothing."""
    transaction = json.dumps(change.transaction()).encode()
    await run((*entering(namespace), "nft", "--json", "--file", "-"), stdin=transaction)


async def counts(namespace: str) -> tuple[dict[str | int, int], dict[str | int, int]]:
    """Read what was dropped: by interface, and by port and reason; nothing else is listed, however many the rules."""
    spoofed, dropped = await asyncio.gather(
        _counts(namespace, "bridge", SPOOFED),
        _counts(namespace, FAMILY, DROPPED),
    )
    return spoofed, dropped


async def _counts(namespace: str, family: str, name: str) -> dict[str | int, int]:
    listed = await run((*entering(namespace), "nft", "--json", "list", "set", family, TABLE, name))
    return counts_of(json.loads(listed)["nftables"])


async def flush_zone(namespace: str, zone: int) -> None:
    """Forget the tracked connections of a network's zone."""
    # conntrack ends with 1 when there was nothing to delete.
    await run((*entering(namespace), "conntrack", "--delete", "--zone", str(zone)), allowed=(0, 1))
