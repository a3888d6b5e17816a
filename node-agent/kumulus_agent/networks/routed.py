"""What routers ask of the networks that a host carries."""

from __future__ import annotations

import asyncio
from typing import Protocol

from kumulus_agent.network.state import Neighbour, RouterPort


class Routed(Protocol):
    """What routers ask of the networks here."""

    known: asyncio.Event
    """Set when it is known what routers ask."""

    def ports(self, vni: int, /) -> tuple[RouterPort, ...]:
        """Give the links of routers to the network."""

    def transits(self, vni: int, /) -> frozenset[Neighbour]:
        """Give where gateways are that are reached through the network."""

    def taken(self, vni: int, /) -> frozenset[Neighbour]:
        """Give where they may be instead, as hosts hear by themselves."""

    def audience(self, vni: int, /) -> frozenset[int]:
        """Give the other networks whose hosts hear through the network where gateways are that may be here."""

    def centres(self, vni: int, /) -> frozenset[str]:
        """Give where centralised routers of the network are, on other hosts."""

    def uses(self, vni: int, /) -> bool:
        """Tell whether a router here needs the network."""

    def joined(self, vni: int, /) -> frozenset[int]:
        """Give the other networks that routers here join to the network."""

    def ports_changed(self) -> None:
        """Take note that other networks than before have ports here."""

    def network_changed(self, vni: int, /) -> None:
        """Take note that the network's ports, wherever they are, have changed."""


class NoRouters:
    """Routers that ask for nothing."""

    def __init__(self) -> None:
        self.known = asyncio.Event()
        self.known.set()

    def ports(self, _vni: int, /) -> tuple[RouterPort, ...]:
        """Give no links."""
        return ()

    def transits(self, _vni: int, /) -> frozenset[Neighbour]:
        """Give no gateways."""
        return frozenset()

    def taken(self, _vni: int, /) -> frozenset[Neighbour]:
        """Give no gateways."""
        return frozenset()

    def audience(self, _vni: int, /) -> frozenset[int]:
        """Give no networks."""
        return frozenset()

    def centres(self, _vni: int, /) -> frozenset[str]:
        """Give no hosts."""
        return frozenset()

    def uses(self, _vni: int, /) -> bool:
        """Tell that no router needs it."""
        return False

    def joined(self, _vni: int, /) -> frozenset[int]:
        """Give no networks."""
        return frozenset()

    def ports_changed(self) -> None:
        """Do nothing."""

    def network_changed(self, _vni: int, /) -> None:
        """Do nothing."""
