"""nftables of the datapath namespace: read, and change in one transaction."""

from __future__ import annotations

import json

from kumulus_agent.network.command import run
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


async def flush_zone(namespace: str, zone: int) -> None:
    """Forget the tracked connections of a network's zone."""
    # conntrack ends with 1 when there was nothing to delete.
    await run((*entering(namespace), "conntrack", "--delete", "--zone", str(zone)), allowed=(0, 1))
