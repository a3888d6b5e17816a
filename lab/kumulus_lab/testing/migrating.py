"""Moving servers between hosts, and somebody who looks on all hosts the whole time that a guest never runs twice."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from types import TracebackType
from typing import Any, Self

from kumulus_api import ServerAction
from kumulus_lab.hosts import Hosts
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing import processes
from kumulus_lab.testing.cloud import Breach, Cloud, Object
from kumulus_lab.testing.sightings import VIRSH


async def ask(cloud: Cloud, project: str, server: str, kind: str = "LiveMigrate", **parameters: Any) -> str:
    """Make a ServerAction; give its name. `parameters` are those of its type."""
    own = {kind[0].lower() + kind[1:]: parameters} if parameters else {}
    return await cloud.ask(project, server, kind, **own)


async def ended(cloud: Cloud, project: str, action: str, seconds: float = 120) -> Object:
    """Wait until an action has ended, and give it."""
    return await cloud.act_ended(project, action, seconds)


async def succeeded(cloud: Cloud, project: str, action: str, seconds: float = 120) -> Object:
    """Wait until an action has ended, and give it.

    Raises:
        Breach: it did not end well.
    """
    found = await ended(cloud, project, action, seconds)
    if found["status"]["phase"] != "Succeeded":
        raise Breach(f"action {action}: {found['status']}")
    return found


async def copying(cloud: Cloud, project: str, action: str) -> Object:
    """Wait until the source has begun to carry the guest over."""
    return await cloud.until(
        ServerAction, action, lambda a: "report" in (a.get("status") or {}), namespace=project, seconds=60
    )


def kill_on(lab: LabSettings, host: str, program: str) -> None:
    """End a program on one host without warning.

    Raises:
        Breach: it does not run there.
    """
    _kill(_victims(lab, host, program))


def kill_when_still(lab: LabSettings, instance_id: str, source: str, host: str, program: str) -> None:
    """Wait until a guest stands still at its source, for a minute at most, and end a program on a host at once.

    Raises:
        Breach: it has not stood still, or the program does not run there.
    """
    victims = _victims(lab, host, program)
    event = ("event", f"k-{instance_id}", "--event", "lifecycle", "--timeout", "60")
    told = Hosts(lab).run(source, [*VIRSH, *event], timeout=70).stdout
    if "Suspended" not in told:
        raise Breach(f"instance {instance_id} has not stood still on {source}; libvirt said: {told or 'nothing'}")
    _kill(victims)


def _victims(lab: LabSettings, host: str, program: str) -> list[int]:
    pids = list(processes.pids(program, lab, host))
    if not pids:
        raise Breach(f"there is no {program} to kill on {host}")
    return pids


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class Lookout:
    """Looks from host to host, without pause, whether a guest runs on two of them.

    A host on which it ran before and after it was seen running on another is proof; mere succession is a migration.

    Args:
        lab: whose hosts.
        instance_id: of the guest.
    """

    def __init__(self, lab: LabSettings, instance_id: str) -> None:
        self._hosts = Hosts(lab)
        self._names = [host.name for host in lab.host_specs]
        self._instance_id = instance_id
        self.rounds = 0

    async def __aenter__(self) -> Self:
        """Begin."""
        self._going = True
        self._task = asyncio.create_task(asyncio.to_thread(self._look))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End.

        Raises:
            Breach: it was seen twice.
        """
        self._going = False
        seen = await self._task
        if error is None and seen:
            raise Breach(seen)

    def _look(self) -> str:
        where: list[str] = []
        while self._going:
            for name in self._names:
                if self._runs(name):
                    where.append(name)
                    # h1, h2, h1: it ran on h1 the whole time, and on h2 meanwhile.
                    if len(where) >= 3 and where[-1] == where[-3] != where[-2]:
                        return f"instance {self._instance_id} ran on {where[-1]} and on {where[-2]}: {where[-6:]}"
                    where = where[-6:]
            self.rounds += 1
            time.sleep(0.05)  # the machine is the guests' too
        return ""

    def _runs(self, name: str) -> bool:
        done = self._hosts.run(name, [*VIRSH, "list", "--state-running", "--uuid"], timeout=30)
        return self._instance_id in done.stdout.split()
