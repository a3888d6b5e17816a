"""One HAProxy for each load balancer of this host, as a host service.

A changed configuration is checked first, and then served by a new worker while the former one's connections last: the
sockets are handed on, so that no connection is refused in between.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Collection
from hashlib import blake2s
from pathlib import Path

from kumulus_agent.failover.config import Tracked
from kumulus_agent.load_balancers import stats
from kumulus_agent.load_balancers.haproxy_config import Files, argv, check_argv, description_of
from kumulus_agent.load_balancers.stats import Unanswered
from kumulus_agent.network.errors import CommandFailed, NetworkError
from kumulus_agent.network.names import TAP_DIGITS
from kumulus_agent.services.host_service import HostServices, ServiceSpec
from kumulus_api.load_balancer_status import MemberState

_UNIT = "kumulus-lb-"
_STARTING = 10.0
"""Seconds that HAProxy may take until it answers."""
_PAUSE = 0.02


class ConfigRefused(NetworkError):
    """HAProxy refuses the configuration; what ran before runs on."""


def digits(balancer_id: str) -> str:
    """Give what names of a load balancer's things end with."""
    return blake2s(balancer_id.encode()).hexdigest()[:TAP_DIGITS]


class HAProxies:
    """The HAProxy processes of this host.

    Args:
        services: where they are started; it calls nobody else back.
        directory: their files are in a folder per load balancer below it.
    """

    def __init__(self, services: HostServices, directory: Path) -> None:
        self._services = services
        self._directory = directory

    def files(self, balancer_id: str) -> Files:
        """Give where the files of a load balancer are."""
        return Files(self._directory / digits(balancer_id))

    def on_exit(self, lost: Callable[[str, float], None]) -> None:
        """Have `lost` called with the digits of a load balancer whose HAProxy has ended, and its seconds."""

        def ended(unit: str, seconds: float) -> None:
            if unit.startswith(_UNIT):
                lost(unit.removeprefix(_UNIT), seconds)

        self._services.exits.on_exit = ended

    async def ensure(self, balancer_id: str, config: str, netns: Path) -> tuple[str, ...]:
        """Have a load balancer's HAProxy serve a configuration.

        Args:
            balancer_id: which.
            config: as `haproxy_config.render` gives it.
            netns: the file of the namespace to run in.

        Returns:
            What was done; empty if all was so already.

        Raises:
            ConfigRefused: HAProxy does not take it.
            Unanswered: it was started or told, and does not answer in time.
        """
        files = self.files(balancer_id)
        await self._write(files, config)
        unit = f"{_UNIT}{digits(balancer_id)}"
        if await self._services.ensure(ServiceSpec(unit, argv(files), str(netns))):
            await self._serving(unit, files, config)
            return (f"started {unit}",)
        # What it serves is asked, and not inferred from files: the last agent may have ended in between.
        if await stats.loaded(files.socket) == description_of(config):
            return ()
        if not self._services.send(unit, signal.SIGUSR2):
            raise Unanswered(f"{unit} has just ended; it is started again")
        await self._serving(unit, files, config)
        return (f"reloaded {unit}",)

    async def _write(self, files: Files, config: str) -> None:
        files.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        files.root.mkdir(mode=0o711, exist_ok=True)
        if files.config.exists() and files.config.read_text() == config:
            return
        files.draft.write_text(config)
        files.draft.chmod(0o600)
        try:
            await self._services.run(check_argv(files))
        except CommandFailed as error:
            raise ConfigRefused(f"HAProxy refuses the configuration: {error}") from error
        files.draft.rename(files.config)

    async def _serving(self, unit: str, files: Files, config: str) -> None:
        """Wait until it says that it serves a configuration: before that it takes no signal."""
        wanted = description_of(config)
        try:
            async with asyncio.timeout(_STARTING):
                while await self._loaded(files) != wanted:
                    if not self._services.runs(unit):
                        raise Unanswered(f"{unit} ended as soon as it was started: see its log")
                    await asyncio.sleep(_PAUSE)
        except TimeoutError as error:
            raise Unanswered(f"HAProxy does not serve {files.config} after {_STARTING:.0f} s") from error

    async def _loaded(self, files: Files) -> str | None:
        try:
            return await stats.loaded(files.socket)
        except Unanswered:
            return None

    async def members(self, balancer_id: str) -> dict[tuple[str, str], MemberState]:
        """Give the state of each member, by the names of listener and member.

        Raises:
            Unanswered: it does not answer.
        """
        return await stats.members(self.files(balancer_id).socket)

    def tracked(self, balancer_id: str) -> Tracked:
        """Say by what a load balancer's HAProxy is known to run.

        Raises:
            Unanswered: it does not run.
        """
        unit = f"{_UNIT}{digits(balancer_id)}"
        program = self._services.program(unit)
        if program is None:
            raise Unanswered(f"{unit} has just ended; it is started again")
        return Tracked(self.files(balancer_id).pid, program)

    async def absent(self, balancer_id: str) -> bool:
        """End a load balancer's HAProxy with all its connections, and remove its files; False if there was none."""
        return await self._absent(digits(balancer_id))

    async def sweep(self, kept: Collection[str]) -> None:
        """End all but those of these load balancers."""
        names = {digits(balancer_id) for balancer_id in kept}
        units = {unit.removeprefix(_UNIT) for unit in self._services.observe() if unit.startswith(_UNIT)}
        folders = {folder.name for folder in self._directory.iterdir()} if self._directory.exists() else set()
        for name in sorted((units | folders) - names):
            await self._absent(name)

    async def _absent(self, name: str) -> bool:
        gone = await self._services.absent(f"{_UNIT}{name}")
        files = Files(self._directory / name)
        for file in (files.config, files.draft, files.socket, files.pid, *files.directory.glob("tls.*")):
            file.unlink(missing_ok=True)
        for folder in (files.root, files.directory):
            if folder.exists():
                folder.rmdir()
        return gone

    def close(self) -> None:
        """Watch nothing any more; they go on."""
        self._services.exits.close()
