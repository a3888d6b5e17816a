"""Exports the volumes of this host for the hosts that the operator names."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from kumulus_agent.services.host_service import HostServices, ServiceSpec
from kumulus_agent.storage.atomic import write_file
from kumulus_agent.storage.direct_io import cache_mode
from kumulus_agent.storage.errors import Retryable
from kumulus_agent.volumes.drivers.protocol import Found
from kumulus_agent.volumes.exports.arguments import Exported, export_argv, export_unit, volume_of_unit
from kumulus_agent.volumes.exports.coming_up import answers

TLS = Callable[[], Awaitable[Path]]
"""Gives the folder of this host's certificates as QEMU wants them; see `tls_folder`."""


class ExportFailed(Retryable):
    """The process that exports a volume, or has one of another host, does not come up."""

    reason = "VolumeExportFailed"


class Exports:
    """One process of the host per exported volume, which outlives the agent and holds QEMU's lock on the file.

    Args:
        services: where they are started.
        directory: what an export needs is kept there, also through a reboot: the same port is taken again.
        address: where they listen.
        ports: of TCP, of which each takes one.
        tls: the certificates.
    """

    def __init__(self, services: HostServices, directory: Path, address: str, ports: range, tls: TLS) -> None:
        self._services = services
        self._directory = directory
        self._address = address
        self._ports = ports
        self._tls = tls
        self._choosing = asyncio.Lock()
        self.ended: Callable[[str], None] = lambda _volume_id: None
        """Told of the volume whose process has ended by itself."""
        services.exits.on_exit = lambda unit, _seconds: self.ended(volume_of_unit(unit))

    def runs(self, volume_id: str) -> bool:
        """Give whether a volume is exported now."""
        return self._services.runs(export_unit(volume_id))

    async def ensure(self, volume_id: str, found: Found, hosts: frozenset[str]) -> int:
        """Export a volume to exactly these hosts; give the port.

        A change of hosts ends all connections, and with them what a former host has sent and nobody has read.

        Raises:
            NoCredentials, ApiError: there are no certificates.
            ExportFailed: the server does not come up.
        """
        tls = await self._tls()
        async with self._choosing:
            port = await asyncio.to_thread(self._port, volume_id)
        through = await asyncio.to_thread(cache_mode, found.path.parent) == "none"
        exported = Exported(volume_id, found.path, found.format, self._address, port, through)
        spec = ServiceSpec(export_unit(volume_id), export_argv(exported, tls, hosts))
        if await self._services.ensure(spec):
            try:
                await self._up(volume_id, port)
            except ExportFailed:
                # Another program may have the port: it is not insisted on.
                await self._services.absent(spec.unit)
                await asyncio.to_thread(self._forget, volume_id)
                raise
        return port

    async def pause(self, volume_id: str) -> None:
        """End the server for a moment, in which the volume's file can be changed: clients wait, and come again."""
        await self._services.absent(export_unit(volume_id))

    async def absent(self, volume_id: str) -> None:
        """Export a volume no more; absent is success."""
        record = self._directory / f"{volume_id}.json"
        if not self.runs(volume_id) and not await asyncio.to_thread(record.exists):
            return
        await self._services.absent(export_unit(volume_id))
        await asyncio.to_thread(self._forget, volume_id)

    def _port(self, volume_id: str) -> int:
        """Give the port of an export: the one that it had, or one that no other has."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        known: dict[str, int] = {}
        for record in self._directory.glob("*.json"):
            with suppress(ValueError, KeyError, TypeError):
                known[record.stem] = int(json.loads(record.read_bytes())["port"])
        if known.get(volume_id, -1) in self._ports:
            return known[volume_id]
        free = [port for port in self._ports if port not in known.values()]
        if not free:
            raise ExportFailed(f"all {len(self._ports)} ports for exported volumes are taken on this host", delay=30.0)
        # Not always the first: one that another program has would be tried for ever.
        port = free[int.from_bytes(hashlib.sha256(volume_id.encode()).digest()[:4]) % len(free)]
        write_file(self._directory / f"{volume_id}.json", json.dumps({"port": port}).encode())
        return port

    async def _up(self, volume_id: str, port: int) -> None:
        if await answers(lambda: asyncio.open_connection(self._address, port), lambda: self.runs(volume_id)):
            return
        said = await asyncio.to_thread(self._services.said, export_unit(volume_id))
        raise ExportFailed(f"volume {volume_id} cannot be exported: {said or 'its server does not answer'}")

    def _forget(self, volume_id: str) -> None:
        (self._directory / f"{volume_id}.json").unlink(missing_ok=True)
