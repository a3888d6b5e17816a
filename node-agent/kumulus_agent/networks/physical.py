"""The physical networks that are mapped on this host: looked at now, and again when the kernel tells of a change."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping

import structlog

from kumulus_agent.network import names
from kumulus_agent.network.datapath import Datapath
from kumulus_agent.network.errors import NetworkError
from kumulus_agent.network.listing import messages, name_of_link
from kumulus_agent.networks.reach import reached
from kumulus_api.provider import PhysicalNetwork

_log = structlog.stdlib.get_logger(__name__)
_GROUPS = 0x1 | 0x10 | 0x100
"""Of rtnetlink: links, IPv4 and IPv6 addresses."""
_GATHER_SECONDS = 0.2
_MESSAGES = 1 << 16
_LINK_EVENTS = {16, 17}


class PhysicalNetworks:
    """What of the physical networks this host reaches.

    Args:
        datapath: reads interfaces.
        mappings: gives the interface of each physical network, as it shall be now; None while that is not known.
        changed: called when something else is reached than before.
    """

    def __init__(
        self, datapath: Datapath, mappings: Callable[[], Mapping[str, str] | None], changed: Callable[[], None]
    ) -> None:
        self._datapath = datapath
        self._mappings = mappings
        self._changed = changed
        self._vlans = False
        self._known: tuple[PhysicalNetwork, ...] | None = None

    async def look(self) -> tuple[PhysicalNetwork, ...] | None:
        """Say what is reached now; None before the datapath is there, or before it is known what is mapped.

        Raises:
            NetworkError: the kernel does not tell.
        """
        mappings = self._mappings()
        if mappings is None or not self._datapath.started:
            return None
        if mappings and not self._vlans:
            self._vlans = await self._datapath.supports_vlans()
        found = await self._datapath.interfaces(set(mappings.values()))
        known, self._known = self._known, reached(mappings, found, vlans=self._vlans)
        if known is not None and known != self._known:
            for network in self._known:
                reasons = {item.type.value: item.reason.value for item in network.obstacles}
                _log.info("physical network", name=network.name, interface=network.interface, obstacles=reasons)
            self._changed()
        return self._known

    async def follow(self) -> None:
        """Look whenever interfaces or their addresses change, if any is mapped; never returns."""
        loop = asyncio.get_running_loop()
        told = asyncio.Event()
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE) as events:
            events.bind((0, _GROUPS))
            loop.add_reader(events, _drain, events, told)
            try:
                while True:
                    await told.wait()
                    await asyncio.sleep(_GATHER_SECONDS)
                    told.clear()
                    if self._mappings() or self._known:
                        await self._try_look()
            finally:
                loop.remove_reader(events)

    async def _try_look(self) -> None:
        try:
            await self.look()
        except NetworkError as error:
            _log.warning("the host's interfaces could not be read", error=str(error))


def _drain(events: socket.socket, told: asyncio.Event) -> None:
    """Take all that waits: what was lost for want of room is a change, too."""
    while True:
        try:
            if matters(events.recv(_MESSAGES)):
                told.set()
        except BlockingIOError:
            return
        except OSError:
            told.set()


def matters(events: bytes) -> bool:
    """Whether messages of rtnetlink(7) tell of more than of interfaces that only pass through the host's namespace.

    Each server that starts makes some of those, and a look at all interfaces is dear.
    """
    return any(
        kind not in _LINK_EVENTS or not names.is_on_the_way(name_of_link(body)) for kind, _, body in messages(events)
    )
