"""Guests whose agent tells who they are: asked apart from everything else, seldom, and by few at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import structlog

from kumulus_agent.compute.errors import HypervisorError
from kumulus_agent.compute.guest_agent import Said, ask_guest
from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.guest.answers import is_whole, read_answer
from kumulus_agent.servers.desired import Key
from kumulus_agent.servers.instance_files import instance_files
from kumulus_agent.servers.outcome import WIRED
from kumulus_agent.servers.terms import ALIVE, Action, Observed, Plan, Power
from kumulus_api import Server
from kumulus_api.server_status import ObservedPowerState
from kumulus_runtime.conditions import timestamp
from kumulus_runtime.store import Store

Object = dict[str, Any]
_PAUSES: Final = (2.0, 3.0, 5.0, 10.0, 15.0, 30.0)
"""Seconds between the questions to a guest that has no address yet: what it says is told once, when it is whole."""
_AT_ONCE: Final = 2
"""Guests that are asked at the same time: a silent one holds one of the threads that everything else needs."""
_SILENT: Final = 2
"""Questions without an answer after which a guest is left alone: each holds its turn until the time limit."""
_OLD: Final = 240.0
"""Seconds after which a look at the guest has it asked again."""
_SELDOM: Final = 60.0
"""Seconds between askings, however often its agent comes and goes."""
_GONE: Final = 30.0
"""Seconds after which an agent that is away counts as gone: a guest that boots anew may have it back by then."""
_ENDS: Final = frozenset({Action.START, Action.SWITCH_OFF, Action.SAVE, Action.REMOVE})

_log = structlog.stdlib.get_logger(__name__)


@dataclass
class _Guest:
    """One guest that runs; times are monotonic.

    Attributes:
        told: what is told of its agent: nothing known (None), no agent (empty), or what it says.
        asked: when it was asked last.
        away: since when its agent is not there.
        anew: its agent was away since it was asked.
        task: the asking that goes on.
        timer: the look at it that is to come.
    """

    told: Object | None = None
    asked: float = float("-inf")
    away: float | None = None
    anew: bool = False
    task: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None


class GuestAgents:
    """What the agents of this host's guests have said.

    Args:
        hypervisor: libvirtd.
        instances: directory of all instances.
        store: what the watch has shown.
        changed: has a Server looked at, because there is something to tell.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        hypervisor: Hypervisor,
        instances: Path,
        store: Store,
        changed: Callable[[Key], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hypervisor = hypervisor
        self._instances = instances
        self._store = store
        self._changed = changed
        self._clock = clock
        self._guests: dict[str, _Guest] = {}
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    def found(self, key: Key | None, instance_id: str, observed: Observed, planned: Plan) -> None:
        """Note how an instance, of that Server or of none, was found before a plan is applied to it."""
        if key is None or observed.power not in ALIVE or _ENDS & planned.actions:
            self._forget(instance_id)
        elif observed.power is Power.RUNNING:
            guest = self._guests.setdefault(instance_id, _Guest())
            if observed.agent:
                self._there(key, instance_id, guest)
            else:
                self._away(key, guest)

    def of(self, instance_id: str, power: ObservedPowerState, planned: Plan) -> Object | None:
        """Give `status.guestAgent` after a plan was applied: empty if there is none; None leaves it as it is."""
        if power not in WIRED or Action.START in planned.actions:
            return {}
        guest = self._guests.get(instance_id)
        return guest.told if guest is not None else None

    async def close(self) -> None:
        """Ask no more."""
        for instance_id in list(self._guests):
            self._forget(instance_id)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _there(self, key: Key, instance_id: str, guest: _Guest) -> None:
        now = self._clock()
        guest.anew |= guest.away is not None
        guest.away = None
        recent = now - guest.asked < _OLD
        if guest.task is not None or (guest.told and recent and not guest.anew):
            return
        wait = guest.asked + _SELDOM - now
        if wait > 0:
            self._look_again(key, guest, wait)
            return
        guest.asked, guest.anew = now, False
        guest.task = asyncio.create_task(self._ask(key, instance_id, guest))
        self._tasks.add(guest.task)
        guest.task.add_done_callback(self._tasks.discard)

    def _away(self, key: Key, guest: _Guest) -> None:
        now = self._clock()
        guest.away = now if guest.away is None else guest.away
        wait = guest.away + _GONE - now
        if wait > 0 and self._is_told(key):
            self._look_again(key, guest, wait)
        else:
            guest.told = {}

    def _is_told(self, key: Key) -> bool:
        status = (self._store.get(Server, key[1], key[0]) or {}).get("status") or {}
        return "guestAgent" in status

    def _look_again(self, key: Key, guest: _Guest, wait: float) -> None:
        if guest.timer is not None:
            guest.timer.cancel()
        guest.timer = asyncio.get_running_loop().call_later(wait, self._changed, key)

    def _forget(self, instance_id: str) -> None:
        guest = self._guests.pop(instance_id, None)
        if guest is not None and guest.timer is not None:
            guest.timer.cancel()

    async def _ask(self, key: Key, instance_id: str, guest: _Guest) -> None:
        """Ask until the answer is whole, or no more is to be expected, and have it told."""
        try:
            told = await self._answer(instance_id, guest)
        finally:
            guest.task = None
        if told is None or self._guests.get(instance_id) is not guest or guest.away is not None:
            return
        # Whether it is known since when an agent is there, the status says.
        told["connectedSince"] = (guest.told or {}).get("connectedSince") or timestamp(datetime.now(UTC))
        if told != guest.told:
            guest.told = told
            _log.info("guest agent", server="/".join(key), instance=instance_id, answers=len(told) > 1)
            self._changed(key)

    async def _answer(self, instance_id: str, guest: _Guest) -> Object | None:
        answer: Object | None = None
        silent = 0
        for pause in (*_PAUSES, None):
            said = await self._said(instance_id)
            if self._guests.get(instance_id) is not guest or guest.away is not None:
                return None
            if said is not None:
                silent += not said.values
                answer = read_answer(said.values, said.macs) or answer or {}
                if is_whole(answer, said.macs) or silent == _SILENT:
                    break
            if pause is not None:
                await asyncio.sleep(pause)
        return answer

    async def _said(self, instance_id: str) -> Said | None:
        owed = instance_files(self._instances, instance_id).thaw_owed
        try:
            async with self._turns:
                said: Said | None = await self._hypervisor.call(
                    f"ask the agent of instance {instance_id}",
                    lambda conn: ask_guest(conn.lookupByUUIDString(instance_id), owed),
                )
        except HypervisorError as error:
            _log.info("guest agent not asked", instance=instance_id, error=str(error))
            return None
        return said
