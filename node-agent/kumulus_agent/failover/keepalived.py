"""The host services by which this host is a member of VRRP instances: one keepalived for each, in a namespace."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import structlog

from kumulus_agent import metrics
from kumulus_agent.failover.config import Files, Instance, render
from kumulus_agent.failover.notices import Notices, Role
from kumulus_agent.services.host_service import HostServices, ServiceSpec

_log = structlog.stdlib.get_logger(__name__)
_PREFIX = "kumulus-vrrp-"
_PAUSE = 1.0
"""Seconds before one that has ended by itself is started again; one that ends at once again waits longer."""
_LONGEST_PAUSE = 60.0
_STEADY_SECONDS = 60.0


class Keepalived:
    """The VRRP instances of this host. They go on while no agent runs, and are found again by the next one.

    Args:
        services: where they are started; of nobody else, as it is listened to for their ends.
        directory: their files are in a folder for each below it.
    """

    def __init__(self, services: HostServices, directory: Path) -> None:
        self._services = services
        self._directory = directory
        self._listening: dict[str, Notices] = {}
        self._wanted: dict[str, ServiceSpec] = {}
        self._deaths: dict[str, int] = {}
        self._again: set[asyncio.Task[None]] = set()
        self._starting: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.changed: Callable[[str], None] = lambda _name: None
        """Called with an instance's name when its state is another."""
        services.exits.on_exit = self._ended

    async def ensure(self, name: str, instance: Instance, netns: Path, *, restart: bool = False) -> tuple[str, ...]:
        """Have this host be a member as `instance` says; a change does not change who leads.

        Args:
            name: of the instance on this host: lower-case letters, digits and hyphens, at most 30.
            instance: this member's part.
            netns: the file of the namespace that has the links.
            restart: links that it had are gone and made anew.

        Returns:
            What was done; empty if all was so already.
        """
        files = self._files(name)
        files.directory.mkdir(parents=True, exist_ok=True)
        text = render(name, instance, files)
        changed = not files.config.exists() or files.config.read_text() != text
        if changed:
            draft = files.config.with_suffix(".draft")
            draft.write_text(text)
            draft.rename(files.config)
        spec = self._wanted[name] = ServiceSpec(_PREFIX + name, files.argv(), str(netns))
        if name not in self._listening:
            self._listening[name] = Notices(files, lambda: self.changed(name))
        if not self._services.runs(spec.unit):
            self._listening[name].ended()
        async with self._starting[name]:
            started = await self._services.ensure(spec, restart=restart)
        if started:
            return (f"started {spec.unit}",)
        if changed:
            self._services.reload(spec.unit)
            return (f"told {spec.unit}",)
        return ()

    def role(self, name: str) -> Role | None:
        """Give this host's state in an instance; None while that is not known."""
        heard = self._listening.get(name)
        return heard.role if heard is not None else None

    def names(self) -> frozenset[str]:
        """Give the instances that this host is a member of, those of a former agent included."""
        return frozenset(unit.removeprefix(_PREFIX) for unit in self._services.observe() if unit.startswith(_PREFIX))

    async def absent(self, name: str) -> bool:
        """Be a member no longer: what this host had as leader it gives up, and says so. False if it was none."""
        self._wanted.pop(name, None)
        self._deaths.pop(name, None)
        async with self._starting[name]:
            gone = await self._services.absent(_PREFIX + name)
        heard = self._listening.pop(name, None)
        if heard is not None:
            heard.close()
        directory = self._files(name).directory
        if directory.exists():
            for file in directory.iterdir():
                file.unlink()
            directory.rmdir()
        return gone

    def close(self) -> None:
        """Listen no more; this host stays a member."""
        self._services.exits.close()
        for task in self._again:
            task.cancel()
        for heard in self._listening.values():
            heard.close()
        self._listening.clear()

    def _files(self, name: str) -> Files:
        return Files(self._directory / name)

    def _ended(self, unit: str, seconds: float) -> None:
        name = unit.removeprefix(_PREFIX)
        if name not in self._wanted:
            return
        deaths = self._deaths[name] = 1 if seconds >= _STEADY_SECONDS else self._deaths.get(name, 0) + 1
        pause = min(_PAUSE * 2 ** (deaths - 1), _LONGEST_PAUSE)
        _log.warning("keepalived has ended", instance=name, after=round(seconds, 1), restart_in=pause)
        metrics.SERVICE_EXITS.labels(service="vrrp").inc()
        self._listening[name].ended()
        self.changed(name)
        task = asyncio.create_task(self._start_again(name, pause))
        self._again.add(task)
        task.add_done_callback(self._again.discard)

    async def _start_again(self, name: str, pause: float) -> None:
        await asyncio.sleep(pause)
        async with self._starting[name]:
            spec = self._wanted.get(name)
            if spec is not None:
                await self._services.ensure(spec)
