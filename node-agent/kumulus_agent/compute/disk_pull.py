"""Blocking verbs that have QEMU serve disks of a guest as they are at one moment; they raise libvirtError."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import libvirt

from kumulus_agent.compute.devices import disk_name
from kumulus_agent.compute.disk_backup import freeze, is_backing_up, thaw
from kumulus_agent.compute.disk_xml import encryption_of
from kumulus_agent.compute.elements import E, write


def begin_pull(domain: Any, disks: Mapping[str, Path], socket: Path, owed: Path) -> tuple[dict[str, str], bool]:
    """Have disks served on a socket by NBD, all as they are at this moment; the guest runs on.

    Args:
        domain: runs or is paused; no other copy of it goes on.
        disks: for the file of each a file that does not exist: it takes what the guest overwrites, encrypted as the
            disk is. libvirtd knows the keys of those that are.
        socket: that QEMU makes.
        owed: as of `kumulus_agent.compute.disk_backup.begin_backup`.

    Returns:
        The name of each disk's export by its file, and whether the file systems were frozen at the moment.
    """
    xml = str(domain.XMLDesc())
    names = {file: disk_name(xml, file) for file in disks}
    elements = [
        E.disk(E.scratch(*encryption_of(xml, file), file=str(scratch)), name=names[file], backup="yes", type="file")
        for file, scratch in disks.items()
    ]
    server = E.server(transport="unix", socket=str(socket))
    frozen = not owed.exists() and freeze(domain, owed)
    try:
        domain.backupBegin(write(E.domainbackup(server, E.disks(*elements), mode="pull")), None, 0)
    finally:
        thaw(domain, owed)
    return names, frozen


def end_pull(domain: Any) -> bool:
    """Have the disks of a guest served no more; give whether they still are, for a moment."""
    if is_backing_up(domain):
        domain.abortJob()
    return is_backing_up(domain)


def is_served(domain: Any) -> bool:
    """Give whether a copy of the guest's disks goes on, by whomever it was begun."""
    stats = domain.jobStats() if domain.isActive() else {}
    return bool(stats.get("type", libvirt.VIR_DOMAIN_JOB_NONE) != libvirt.VIR_DOMAIN_JOB_NONE)
