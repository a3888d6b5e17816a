"""Volumes of other hosts for the guests of this one: each on a socket, behind which a process of this host has it."""

from __future__ import annotations

import asyncio
import json
import os
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import structlog

from kumulus_agent.compute.errors import HypervisorError
from kumulus_agent.compute.volume_disks import VolumeHolder
from kumulus_agent.services.host_service import HostServices, ServiceSpec
from kumulus_agent.storage.atomic import write_file
from kumulus_agent.storage.errors import Retryable, StorageError
from kumulus_agent.volumes.exports.arguments import import_argv, import_unit, volume_of_unit
from kumulus_agent.volumes.exports.coming_up import answers
from kumulus_agent.volumes.exports.serving import TLS, ExportFailed
from kumulus_agent.volumes.guests import VolumeGuests
from kumulus_api import Host, Volume
from kumulus_api.quantities import parse_quantity
from kumulus_api.volume_limits import AssignedLimits
from kumulus_runtime.api_client import ApiError, KubeClient
from kumulus_runtime.workqueue import WorkQueue

Key = tuple[str, str]
_EXPORT_SECONDS: Final = 30.0
"""How long the other host may take until it exports a volume that it was just told to."""
_ASK_SECONDS: Final = 0.5
_TRY_AGAIN: Final = 10.0
_LET_GO_ON: Final = 5.0
"""Seconds at least between two times that a guest is let go on: the disk of the other host may be full still."""
_LOOK_AGAIN: Final = 900.0
"""Seconds between two looks at a volume that is in use: its certificates become old, its host another address."""
_log = structlog.stdlib.get_logger(__name__)


class HostAway(Retryable):
    """The host on which a volume lies does not export it now."""

    reason = "VolumeHostAway"


@dataclass(frozen=True, slots=True)
class Distant:
    """A volume that lies on another host.

    Attributes:
        key: of the Volume.
        volume_id: its identity.
        host: where it lies.
        size: bytes that the guest sees; 0 if it is not known.
        argv: of the process that has it here.
    """

    key: Key
    volume_id: str
    host: str
    size: int = 0
    argv: tuple[str, ...] = ()

    def dump(self) -> bytes:
        """Give it as it stands in its file."""
        return json.dumps({"key": self.key, "host": self.host, "size": self.size, "argv": self.argv}).encode()


