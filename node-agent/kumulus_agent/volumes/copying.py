"""Brings a volume to another folder of this host while a guest writes to it.

::

    arriving ─▶ copied, each write in both ─▶ the guest stands still ─▶ its disk is the copy ─▶ noted ─▶ it goes on

Until it is noted the volume is what the guest has had: nothing was written to the copy alone, for the guest stands
still between QEMU's switch and the note. After it the copy is the volume. What a guest that is off, or another agent,
finds is decided by its definition and the note: see `settle_guest`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from kumulus_agent.compute.devices import volume_of
from kumulus_agent.compute.domains import resume
from kumulus_agent.compute.errors import InstanceNotFound
from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.compute.volume_copies import (
    DiskCopy,
    begin_copy,
    copy_of,
    end_copy,
    files_of,
    halt,
    stored_xml,
    switch_over,
)
from kumulus_agent.compute.volume_disks import VolumeHolder
from kumulus_agent.servers.desired import Desired
from kumulus_agent.storage.errors import Retryable
from kumulus_agent.storage.room import require_room
from kumulus_agent.volumes.drivers.arrivals import arriving, begin_arrival, end_arrival
from kumulus_agent.volumes.drivers.files import taken
from kumulus_agent.volumes.drivers.protocol import DataGone, Found
from kumulus_agent.volumes.moving import driver_at, former_layers
from kumulus_agent.volumes.place import VOLUMES, Elsewhere, Place
from kumulus_agent.volumes.shelves import Shelves
from kumulus_api.server import PowerState

WHOLE: Final = 100
_TABLES: Final = 2 << 20
"""Bytes that a copy takes beside what is in it."""
_AGAIN_SECONDS: Final = 30.0


class CopyEnded(Retryable):
    """The copy of a volume that a guest writes to ended before it was whole; the guest goes on where it was."""

    reason = "CopyEnded"


class ElsewhereThanThought(Retryable):
    """A guest has a file of the volume that is neither the one nor the other."""

    reason = "VolumeElsewhere"


def may_copy(desired: Desired | None, volume_id: str) -> bool:
    """Say whether a volume may be copied as its guest runs: it keeps the volume, does not migrate, nor is suspended."""
    if desired is None or desired.deleting or desired.target or volume_id in desired.leaving:
        return False
    return desired.running or desired.rescue is not None or desired.rest is not PowerState.SUSPENDED


@dataclass(frozen=True)
class Copying:
    """Copies volumes that guests write to.

    Attributes:
        hypervisor: libvirtd.
        state_dir: of the agent.
        shelves: where volumes lie.
    """

    hypervisor: Hypervisor
    state_dir: Path
    shelves: Shelves

    async def further(self, place: Place, there: Elsewhere, holder: VolumeHolder, *, wanted: bool) -> int:
        """Do what is next of the move of a volume that a guest has, as a live read has told it; the volume is held.

        Args:
            place: where it lies.
            there: where it goes.
            holder: the guest, which runs or is paused.
            wanted: it may be copied now; else what was begun is given up, unless the guest writes there already.

        Returns:
            Percent; 100 when it lies there.

        Raises:
            StorageError, HypervisorError, OSError: it does not go on now.
        """
        volume_id, root, driver = (
            place.volume_id,
            self.root(there.folder),
            driver_at(self.shelves, self.state_dir, there),
        )
        if await driver.look(volume_id) is not None:
            return WHOLE
        layer = await asyncio.to_thread(arriving, root, volume_id)
        if layer is not None and holder.path == str(layer):
            await end_arrival(root, volume_id)
            return WHOLE
        copy = await self._ask(holder, "look at the copy of a volume", lambda domain: copy_of(domain, holder.path))
        ours = copy is not None and layer is not None and copy.target == str(layer)
        if copy is None and layer is not None:
            await driver.remove(volume_id)
            if wanted:
                raise CopyEnded(
                    f"the copy of volume {place.key[1]} in class {there.volume_class} ended before it was whole, with "
                    f"the guest or for an error of the storage there; transient: again in {_AGAIN_SECONDS:.0f} s",
                    delay=_AGAIN_SECONDS,
                )
        if copy is not None and not (ours and wanted):
            await self._ask(holder, "give the copy of a volume up", lambda domain: end_copy(domain, holder.path))
        if not wanted:
            await driver.remove(volume_id)
            return 0
        if not ours or copy is None:
            await self._begin(place, there, holder)
            return 0
        return await self._switch(holder, copy, root, volume_id) if copy.ready else copy.progress

    def root(self, folder: Path | None) -> Path:
        """Give the folder of the volumes of a share; None is the host's own."""
        return (folder or self.state_dir) / VOLUMES

    async def _begin(self, place: Place, there: Elsewhere, holder: VolumeHolder) -> None:
        volume_id, driver = place.volume_id, driver_at(self.shelves, self.state_dir, there)
        found = await self.shelves.driver(self.state_dir, place.folder, place.volume_class).look(volume_id)
        if found is None or holder.path != str(found.path):
            said = found.path if found is not None else "nothing"
            raise ElsewhereThanThought(f"the guest writes to {holder.path}, the volume's record names {said}")
        await self._require_room(found, self.root(there.folder))
        await driver.remove(volume_id)
        try:
            layer = await begin_arrival(self.root(there.folder), volume_id, found.size)
        except DataGone as error:
            raise former_layers(place, there) from error
        try:
            await self._ask(holder, "copy a volume", lambda domain: begin_copy(domain, holder.path, str(layer)))
        except BaseException:
            if await self._ask(holder, "look for the copy", lambda domain: copy_of(domain, holder.path)) is None:
                await driver.remove(volume_id)
            raise

    async def _require_room(self, found: Found, root: Path) -> None:
        needed = await asyncio.to_thread(taken, found.path, found.format)
        await require_room(root, needed + _TABLES, "the copy of a volume in use")

    async def _switch(self, holder: VolumeHolder, copy: DiskCopy, root: Path, volume_id: str) -> int:
        """Have the guest stand still, be on the copy, and go on when that is noted.

        Where this ends early the guest stands still: whoever lets it go on settles it before.
        """
        ran = await self._ask(holder, "have a guest stand still for its volume", halt)
        await self._ask(holder, "switch a volume", lambda domain: switch_over(domain, copy.path))
        await end_arrival(root, volume_id)
        if ran:
            await self._ask(holder, "let a guest go on", resume)
        return WHOLE

    async def _ask(self, holder: VolumeHolder, what: str, verb: Callable[[Any], Any]) -> Any:
        asked = f"{what} of instance {holder.instance_id}"
        return await self.hypervisor.call(asked, lambda conn: verb(conn.lookupByUUIDString(holder.instance_id)))


