"""The disks that servers' volumes are."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kumulus_agent.compute.domain_spec import Disk, Encryption
from kumulus_agent.compute.errors import HypervisorError
from kumulus_agent.compute.hypervisor import Hypervisor
from kumulus_agent.compute.volume_disks import tune_disk, tune_root
from kumulus_agent.compute.volume_keys import hide_key, show_key
from kumulus_agent.servers.desired import Desired, DesiredVolume
from kumulus_agent.servers.failing import failing_as
from kumulus_agent.storage.direct_io import cache_mode
from kumulus_agent.storage.errors import Retryable
from kumulus_agent.volumes.copying import arrived, settle_guest
from kumulus_agent.volumes.drivers.encrypted import layers_of
from kumulus_agent.volumes.drivers.keys import KeyMissing
from kumulus_agent.volumes.exports.distant import Distant
from kumulus_agent.volumes.multi_attach import have_shareable
from kumulus_agent.volumes.place import Place, read_place
from kumulus_agent.volumes.shelves import volume_image
from kumulus_api import Volume
from kumulus_api.server_status import ReadyReason, ServerConditionType
from kumulus_api.volume_limits import AssignedLimits

if TYPE_CHECKING:
    from kumulus_agent.servers.start import Actuators


async def volume_disk(actuators: Actuators, desired: Desired, volume: DesiredVolume) -> Disk:
    """Have the file of a volume, and give it as a disk whose place in the guest is to be chosen yet.

    Raises:
        StepFailed: it cannot be made, or its data is gone.
    """
    async with failing_as(ReadyReason.START_FAILED, ServerConditionType.VOLUMES_READY, "VolumeFailed"):
        if volume.exporter:
            return await _distant_disk(actuators, desired, volume)
        place = await place_of(actuators, desired, volume)
        if place.moving is not None:
            await settle_guest(actuators.hypervisor, desired.instance_id)
            place = await arrived(actuators.shelves, actuators.settings.state_dir, place)
        image_of = partial(volume_image, actuators.images)
        if place.multi_attach:
            host = actuators.settings.node_name
            found = await have_shareable(actuators.shelves, actuators.settings.state_dir, place, image_of, host)
        else:
            found = await actuators.shelves.have(actuators.settings.state_dir, place, image_of)
        cache = actuators.cache if place.folder is None else await asyncio.to_thread(cache_mode, place.folder)
        encryption = await _encryption(actuators, place, found.path) if place.encryption is not None else None
    return Disk(
        str(found.path),
        found.format,
        "",
        volume.volume_id[:20],
        readonly=volume.read_only,
        cache=cache,
        encryption=encryption,
        limits=place.limits,
        shareable=place.multi_attach,
    )


async def _encryption(actuators: Actuators, place: Place, path: Path) -> Encryption:
    """Have libvirtd know a volume's key; say how the volume is opened by it."""
    await _show(actuators, place)
    _, *below = await asyncio.to_thread(layers_of, path)
    return Encryption(place.volume_id, tuple(map(str, below)))


async def _show(actuators: Actuators, place: Place) -> None:
    driver = await actuators.shelves.opened(actuators.settings.state_dir, place)
    if driver.key is not None:
        show = partial(show_key, volume_id=place.volume_id, key=driver.key.content)
        await actuators.hypervisor.call(f"open volume {place.key[1]}", show)


async def tune_disks(actuators: Actuators, desired: Desired) -> None:
    """Have a guest that went on from its saved memory, with what held then, use its volumes as fast as it may now.

    Raises:
        StepFailed: it is refused.
    """
    async with failing_as(ReadyReason.START_FAILED, ServerConditionType.VOLUMES_READY, "VolumeFailed"):
        for volume in desired.volumes:
            limits = (await place_of(actuators, desired, volume)).limits
            tune = partial(_tune, instance_id=desired.instance_id, volume_id=volume.volume_id, limits=limits)
            await actuators.hypervisor.call(f"limit volume {volume.volume}", tune)
        await limit_root(actuators.hypervisor, desired)


async def limit_root(hypervisor: Hypervisor, desired: Desired) -> None:
    """Have a guest that runs use its root disk as fast as its flavor says; one that boots from a volume has none.

    Raises:
        HypervisorError: it is refused.
    """
    limits = desired.hardware.root_disk_limits
    await hypervisor.call(
        f"limit the root disk of instance {desired.instance_id}",
        lambda conn: tune_root(conn.lookupByUUIDString(desired.instance_id), limits),
    )


def _tune(conn: Any, instance_id: str, volume_id: str, limits: AssignedLimits | None) -> None:
    tune_disk(conn.lookupByUUIDString(instance_id), volume_id, limits)


async def show_keys(actuators: Actuators, desired: Desired) -> None:
    """Have libvirtd know the keys of an instance's volumes; what is not encrypted has none.

    Raises:
        StepFailed: a key cannot be had.
    """
    async with failing_as(ReadyReason.START_FAILED, ServerConditionType.VOLUMES_READY, "VolumeFailed"):
        for volume in desired.all_volumes:
            if volume.encrypted:
                await _show(actuators, await place_of(actuators, desired, volume))


async def hide_keys(actuators: Actuators, volumes: Iterable[DesiredVolume]) -> None:
    """Have libvirtd forget the keys of volumes: guests that run need them no more.

    What it does not forget now, it forgets with the next start, or when it ends.
    """
    for volume in volumes:
        if volume.encrypted:
            with contextlib.suppress(HypervisorError):
                hide = partial(hide_key, volume_id=volume.volume_id)
                await actuators.hypervisor.call(f"forget the key of volume {volume.volume}", hide)


async def _distant_disk(actuators: Actuators, desired: Desired, volume: DesiredVolume) -> Disk:
    if actuators.distant is None:
        raise Retryable(f"volume {volume.name} lies on host {volume.exporter}, to which there is no way from here")
    distant = Distant((desired.key[0], volume.volume), volume.volume_id, volume.exporter)
    socket = await actuators.distant.ensure(distant)
    return Disk(
        str(socket),
        "raw",
        "",
        volume.volume_id[:20],
        readonly=volume.read_only,
        cache="none",
        export=volume.volume_id,
        limits=(await place_of(actuators, desired, volume)).limits,
    )


async def place_of(actuators: Actuators, desired: Desired, volume: DesiredVolume) -> Place:
    """Read where a volume of an instance lies, and what it is made of.

    Raises:
        ApiError: the API cannot be asked.
        KeyMissing: it is encrypted, and its Volume is gone.
    """
    told = await actuators.client.get(Volume, volume.volume, desired.key[0])
    place = read_place(told) if told is not None else None
    if place is not None and place.volume_id == volume.volume_id:
        return place
    # The Volume is gone, or another has its name: what the server was given is all that is known.
    if volume.encrypted:
        raise KeyMissing(f"the Volume {volume.volume} is not there, and so its key cannot be had: restore it")
    if volume.multi_attach:
        raise Retryable(f"the Volume {volume.volume} is not there, and so not where its data is: restore it")
    return Place((desired.key[0], volume.volume), volume.volume_id, desired.host, volume.size)
