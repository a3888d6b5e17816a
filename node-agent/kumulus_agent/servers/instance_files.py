"""The directory of an instance: root disk, seed, console log, and a record of the ports it was started with."""

from __future__ import annotations

import asyncio
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

from kumulus_agent.network.state import Rates
from kumulus_agent.servers.desired import DesiredPort, Key, NetworkKey
from kumulus_agent.storage.atomic import write_file
from kumulus_api.security_group import DEFAULT_GROUP

THAW_OWED: Final = "thaw-owed"


@dataclass(frozen=True, slots=True)
class InstanceFiles:
    """Paths of one instance's files."""

    directory: Path

    @property
    def root_disk(self) -> Path:
        """The overlay over the image."""
        return self.directory / "root.qcow2"

    @property
    def seed(self) -> Path:
        """What cloud-init reads."""
        return self.directory / "seed.iso"

    @property
    def config_drive(self) -> Path:
        """The same in OpenStack's form."""
        return self.directory / "config-drive.iso"

    @property
    def nvram(self) -> Path:
        """UEFI's variables."""
        return self.directory / "nvram.fd"

    @property
    def console_log(self) -> Path:
        """The serial console, bounded by virtlogd."""
        return self.directory / "console.log"

    @property
    def journal(self) -> Path:
        """What was done for which ServerAction."""
        return self.directory / "actions.json"

    def rescue_disk(self, rescue: str) -> Path:
        """The overlay over the image of a rescue."""
        return self.directory / f"rescue-{UUID(rescue)}.qcow2"

    def snapshot(self, action: str) -> Path:
        """The copy of the root disk that is being made for a ServerAction."""
        return self.directory / f"snapshot-{UUID(action)}.part"

    @property
    def thaw_owed(self) -> Path:
        """Is there while the guest's file systems may be frozen for a copy."""
        return self.directory / THAW_OWED

    @property
    def serial_socket(self) -> Path:
        """Where QEMU offers the serial console while the guest runs."""
        return self.directory / "serial.sock"

    @property
    def record(self) -> Path:
        """Whose the instance is and its ports: a guest that no Server claims any more keeps its network."""
        return self.directory / "instance.json"

    def exist(self) -> bool:
        """Say whether anything of the instance is on the disk."""
        return self.directory.exists()

    async def write_record(self, key: Key, ports: tuple[DesiredPort, ...]) -> None:
        """Record the Server's namespace and name, and the ports."""
        document = json.dumps({"key": key, "ports": [asdict(port) for port in ports]}).encode()
        await asyncio.to_thread(write_file, self.record, document)

    async def read_record(self) -> tuple[Key, tuple[DesiredPort, ...]] | None:
        """Give what was recorded; None if there is no readable record."""
        try:
            document = json.loads(await asyncio.to_thread(self.record.read_bytes))
            namespace, name = document["key"]
            return (str(namespace), str(name)), tuple(_port(item, str(namespace)) for item in document["ports"])
        except (OSError, ValueError, TypeError, KeyError):
            return None

    async def drop_rescue_disks(self, kept: str) -> None:
        """Remove the disks of former rescues; absent is success.

        Args:
            kept: id of the rescue that is under way, or empty.
        """

        def drop() -> None:
            for disk in self.directory.glob("rescue-*.qcow2"):
                if not kept or disk != self.rescue_disk(kept):
                    disk.unlink(missing_ok=True)

        await asyncio.to_thread(drop)

    async def remove(self) -> None:
        """Remove the directory with all that is in it; absent is success."""
        await asyncio.to_thread(_remove, self.directory)


def instance_files(instances: Path, instance_id: str) -> InstanceFiles:
    """Give the paths of an instance.

    Raises:
        ValueError: the id is no UUID, so it could lead elsewhere.
    """
    return InstanceFiles(instances / str(UUID(instance_id)))


def _port(item: dict[str, object], namespace: str) -> DesiredPort:
    fields = {"namespace": namespace} | item
    # Recorded before ports had groups: the one that they are in without being told.
    groups = fields.pop("groups", [[namespace, DEFAULT_GROUP]])
    rates = fields.pop("rates", None)
    network = fields.pop("network")
    addresses = fields.pop("addresses")
    if not isinstance(network, dict) or not isinstance(addresses, list) or not isinstance(groups, list):
        raise TypeError("a record of ports holds no network, addresses or groups")
    keys = tuple((str(place), str(name)) for place, name in groups)
    given = Rates(**rates) if isinstance(rates, dict) else None
    return DesiredPort(network=NetworkKey(**network), addresses=tuple(addresses), groups=keys, rates=given, **fields)  # type: ignore[arg-type]


def _remove(directory: Path) -> None:
    try:
        shutil.rmtree(directory)
    except FileNotFoundError:
        if directory.exists():
            raise
