"""The guests that have volumes, as libvirt knows them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from kumulus_agent.compute.errors import InstanceNotFound
from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.compute.volume_disks import (
    VolumeHolder,
    go_on,
    holder_of,
    holder_of_root,
    holders_of,
    move_on,
    resize_disk,
    tune_disk,
)
from kumulus_agent.compute.volume_keys import hide_key, show_key
from kumulus_agent.images.thaws import Thaws
from kumulus_agent.servers.instance_files import instance_files
from kumulus_agent.volumes.drivers.keys import VolumeKey
from kumulus_api.volume_limits import AssignedLimits


@dataclass(frozen=True)
class VolumeGuests:
    """What is asked of guests for the sake of their volumes.

    Attributes:
        hypervisor: libvirtd.
        instances: folder of the instances.
        thaws: asks guests that may stand still to go on.
    """

    hypervisor: Hypervisor
    instances: Path
    thaws: Thaws

    async def holder(self, volume_id: str) -> VolumeHolder | None:
        """Give the guest that runs, is paused or saved with a volume; None if there is none here.

        Raises:
            HypervisorError: libvirtd does not answer.
        """
        asked = f"look for the guest with volume {volume_id}"
        found: VolumeHolder | None = await self.hypervisor.call(asked, lambda conn: holder_of(conn, volume_id))
        return found

    async def holders(self, volume_id: str) -> list[VolumeHolder]:
        """Give all guests here that run, are paused or saved with a volume.

        Raises:
            HypervisorError: libvirtd does not answer.
        """
        asked = f"look for the guests with volume {volume_id}"
        found: list[VolumeHolder] = await self.hypervisor.call(asked, lambda conn: holders_of(conn, volume_id))
        return found

    async def holder_of_root(self, instance_id: str) -> VolumeHolder | None:
        """Give a guest that runs, is paused or saved as the holder of its root disk; None if it is off, or not here.

        Raises:
            HypervisorError: libvirtd does not answer.
        """
        path = str(instance_files(self.instances, instance_id).root_disk)
        found: VolumeHolder | None = None
        with contextlib.suppress(InstanceNotFound):
            found = await self.hypervisor.call(
                f"look for instance {instance_id}",
                lambda conn: holder_of_root(conn.lookupByUUIDString(instance_id), path),
            )
        return found

    async def grow(self, holder: VolumeHolder, size: int) -> None:
        """Make the disk of a guest that runs, or is paused, larger.

        Raises:
            HypervisorError: it is refused.
        """
        asked = f"grow a volume of instance {holder.instance_id}"
        await self.hypervisor.call(
            asked, lambda conn: resize_disk(conn.lookupByUUIDString(holder.instance_id), holder.path, size)
        )

    async def go_on(self, holder: VolumeHolder) -> bool:
        """Let a guest go on that stands still because its volume gave an error; give whether it was so.

        Raises:
            HypervisorError: it is refused.
        """
        asked = f"let instance {holder.instance_id} go on"
        found: bool = await self.hypervisor.call(
            asked, lambda conn: go_on(conn.lookupByUUIDString(holder.instance_id), holder.path)
        )
        return found

    async def tune(self, instance_id: str, volume_id: str, limits: AssignedLimits | None) -> None:
        """Have a guest use a volume as fast as it may; one that is off, or not here, begins with what holds then.

        Raises:
            HypervisorError: it is refused.
        """
        with contextlib.suppress(InstanceNotFound):
            await self.hypervisor.call(
                f"limit volume {volume_id} of instance {instance_id}",
                lambda conn: tune_disk(conn.lookupByUUIDString(instance_id), volume_id, limits),
            )

    @asynccontextmanager
    async def keyed(self, volume_id: str, key: VolumeKey) -> AsyncIterator[None]:
        """Have libvirtd know the key of a volume for as long as something is asked of it.

        Raises:
            HypervisorError: it does not take it.
        """
        await self.hypervisor.call(f"open volume {volume_id}", lambda conn: show_key(conn, volume_id, key.content))
        try:
            yield
        finally:
            await self.hypervisor.call(f"forget the key of volume {volume_id}", lambda conn: hide_key(conn, volume_id))

    async def move_on(self, holder: VolumeHolder, layer: Path) -> bool:
        """Have a guest that runs, or is paused, write to a new layer; give whether its file systems were frozen.

        Raises:
            HypervisorError: it is refused, or nobody knows.
        """
        owed = instance_files(self.instances, str(UUID(holder.instance_id))).thaw_owed
        asked = f"take a snapshot of a volume of instance {holder.instance_id}"
        try:
            frozen: bool = await self.hypervisor.call(
                asked,
                lambda conn: move_on(conn.lookupByUUIDString(holder.instance_id), holder.path, str(layer), owed),
            )
        finally:
            if await asyncio.to_thread(owed.exists):
                self.thaws.begin(holder.instance_id, owed)
        return frozen