async def settle_guest(hypervisor: Hypervisor, instance_id: str) -> None:
    """Note of a guest's volumes that they lie where it has them; before it goes on, or starts. They are held.

    What a definition names was whole when it came to be named there.

    Raises:
        HypervisorError, StorageError, OSError: it cannot be told or noted.
    """

    def look(conn: Any) -> frozenset[str]:
        domain = conn.lookupByUUIDString(instance_id)
        return files_of(str(domain.XMLDesc()) if domain.isActive() else stored_xml(domain))

    try:
        files: frozenset[str] = await hypervisor.call(f"look at the volumes of instance {instance_id}", look)
    except InstanceNotFound:
        return
    for file in sorted(files):
        path, volume_id = Path(file), volume_of(file)
        root = path.parent.parent
        if not volume_id or path.parent.name != volume_id:
            continue
        if await asyncio.to_thread(arriving, root, volume_id) == path:
            await end_arrival(root, volume_id)


async def arrived(shelves: Shelves, state_dir: Path, place: Place) -> Place:
    """Give the place where a volume lies: the one where it goes once it is whole there. It is held.

    Raises:
        StorageError, OSError: it cannot be looked at.
    """
    there = place.moving
    if there is None or await driver_at(shelves, state_dir, there).look(place.volume_id) is None:
        return place
    return replace(place, folder=there.folder, volume_class=there.volume_class, moving=None)
