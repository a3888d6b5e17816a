"""Blocking verbs on volumes, and root disks, that guests have; they raise libvirtError."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt

from kumulus_agent.compute.devices import volume_of
from kumulus_agent.compute.devices_xml import file_of
from kumulus_agent.compute.disk_backup import freeze, thaw
from kumulus_agent.compute.disk_xml import encryption_of, told_tune, tune_of
from kumulus_agent.compute.elements import E, parse, write
from kumulus_agent.compute.root_limits import root_of
from kumulus_api.volume_limits import AssignedLimits


@dataclass(frozen=True, slots=True)
class VolumeHolder:
    """A guest that has a volume.

    Attributes:
        instance_id: of the guest.
        path: the file that it writes to.
        saved: its memory is saved, with which it goes on on that file; else it runs, or is paused.
    """

    instance_id: str
    path: str
    saved: bool


def holder_of(conn: Any, volume_id: str) -> VolumeHolder | None:
    """Give a guest that runs, is paused or saved with a volume; None if there is none."""
    return next(_holders(conn, volume_id), None)


def holders_of(conn: Any, volume_id: str) -> list[VolumeHolder]:
    """Give all such guests: there may be several of a volume that is for several servers."""
    return list(_holders(conn, volume_id))


def _holders(conn: Any, volume_id: str) -> Iterator[VolumeHolder]:
    for domain in conn.listAllDomains():
        active = bool(domain.isActive())
        if not active and not domain.hasManagedSaveImage():
            continue
        for file in _files(str(domain.XMLDesc())).values():
            if volume_of(file) == volume_id:
                yield VolumeHolder(domain.UUIDString(), file, saved=not active)
                break


def holder_of_root(domain: Any, path: str) -> VolumeHolder | None:
    """Give a guest that runs, is paused or saved as the holder of its root disk; None if it is off.

    Args:
        domain: which.
        path: the file of its root disk.
    """
    active = bool(domain.isActive())
    if not active and not domain.hasManagedSaveImage():
        return None
    return VolumeHolder(domain.UUIDString(), path, saved=not active)


def resize_disk(domain: Any, path: str, size: int) -> None:
    """Make the disk on a file larger, and have the guest see it; as large already is success."""
    # By its name on the bus: one that comes from another host has no path here.
    name = next((name for name, file in _files(str(domain.XMLDesc())).items() if file == path), path)
    if int(domain.blockInfo(name)[0]) < size:
        domain.blockResize(name, size, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)


def go_on(domain: Any, path: str) -> bool:
    """Let a guest go on that stands still because the disk on a file gave an error; give whether it was so."""
    if tuple(domain.state()) != (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR):
        return False
    failed = domain.diskErrors()
    if all(file != path for name, file in _files(str(domain.XMLDesc())).items() if name in failed):
        return False  # Another one did: that of its host may be full.
    domain.resume()
    return True


def tune_disk(domain: Any, volume_id: str, limits: AssignedLimits | None) -> None:
    """Have the guest use a volume as fast as it may, from now on; a guest that is off begins with what holds then."""
    if not domain.isActive():
        return
    wanted = tune_of(limits)
    for disk in parse(str(domain.XMLDesc())).iterfind("devices/disk"):
        target = disk.find("target")
        if target is None or volume_of(file_of(disk) or "/") != volume_id:
            continue
        if told_tune(disk) != wanted:
            stored = libvirt.VIR_DOMAIN_AFFECT_CONFIG if domain.isPersistent() else 0
            # What is left out stays as it was.
            domain.setBlockIoTune(str(target.get("dev")), wanted, libvirt.VIR_DOMAIN_AFFECT_LIVE | stored)


def tune_root(domain: Any, limits: AssignedLimits | None) -> None:
    """Have a guest that runs use its root disk as fast as it may, and so it begins next time."""
    disk = root_of(str(domain.XMLDesc()))
    target = disk.find("target") if disk is not None else None
    if target is not None and domain.isActive():
        stored = libvirt.VIR_DOMAIN_AFFECT_CONFIG if domain.isPersistent() else 0
        domain.setBlockIoTune(str(target.get("dev")), tune_of(limits), libvirt.VIR_DOMAIN_AFFECT_LIVE | stored)


def move_on(domain: Any, path: str, layer: str, owed: Path) -> bool:
    """Have a guest write to a new layer from a moment on; what it wrote before stays in the file below.

    Args:
        domain: runs or is paused.
        path: the file that it writes to.
        layer: an empty qcow2 file that lies on it.
        owed: as of `kumulus_agent.compute.disk_backup.begin_backup`.

    Returns:
        Whether the guest's file systems were frozen at that moment.
    """
    xml = str(domain.XMLDesc())
    disks, locks = _files(xml), encryption_of(xml, path)
    elements = [
        E.disk(E.driver(type="qcow2"), E.source(*locks, file=layer), name=name, snapshot="external", type="file")
        if file == path
        else E.disk(name=name, snapshot="no")
        for name, file in disks.items()
    ]
    flags = (
        libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
        | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
        | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT
        | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
    )
    frozen = not owed.exists() and freeze(domain, owed)
    try:
        domain.snapshotCreateXML(write(E.domainsnapshot(E.disks(*elements))), flags)
    finally:
        thaw(domain, owed)
    return frozen


def _files(xml: str) -> dict[str, str]:
    """Give the files of a domain's disks by the names that they have on their buses."""
    found = {}
    for disk in parse(xml).iterfind("devices/disk"):
        target = disk.find("target")
        if target is not None:
            found[str(target.get("dev"))] = file_of(disk)
    return found