@dataclass
class DistantVolumes:
    """The volumes of other hosts that guests here have, or are to have.

    Attributes:
        node: this host.
        client: to reach the API server.
        services: where the processes are started.
        run_dir: of the agent, which a reboot empties.
        tls: the certificates.
        guests: knows which guest has a volume.
        held: gives the exclusion of the starts of guests with volumes.
        qemu_home: a folder that belongs to the user as whom QEMU runs here.
        queue: ids of volumes that are to be looked at.
    """

    node: str
    client: KubeClient
    services: HostServices
    run_dir: Path
    tls: TLS
    guests: VolumeGuests
    held: Callable[[list[str]], AbstractAsyncContextManager[None]]
    qemu_home: Path
    queue: WorkQueue[str] = field(default_factory=lambda: WorkQueue("distant-volumes"))
    _sizes: dict[str, int] = field(default_factory=dict)
    _limits: dict[str, AssignedLimits | None] = field(default_factory=dict)
    _let_go_on: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.services.exits.on_exit = lambda unit, _seconds: self.queue.add(volume_of_unit(unit))

    @property
    def _sockets(self) -> Path:
        # Its name makes the sockets' names those of volumes (see `compute.devices.volume_of`).
        return self.run_dir / "volumes"

    @property
    def _records(self) -> Path:
        return self.run_dir / "distant-volumes"

    def known(self) -> list[str]:
        """Give the ids of those that are here."""
        return sorted(file.stem for file in self._records.glob("*.json"))

    def look_at_all(self) -> None:
        """Have all looked at."""
        for volume_id in self.known():
            self.queue.add(volume_id)

    async def ensure(self, distant: Distant) -> Path:
        """Have a volume of another host; give the socket of it. The volume is held.

        Raises:
            HostAway: its host does not export it to this one.
            ExportFailed: the process does not come up.
            NoCredentials, ApiError: there are no certificates, or nobody says where its host is.
        """
        where, size = await self._exported(distant)
        tls = await self.tls()
        socket = await asyncio.to_thread(self._prepare, distant.volume_id)
        argv = import_argv(distant.volume_id, distant.host, where, tls, socket)
        unit = import_unit(distant.volume_id)
        known = await asyncio.to_thread(self._read, distant.volume_id)
        # What it has told guests of the size it does not take back.
        grown = known is not None and known.size < size
        if grown or not self.services.runs(unit):
            await self.services.absent(unit)
            await asyncio.to_thread(socket.unlink, missing_ok=True)
        self._sizes[distant.volume_id] = size
        fresh = replace(distant, size=size, argv=argv)
        await asyncio.to_thread(write_file, self._records / f"{distant.volume_id}.json", fresh.dump())
        await self.services.ensure(ServiceSpec(unit, argv))
        await self._up(unit, socket)
        self.queue.add_after(distant.volume_id, _LOOK_AGAIN)
        return socket

    async def reconcile(self, volume_id: str) -> float | None:
        """Look after a volume: end what no guest needs, begin anew what has ended, grow what has grown."""
        async with self.held([volume_id]):
            distant = await asyncio.to_thread(self._read, volume_id)
            if distant is None:
                return None
            holder = await self.guests.holder(volume_id)
            if holder is None:
                if await self._expected(distant):
                    return _LOOK_AGAIN
                await self._end(volume_id)
                return None
            try:
                await self._keep(distant)
                if not holder.saved and not await self._carry_on(holder, volume_id):
                    return _LET_GO_ON
            except (StorageError, HypervisorError, ApiError, OSError) as error:
                _log.info("a volume of another host is not as it should be", volume_id=volume_id, error=str(error))
                return _TRY_AGAIN
        return _LOOK_AGAIN

    async def _keep(self, distant: Distant) -> None:
        """Have the process of a volume that a guest has, also while the API server does not answer."""
        try:
            await self.ensure(distant)
        except ApiError:
            unit = import_unit(distant.volume_id)
            if self.services.runs(unit) or not distant.argv:
                raise
            await self.services.ensure(ServiceSpec(unit, distant.argv))
            await self._up(unit, self._sockets / f"{distant.volume_id}.sock")

    async def _carry_on(self, holder: VolumeHolder, volume_id: str) -> bool:
        """Let a guest go on, with its volume's size and limits; give whether nothing of it is left for later."""
        now = asyncio.get_running_loop().time()
        waits = now < self._let_go_on.get(volume_id, 0.0) + _LET_GO_ON
        if not waits and await self.guests.go_on(holder):
            self._let_go_on[volume_id] = now
            _log.info("a guest goes on, whose volume is there again", instance=holder.instance_id)
        size = self._sizes.get(volume_id, 0)
        if size:
            # QEMU learns the size when the guest's next request connects again: until then this fails.
            await self.guests.grow(holder, size)
        if volume_id in self._limits:
            await self.guests.tune(holder.instance_id, volume_id, self._limits[volume_id])
        return not waits

    def server_seen(self, body: Mapping[str, Any]) -> None:
        """Have those looked at that a Server is told to be larger than they are here: their hosts have made them so."""
        given = (body.get("spec") or {}).get("assignment") or {}
        for item in given.get("volumes") or []:
            if item.get("exporter") and 0 < self._sizes.get(item["volumeID"], 0) < parse_quantity(item["size"]):
                self.queue.add(item["volumeID"])

    async def _expected(self, distant: Distant) -> bool:
        """Ask the API whether this host is to have a volume still: a guest may be on its way."""
        told = await self.client.get(Volume, distant.key[1], distant.key[0])
        given = ((told or {}).get("spec") or {}).get("assignment") or {}
        return given.get("volumeID") == distant.volume_id and self.node in (given.get("exportedTo") or [])

    async def _end(self, volume_id: str) -> None:
        await self.services.absent(import_unit(volume_id))
        self._sizes.pop(volume_id, None)
        self._limits.pop(volume_id, None)
        self._let_go_on.pop(volume_id, None)
        for file in (self._sockets / f"{volume_id}.sock", self._records / f"{volume_id}.json"):
            await asyncio.to_thread(file.unlink, missing_ok=True)
        _log.info("a volume of another host is not needed here any more", volume_id=volume_id)

    async def _exported(self, distant: Distant) -> tuple[tuple[str, int], int]:
        """Give address and port of a volume, and its size; waits for a host that is about to export it."""
        name, loop = distant.key[1], asyncio.get_running_loop()
        deadline = loop.time() + _EXPORT_SECONDS
        while True:
            body = await self.client.get(Volume, name, distant.key[0]) or {}
            given, status = (body.get("spec") or {}).get("assignment") or {}, body.get("status") or {}
            if given.get("volumeID") != distant.volume_id or self.node not in (given.get("exportedTo") or []):
                raise HostAway(f"volume {name} is not given to host {self.node} now")
            told = status.get("export") or {}
            # All hosts: as long as a former one is let in it may write.
            if told and sorted(told["hosts"]) == sorted(given["exportedTo"]):
                break
            if loop.time() > deadline:
                why = (status.get("fault") or {}).get("message") or "it has not said that it does"
                raise HostAway(
                    f"host {distant.host} does not export volume {name}: {why}; transient: goes on when it does"
                )
            await asyncio.sleep(_ASK_SECONDS)
        limits = given.get("limits")
        self._limits[distant.volume_id] = AssignedLimits.model_validate(limits) if limits else None
        found = (await self.client.get(Host, distant.host) or {}).get("status") or {}
        return (found.get("tunnelAddress", ""), int(told["port"])), int(status.get("sizeBytes") or 0)

    def _prepare(self, volume_id: str) -> Path:
        for directory, mode in ((self._sockets, 0o711), (self._records, 0o700)):
            directory.mkdir(mode=mode, parents=True, exist_ok=True)
        return self._sockets / f"{volume_id}.sock"

    def _give(self, socket: Path) -> None:
        """Let QEMU, which runs as a user of its own, use a socket; it cannot put another thing in its place."""
        owner = self.qemu_home.stat() if self.qemu_home.exists() else None
        if owner is not None:
            os.chown(socket, owner.st_uid, owner.st_gid, follow_symlinks=False)
        socket.chmod(0o600)

    def _read(self, volume_id: str) -> Distant | None:
        try:
            said: dict[str, Any] = json.loads((self._records / f"{volume_id}.json").read_bytes())
            return Distant(
                (said["key"][0], said["key"][1]), volume_id, said["host"], int(said["size"]), tuple(said["argv"])
            )
        except (FileNotFoundError, ValueError, KeyError, IndexError, TypeError):
            return None

    async def _up(self, unit: str, socket: Path) -> None:
        async def dial() -> tuple[StreamReader, StreamWriter]:
            await asyncio.to_thread(self._give, socket)
            return await asyncio.open_unix_connection(str(socket))

        if await answers(dial, lambda: self.services.runs(unit)):
            return
        said = await asyncio.to_thread(self.services.said, unit)
        raise ExportFailed(f"the volume of another host cannot be had: {said or 'its process does not answer'}")
