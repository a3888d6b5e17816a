"""The target's part: make room for a guest that comes, take what is sent, clear away what did not come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from kumulus_agent.compute.errors import HypervisorError
from kumulus_agent.consoles.log import earlier
from kumulus_agent.host.tpm_state import tpm_state
from kumulus_agent.migration.channels import (
    PIECE_BYTES,
    Channel,
    Denied,
    Hello,
    Sockets,
    libvirt_socket,
    parse_piece,
)
from kumulus_agent.migration.domains import view_of
from kumulus_agent.migration.plan import State, View
from kumulus_agent.migration.relay import LIMIT, Connection, close, relay
from kumulus_agent.network.errors import NetworkError
from kumulus_agent.networks.carried import NetworkUnknown
from kumulus_agent.servers.desired import Desired, DesiredVolume
from kumulus_agent.servers.errors import StepFailed, first_failure
from kumulus_agent.servers.remove import remove_instance
from kumulus_agent.servers.start import Actuators
from kumulus_agent.servers.volume_disks import hide_keys, place_of, show_keys, volume_disk
from kumulus_agent.storage.atomic import publish
from kumulus_agent.storage.errors import StorageError
from kumulus_agent.storage.held_address import also_on, is_held
from kumulus_agent.storage.inspection import source_format
from kumulus_agent.storage.root_disk import ensure_root_disk
from kumulus_agent.volumes.drivers.protocol import VolumeDriver
from kumulus_agent.volumes.place import VOLUMES
from kumulus_api import Volume
from kumulus_runtime.api_client import ApiError

_SMALL: Final = 64 << 20
DOMAIN_FILE: Final = "domain.xml"
_CONNECT_SECONDS: Final = 10.0
_log = structlog.stdlib.get_logger(__name__)


class NotPrepared(Exception):
    """The guest cannot come here now."""


@dataclass(frozen=True)
class Target:
    """What prepares this host for guests of others.

    Attributes:
        actuators: as for starting servers.
        check_capacity: raises StepFailed if an instance does not fit.
    """

    actuators: Actuators
    check_capacity: Callable[[Desired], None]

    async def look(self, instance_id: str) -> View:
        """Look at the instance here.

        Raises:
            HypervisorError: libvirtd does not answer.
        """
        asked = f"look at instance {instance_id}"
        found: View = await self.actuators.hypervisor.call(asked, lambda conn: view_of(conn, instance_id))
        return found

    async def prepare(self, desired: Desired, *, live: bool) -> None:
        """Have all that the guest needs here, and nothing of an earlier one.

        Args:
            desired: the instance.
            live: it comes running; else its disk comes as it is.

        Raises:
            NotPrepared: something is missing; what was made is gone again.
        """
        found = await self.look(desired.instance_id)
        if found.runs or (found.persistent and found.state is not State.OFF):
            raise NotPrepared(f"instance {desired.instance_id} is on this host already: nothing was touched")
        try:
            self.check_capacity(desired)
            # What is here of it is older: its host, which is another, has the guest.
            await self._remove(desired)
            await self._make(desired, live=live)
        except BaseException as error:
            await self.clear(desired)
            failure = first_failure(error) if isinstance(error, BaseExceptionGroup) else error
            known = (StepFailed, StorageError, HypervisorError, NetworkError, NetworkUnknown, ApiError, OSError)
            if isinstance(failure, known):
                raise NotPrepared(str(failure)) from error
            raise

    async def _make(self, desired: Desired, *, live: bool) -> None:
        actuators, files = self.actuators, self.actuators.files(desired.instance_id)
        files.directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._disk(desired, live=live))
            group.create_task(files.write_record(desired.key, desired.ports))
            for volume in desired.volumes if live else ():
                if volume.exporter:
                    group.create_task(self._distant(desired, volume))
                elif not volume.shared:
                    group.create_task(self._volume(desired, volume))
            if live:
                group.create_task(show_keys(actuators, desired))
                group.create_task(self.carry(desired))
                for port in desired.ports:
                    group.create_task(actuators.datapath.prepare_tap(port.tap, actuators.mtu(port)))

    async def _volume(self, desired: Desired, volume: DesiredVolume) -> None:
        """Have the file into which a volume is copied, as large as the volume is now."""
        place = await place_of(self.actuators, desired, volume)
        driver = await self.actuators.shelves.opened(self.actuators.settings.state_dir, place)
        await driver.make(volume.volume_id, place.told_size or volume.size)

    async def _distant(self, desired: Desired, volume: DesiredVolume) -> None:
        """Have the socket of a volume that stays where it is."""
        async with self.actuators.shelves.held([volume.volume_id]):
            await volume_disk(self.actuators, desired, volume)

    async def _disk(self, desired: Desired, *, live: bool) -> None:
        image = desired.image
        if image is None or (desired.boot_volume is not None and not image.is_cd):
            return
        image_format, limit = source_format(image.format), max(image.virtual_size, 1)
        # Its image may be deleted: the host that it comes from has it in any case.
        url = also_on(image.url, desired.host) if is_held(image.url) else image.url
        base = await self.actuators.images.ensure(url, image.digest, image_format, limit, image.mirrors)
        if live and desired.boot_volume is None:
            below = None if image.is_cd else base
            await ensure_root_disk(self.actuators.files(desired.instance_id).root_disk, below, desired.root_disk)

    async def carry(self, desired: Desired) -> None:
        """Have the instance's networks here, with its ports.

        Raises:
            NetworkError, NetworkUnknown: not possible.
        """
        networks = self.actuators.networks
        networks.hold(desired.instance_id, desired.key[1], desired.ports)
        await networks.ensure(desired.networks)

    async def plug(self, desired: Desired) -> None:
        """Join the taps to their networks; QEMU holds them by then."""
        for port in desired.ports:
            await self.actuators.datapath.plug(port.tap, port.network.vni)

    async def clear(self, desired: Desired) -> None:
        """Remove what was made here for a guest that has not come; one that runs is left alone."""
        if (await self.look(desired.instance_id)).runs:
            _log.error("an instance runs here whose migration has failed", instance=desired.instance_id)
            return
        await self._remove(desired)

    @property
    def _driver(self) -> VolumeDriver:
        return self.actuators.shelves.driver(self.actuators.settings.state_dir, None, "")

    async def forget_keys(self, desired: Desired) -> None:
        """Have libvirtd forget what opens the volumes of a guest that has come, or does not come."""
        await hide_keys(self.actuators, desired.all_volumes)

    async def _remove(self, desired: Desired) -> None:
        await self.forget_keys(desired)
        await remove_instance(self.actuators, desired.instance_id, desired.all_ports)
        await remove_volumes(self.actuators, desired)

    async def serve(self, connection: Connection, hello: Hello, desired: Desired, sockets: Sockets) -> None:
        """Carry one connection of the source to its end.

        Raises:
            Denied: it asks for what it may not have.
            OSError: it broke.
        """
        if hello.channel is Channel.FILE:
            await self._receive(connection, hello, desired)
            return
        path = {
            Channel.CONTROL: libvirt_socket(self.actuators.settings.libvirt_uri),
            Channel.MEMORY: str(sockets.memory),
            Channel.DISKS: str(sockets.disks),
        }[hello.channel]
        if hello.channel is Channel.MEMORY:
            # QEMU is here and waits: its taps must be in their bridges before the guest says its first word.
            await self.plug(desired)
        async with asyncio.timeout(_CONNECT_SECONDS):
            own = await asyncio.open_unix_connection(path, limit=LIMIT)
        connection[1].write(b"ok\n")
        try:
            await relay(connection, own)
        finally:
            await close(own[1])

    async def _receive(self, connection: Connection, hello: Hello, desired: Desired) -> None:
        files = self.actuators.files(desired.instance_id)
        last_words = earlier(files.console_log)
        limits = {
            files.seed: _SMALL,
            files.nvram: _SMALL,
            files.console_log: _SMALL,
            last_words: _SMALL,
            files.root_disk: desired.root_disk + desired.root_disk // 8 + _SMALL,
            files.directory / DOMAIN_FILE: _SMALL,
        }
        tpm = tpm_state(desired.instance_id, desired.hardware)
        if tpm is not None:
            limits[tpm] = _SMALL
        volumes = {
            self.actuators.settings.state_dir / VOLUMES / f"{volume.volume_id}.{kind}": volume
            for volume in desired.volumes
            if not volume.shared
            for kind in ("raw", "qcow2")
        }
        for path, volume in volumes.items():
            size = (await place_of(self.actuators, desired, volume)).size
            limits[path] = size + size // 8 + _SMALL
        final, limit = next(((path, most) for path, most in limits.items() if path.name == hello.file), (None, -1))
        if final is None or not 0 <= hello.size <= limit:
            raise Denied(f"a file {hello.file!r} of {hello.size} bytes is not taken")
        # What the guest said before it came is told when it is here.
        if final != last_words and (await self.look(desired.instance_id)).runs:
            raise Denied(f"instance {desired.instance_id} runs here")
        await asyncio.to_thread(final.parent.mkdir, mode=0o711, parents=True, exist_ok=True)
        part = final.with_name(f".{final.name}.part")
        reader, writer = connection
        writer.write(b"ok\n")
        try:
            await _write(part, hello.size, reader)
            await asyncio.to_thread(publish, part, final)
        finally:
            part.unlink(missing_ok=True)
        if hello.file == DOMAIN_FILE:
            await self._define(final)
        if final in volumes and final.suffix == ".qcow2":
            await self._driver.adopt(volumes[final].volume_id, final)
        writer.write(b"ok\n")
        await writer.drain()

    async def _define(self, file: Path) -> None:
        xml = await asyncio.to_thread(file.read_text)
        await asyncio.to_thread(file.unlink)
        await self.actuators.hypervisor.call("define a migrated domain", lambda conn: _defined(conn, xml))


def _defined(conn: Any, xml: str) -> None:
    conn.defineXML(xml)


async def remove_volumes(actuators: Actuators, desired: Desired) -> None:
    """Remove what is here of an instance's volumes, each only if the API says now that it lies on another host.

    What is shared lies on no host.
    """
    for given in desired.all_volumes:
        if given.shared:
            continue
        body = await actuators.client.get(Volume, given.volume, desired.key[0])
        place = ((body or {}).get("spec") or {}).get("assignment") or {}
        if place.get("volumeID") == given.volume_id and place["host"] != actuators.settings.node_name:
            await actuators.shelves.driver(actuators.settings.state_dir, None, "").remove(given.volume_id)


async def _write(part: Path, size: int, reader: asyncio.StreamReader) -> None:
    """Write the pieces of a file; what lies between them stays a hole."""
    with part.open("wb") as file:
        await asyncio.to_thread(file.truncate, size)
        while (piece := parse_piece(await reader.readexactly(PIECE_BYTES))).length:
            if piece.offset + piece.length > size:
                raise Denied("a piece of the file lies beyond its end")
            await asyncio.to_thread(file.seek, piece.offset)
            await asyncio.to_thread(file.write, await reader.readexactly(piece.length))
