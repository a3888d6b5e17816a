"""A folder, or a file system, that hosts of the lab mount where the agents look for a share."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kumulus_api import VolumeClass
from kumulus_lab import commands
from kumulus_lab.host_plan import CONTAINERD_SOCKET
from kumulus_lab.hosts import Hosts
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing.cloud import Cloud
from kumulus_lab.testing.small_disk import SmallDisk, make_file_system, mounted

_BOOT_SECONDS: Final = 60
PROOF: Final = "kumulus-volume-class"
"""The file by which a share says whose it is."""


@dataclass(frozen=True)
class Share:
    """What hosts mount at one folder, and the class of the volumes in it.

    Attributes:
        lab: whose hosts.
        volume_class: its name.
        path: where this machine sees what is shared.
        source: what `mount` is told on hosts.
    """

    lab: LabSettings
    volume_class: str
    path: Path
    source: Sequence[str]

    @property
    def folder(self) -> str:
        """Where hosts have it."""
        return f"/var/lib/kumulus/shares/{self.volume_class}"

    def mount(self, host: str) -> None:
        """Mount it on a host, as its fstab would, once its own folders are mounted; a host without power forgets it."""
        commands.wait_until(
            lambda: Hosts(self.lab).run(host, ["test", "-S", CONTAINERD_SOCKET]).returncode == 0,
            what=f"the services of {host}",
            limit=_BOOT_SECONDS,
        )
        Hosts(self.lab).run(host, ["mkdir", "-p", self.folder], check=True)
        Hosts(self.lab).run(host, ["mount", *self.source, self.folder], check=True)

    def unmount(self, host: str) -> None:
        """Take it from a host that may have it."""
        Hosts(self.lab).run(host, ["umount", "--lazy", self.folder])
        Hosts(self.lab).run(host, ["rmdir", self.folder])


@asynccontextmanager
async def shared_folder(cloud: Cloud, lab: LabSettings, name: str) -> AsyncIterator[Share]:
    """Have a folder of this machine mounted on all hosts, and a class of it."""
    async with mounted_folder(lab, name) as share, _class_of(cloud, share):
        yield share


@asynccontextmanager
async def mounted_folder(lab: LabSettings, name: str) -> AsyncIterator[Share]:
    """Have a folder of this machine mounted on all hosts, for a class that is made otherwise."""
    path = lab.state / "shares" / name
    path.mkdir(parents=True)
    try:
        share = Share(lab, name, path, ("--bind", str(path)))
        async with _on_hosts(share):
            yield share
    finally:
        shutil.rmtree(path)


@asynccontextmanager
async def shared_disk(cloud: Cloud, lab: LabSettings, name: str, size: int) -> AsyncIterator[tuple[Share, SmallDisk]]:
    """Have a file system of so many bytes mounted on all hosts, and a class of it."""
    folder = lab.state / "shares" / name
    folder.mkdir(parents=True)
    try:
        make_file_system(folder / "disk.img", size)
        with mounted(folder / "disk.img", folder / "disk") as disk:
            share = Share(lab, name, disk.path, ("-t", "ext4", disk.device))
            async with _on_hosts(share), _class_of(cloud, share):
                yield share, disk
    finally:
        shutil.rmtree(folder)


@asynccontextmanager
async def _on_hosts(share: Share) -> AsyncIterator[None]:
    hosts = [host.name for host in share.lab.host_specs]
    (share.path / PROOF).write_text(f"{share.volume_class}\n")
    try:
        await asyncio.gather(*(asyncio.to_thread(share.mount, host) for host in hosts))
        yield
    finally:
        await asyncio.gather(*(asyncio.to_thread(share.unmount, host) for host in hosts))


@asynccontextmanager
async def _class_of(cloud: Cloud, share: Share) -> AsyncIterator[None]:
    await cloud.make(VolumeClass, share.volume_class, {"driver": "Shared", "shared": {"folder": share.folder}})
    try:
        yield
    finally:
        await cloud.client.delete(VolumeClass, share.volume_class)
