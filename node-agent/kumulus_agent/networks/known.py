"""What is known of a network that is carried here."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from kumulus_agent.network.state import NetworkDesired
from kumulus_agent.networks.reach import NetworkUnreached
from kumulus_agent.servers.desired import NetworkKey


@dataclass
class Carried:
    """What is known of one network."""

    key: NetworkKey
    network: dict[str, Any] | None = None
    slices: dict[str, dict[str, Any]] = field(default_factory=dict)
    synced: tuple[asyncio.Event, asyncio.Event] = field(default_factory=lambda: (asyncio.Event(), asyncio.Event()))
    watches: list[asyncio.Task[None]] = field(default_factory=list)
    applied: NetworkDesired | None = None
    unreached: NetworkUnreached | None = None
    """Why the network is not reached from here."""
    altered: bool = False
    """Something on this host is no longer as it was applied."""
    deaths: int = 0
    """How often in a row the DHCP server has ended by itself."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
