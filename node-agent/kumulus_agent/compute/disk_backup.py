"""Blocking verbs that copy a running guest's disk as it is at one moment; they raise libvirtError."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt
import structlog

from kumulus_agent.compute.devices import disk_name
from kumulus_agent.compute.elements import E, write
from kumulus_agent.compute.guest_agent import be_patient, is_answer

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Copied:
    """How a copy ended: whether it still goes on, and why it failed, if it did."""

    going_on: bool = False
    failure: str = ""


def begin_backup(domain: Any, source: str, path: str, owed: Path) -> bool:
    """Begin to copy a disk into a qcow2 file of its size; the copy is of this moment, the guest runs on.

    Args:
        domain: runs or is paused.
        source: the disk's file.
        path: the file for the copy.
        owed: is there from before the guest is asked to freeze its file systems until it has said that they go on:
            where it is left behind, also by an error, `thaw` is to be called until it is gone.

    Returns:
        Whether the file systems were frozen.
    """
    name = disk_name(str(domain.XMLDesc()), source)
    disk = E.disk(E.target(file=path), E.driver(type="qcow2"), name=name, backup="yes", type="file")
    xml = write(E.domainbackup(E.disks(disk), mode="push"))
    domain.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)  # read once, the end of an earlier job is forgotten
    frozen = not owed.exists() and freeze(domain, owed)
    try:
        domain.backupBegin(xml, None, libvirt.VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL)
    finally:
        thaw(domain, owed)
    return frozen


def look_at_backup(domain: Any) -> Copied:
    """Look how far a copy is."""
    if not domain.isActive():
        return Copied(failure="the guest went off before the copy was whole")
    if is_backing_up(domain):
        return Copied(going_on=True)
    stats = domain.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)
    if stats.get("type") == libvirt.VIR_DOMAIN_JOB_COMPLETED and _is_backup(stats):
        return Copied()
    return Copied(failure=str(stats.get("errmsg", "")) or "the job was ended before the copy was whole")


def is_backing_up(domain: Any) -> bool:
    """Give whether the job that goes on is a copy of ours."""
    if not domain.isActive():
        return False
    stats = domain.jobStats()
    return bool(stats.get("type", libvirt.VIR_DOMAIN_JOB_NONE) != libvirt.VIR_DOMAIN_JOB_NONE and _is_backup(stats))


def end_backup(domain: Any) -> None:
    """Give a copy up; none is success."""
    if is_backing_up(domain):
        domain.abortJob()


def thaw(domain: Any, owed: Path) -> bool:
    """Ask the guest to let its file systems go on, and remove `owed` if they do; give whether.

    Nothing of one that is off is frozen, nor of one that was started since, without `owed`. One whose memory is saved,
    that is paused or without an agent by now still has to.
    """
    if not owed.exists():
        return True
    if domain.isActive():
        try:
            be_patient(domain)
            domain.fsThaw()
        except libvirt.libvirtError as error:
            _log.warning("guest not thawed", domain=domain.name(), error=str(error))
            return False
    elif domain.hasManagedSaveImage():
        return False
    owed.unlink(missing_ok=True)
    return True


def freeze(domain: Any, owed: Path) -> bool:
    """Have a guest that runs freeze its file systems, if an agent in it answers; give whether it did.

    Args:
        domain: which.
        owed: as of `begin_backup`.
    """
    if domain.state()[0] != libvirt.VIR_DOMAIN_RUNNING or not _agent_answers(domain):
        return False
    owed.touch()
    try:
        return bool(domain.fsFreeze() > 0)
    except libvirt.libvirtError as error:
        _log.info("guest not frozen", domain=domain.name(), error=str(error))
        if is_answer(error):
            owed.unlink()  # QEMU's agent has then thawed what it had frozen
        return False


def _agent_answers(domain: Any) -> bool:
    """Ask for something harmless: a guest that says nothing to that is not told to stand still."""
    try:
        be_patient(domain)
        domain.getTime()
    except libvirt.libvirtError as error:
        return is_answer(error)
    return True


def _is_backup(stats: dict[str, Any]) -> bool:
    return bool(stats.get("operation") == libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP)
