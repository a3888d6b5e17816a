"""The host services that hold routers' tunnels: one charon for each router that this host leads out and that has some.

Keys are given by vici, and so are in charon's memory and the agent's, in no file and no command line.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Collection
from pathlib import Path

from kumulus_agent.services.host_service import HostServices, ServiceSpec
from kumulus_agent.vpn.config import Files, Tunnel, least_mtu, settings
from kumulus_agent.vpn.sessions import Session
from kumulus_agent.vpn.vici import DaemonUnanswered

_PREFIX = "kumulus-vpn-"
_STARTING = 10.0
"""Seconds that a charon may take until it listens."""
_PAUSE = 0.05
_SURVIVED = 1.0
"""Seconds after which one that still runs has not ended together with its session."""


class Charons:
    """The charons of this host. They go on while no agent runs, and are found again by the next one.

    Args:
        services: where they are started; of nobody else, as it is listened to for their ends.
        directory: their files are in a folder for each below it.
    """

    def __init__(self, services: HostServices, directory: Path) -> None:
        self._services = services
        self._directory = directory
        self._sessions: dict[str, Session] = {}
        self._changing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.changed: Callable[[str], None] = lambda _name: None
        """Called with a charon's name when something of it may be otherwise than before."""
        self.ended: Callable[[str, float], None] = lambda _name, _seconds: None
        """Called with the name of one that has ended by itself, and how long it ran."""
        services.exits.on_exit = lambda unit, seconds: self.ended(unit.removeprefix(_PREFIX), seconds)

    async def ensure(self, name: str, netns: Path, tunnels: Collection[Tunnel]) -> tuple[Session, bool]:
        """Have a charon run, and speak with it.

        Args:
            name: of it on this host: lower-case letters, digits and hyphens, at most 30.
            netns: the file of the namespace that it is in.
            tunnels: what it is for; at least one.

        Returns:
            The session, and whether it was started just now.

        Raises:
            DaemonUnanswered: it does not listen in time.
        """
        async with self._changing[name]:
            files = self._files(name)
            anew = self._write(files, settings(files, least_mtu(tunnels))) or not self._within(name, netns)
            spec = ServiceSpec(_PREFIX + name, files.argv(), str(netns))
            started = await self._services.ensure(spec, restart=anew)
            if started:
                await self._hang_up(name)
            session = self._sessions.get(name)
            if session is None or session.closed:
                await self._hang_up(name)
                session = self._sessions[name] = await self._call(name, files)
            return session, started

    def names(self) -> frozenset[str]:
        """Give the charons of this host, those of a former agent included."""
        return frozenset(unit.removeprefix(_PREFIX) for unit in self._services.observe() if unit.startswith(_PREFIX))

    async def absent(self, name: str) -> bool:
        """End a charon, which tells its peers, and remove its files. False if there was none."""
        async with self._changing[name]:
            await self._hang_up(name)
            gone = await self._services.absent(_PREFIX + name)
            directory = self._files(name).directory
            if directory.exists():
                for file in directory.iterdir():
                    file.unlink()
                directory.rmdir()
            return gone

    async def sweep(self, kept: Collection[str]) -> None:
        """End all but these."""
        folders = {folder.name for folder in self._directory.iterdir()} if self._directory.exists() else set()
        for name in sorted((self.names() | folders) - set(kept)):
            await self.absent(name)

    async def close(self) -> None:
        """Speak with none any more; they go on."""
        self._services.exits.close()
        for name in tuple(self._sessions):
            await self._hang_up(name)

    def _files(self, name: str) -> Files:
        return Files(self._directory / name)

    def _write(self, files: Files, text: str) -> bool:
        """Write what it reads at its start; give whether that is news."""
        files.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if files.config.exists() and files.config.read_text() == text:
            return False
        draft = files.config.with_suffix(".draft")
        draft.write_text(text)
        draft.rename(files.config)
        return True

    def _within(self, name: str, netns: Path) -> bool:
        """Give whether it is in the namespace that the file names now: one that was made anew is another."""
        record = self._services.observe().get(_PREFIX + name)
        if record is None:
            return True
        try:
            own, wanted = Path(f"/proc/{record.process.pid}/ns/net").stat(), netns.stat()
        except FileNotFoundError:
            return False
        return (own.st_dev, own.st_ino) == (wanted.st_dev, wanted.st_ino)

    async def _call(self, name: str, files: Files) -> Session:
        until = time.monotonic() + _STARTING
        while True:
            try:
                return await Session.open(files, lambda: self.changed(name), lambda: self._closed(name))
            except DaemonUnanswered as error:
                if not self._services.runs(_PREFIX + name) or time.monotonic() > until:
                    raise DaemonUnanswered(f"charon of {name} does not listen: {error}") from error
            await asyncio.sleep(_PAUSE)

    def _closed(self, name: str) -> None:
        """Have a charon called again that has ended its session, but not itself: else it is started after a pause."""
        asyncio.get_running_loop().call_later(_SURVIVED, self._call_again, name)

    def _call_again(self, name: str) -> None:
        session = self._sessions.get(name)
        if session is not None and session.closed and self._services.runs(_PREFIX + name):
            self.changed(name)

    async def _hang_up(self, name: str) -> None:
        session = self._sessions.pop(name, None)
        if session is not None:
            await session.close()
