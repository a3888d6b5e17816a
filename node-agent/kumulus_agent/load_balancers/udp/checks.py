"""How members take datagrams: an empty one is sent, and who has nobody there says so (Octavia's UDP-CONNECT)."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from typing import Final

import structlog

from kumulus_agent.network.namespace import within
from kumulus_api.load_balancer import AssignedListener, HealthCheck, HealthCheckType
from kumulus_api.load_balancer_status import MemberState

_log = structlog.stdlib.get_logger(__name__)
_ERRORS: Final = {socket.AF_INET: (socket.IPPROTO_IP, 11), socket.AF_INET6: (socket.IPPROTO_IPV6, 25)}
"""IP_RECVERR, IPV6_RECVERR: be told also of what may pass, as that a machine is not found."""
_Key = tuple[str, str]
"""A load balancer's id, a listener's name."""


@dataclass(frozen=True)
class Health:
    """Whether a member is well, and how often in a row it was found otherwise."""

    well: bool = True
    against: int = 0


def judged(health: Health, check: HealthCheck, *, well: bool) -> Health:
    """Give what a member is after one more look."""
    if well == health.well:
        return Health(well)
    against = health.against + 1
    return Health(well) if against >= (check.rise if well else check.fall) else Health(health.well, against)


@dataclass(frozen=True)
class Asked:
    """A listener whose members are asked.

    Attributes:
        netns: the name of the namespace to ask from.
        check: how.
        members: addresses and ports by name.
    """

    netns: str
    check: HealthCheck
    members: tuple[tuple[str, tuple[str, int]], ...]


def asked_of(netns: str, listener: AssignedListener) -> Asked | None:
    """Say whom to ask for a listener; None if nobody by datagrams."""
    check = listener.health_check
    if check is None or check.type is not HealthCheckType.UDP_CONNECT:
        return None
    members = ((item.name, (item.address, item.port)) for item in listener.members if item.address is not None)
    return Asked(netns, check, tuple(members))


class Checks:
    """Asks the members of listeners, each in its own pace; belongs to the event loop's thread.

    Args:
        changed: called with a load balancer's id when one of its members is well, or no longer.
    """

    def __init__(self, changed: Callable[[str], None]) -> None:
        self._changed = changed
        self._asked: dict[_Key, Asked] = {}
        self._health: dict[_Key, dict[str, Health]] = {}
        self._tasks: dict[_Key, asyncio.Task[None]] = {}

    def ask(
        self, balancer_id: str, netns: str, listeners: Sequence[AssignedListener], down: frozenset[tuple[str, str]]
    ) -> None:
        """Ask the members of these listeners from now on, and of no others of the load balancer.

        Args:
            balancer_id: which.
            netns: the name of its namespace.
            listeners: those of them that are to be asked by datagrams are.
            down: members, by listener and name, that were told to be down before anything is known here.
        """
        wanted = {(balancer_id, item.name): asked_of(netns, item) for item in listeners}
        for key in [key for key in self._tasks if key[0] == balancer_id and wanted.get(key) is None]:
            self._stop(key)
        for key, asked in wanted.items():
            if asked is None:
                continue
            self._asked[key] = asked
            former = self._health.get(key, {})
            self._health[key] = {
                name: former.get(name, Health((key[1], name) not in down)) for name, _ in asked.members
            }
            if key not in self._tasks:
                self._tasks[key] = asyncio.create_task(self._keep_asking(key))

    def states(self, balancer_id: str) -> dict[tuple[str, str], MemberState]:
        """Give what is known, by the names of listener and member."""
        return {
            (key[1], name): MemberState.UP if health.well else MemberState.DOWN
            for key, found in self._health.items()
            if key[0] == balancer_id
            for name, health in found.items()
        }

    def forget(self, balancer_id: str) -> None:
        """Ask no members of a load balancer any more."""
        for key in [key for key in self._tasks if key[0] == balancer_id]:
            self._stop(key)

    def close(self) -> None:
        """Ask nobody any more."""
        for key in list(self._tasks):
            self._stop(key)

    def _stop(self, key: _Key) -> None:
        self._tasks.pop(key).cancel()
        del self._asked[key], self._health[key]

    async def _keep_asking(self, key: _Key) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            begun, asked = clock(), self._asked[key]
            try:
                found = await answers(asked)
            except OSError as error:
                _log.warning("members could not be asked", balancer=key[0], listener=key[1], error=str(error))
                found = {}
            self._take(key, asked.check, found)
            pace = asked.check.interval_seconds * random.uniform(0.95, 1.05)  # noqa: S311 - spread, no secret
            await asyncio.sleep(max(0.0, begun + pace - clock()))

    def _take(self, key: _Key, check: HealthCheck, found: Mapping[str, bool]) -> None:
        known = self._health[key]
        after = {name: judged(known[name], check, well=well) for name, well in found.items() if name in known}
        news = any(after[name].well != known[name].well for name in after)
        known |= after
        if news:
            self._changed(key[0])


async def answers(asked: Asked) -> dict[str, bool]:
    """Ask all members at once; give by name whether nobody says that there is none: silence is well.

    Raises:
        OSError: the namespace is not there.
    """
    places = [place for _, place in asked.members]
    with ExitStack() as stack:
        # Opened anew each time: where two share the addresses, what this host asks by depends on who has them.
        # Not in a thread that goes on when this is cancelled: what that opened would be nobody's to close.
        opened = within(asked.netns, partial(_open_all, places, stack))
        well = await asyncio.gather(*(_quiet(item, asked.check.timeout_seconds) for item in opened))
    return {name: good for (name, _), good in zip(asked.members, well, strict=True)}


def _open_all(places: Sequence[tuple[str, int]], stack: ExitStack) -> list[socket.socket | None]:
    opened = [_open(address, port) for address, port in places]
    for item in opened:
        if item is not None:
            stack.enter_context(item)
    return opened


def _open(address: str, port: int) -> socket.socket | None:
    """Send an empty datagram; None if there is no way to the member."""
    family = socket.AF_INET if ip_address(address).version == 4 else socket.AF_INET6
    opened = socket.socket(family, socket.SOCK_DGRAM)
    try:
        opened.setblocking(False)
        opened.setsockopt(*_ERRORS[family], 1)
        opened.connect((address, port))
        opened.send(b"")
    except OSError:
        opened.close()
        return None
    return opened


async def _quiet(opened: socket.socket | None, seconds: float) -> bool:
    if opened is None:
        return False
    try:
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().sock_recv(opened, 1)
    except TimeoutError:
        return True
    except OSError:
        return False
    return True
