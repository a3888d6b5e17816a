"""Blocking verbs that copy a running guest's disk as it is at one moment; they raise libvirtError."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import libvirt
import structlog
from lxml import etree

from kumulus_agent.compute.domain_xml import AGENT_CHANNEL, E

_AGENT_SECONDS: Final = 5
_THAW_ATTEMPTS: Final = 3
_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Copied:
    """How a copy ended: whether it still goes on, and why it failed, if it did."""

    going_on: bool = False
    failure: str = ""


def begin_backup(domain: Any, target: str, path: str) -> bool:
    """Begin to copy a disk into a qcow2 file of its size; the copy is of this moment, the guest runs on.

    Args:
        domain: runs or is paused.
        target: the disk's name, such as `vda`.
        path: the file.

    Returns:
        Whether the guest's file systems were frozen at that moment, by its agent.
    """
    disk = E.disk(E.target(file=path), E.driver(type="qcow2"), name=target, backup="yes", type="file")
    xml = etree.tostring(E.domainbackup(E.disks(disk), mode="push"), encoding="unicode")
    domain.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)  # read once, the end of an earlier job is forgotten
    with _frozen(domain) as frozen:
        domain.backupBegin(xml, None, libvirt.VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL)
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
    """Give a copy up, and let a guest go on that was left frozen; none, and a guest that is off, are success."""
    if not domain.isActive():
        return
    thaw(domain)
    if is_backing_up(domain):
        domain.abortJob()


def thaw(domain: Any) -> None:
    """Let the guest's file systems go on, if its agent answers; not frozen is success.

    A guest whose agent has gone mad in between is left alone: nothing else could thaw it, and others must not wait.
    """
    if not _agent_answers(domain):
        return
    for _ in range(_THAW_ATTEMPTS):
        try:
            domain.fsThaw()
        except libvirt.libvirtError as error:
            _log.warning("guest not thawed", domain=domain.name(), error=str(error))
        else:
            return


@contextlib.contextmanager
def _frozen(domain: Any) -> Iterator[bool]:
    """Freeze the guest's file systems, if it runs and has an agent that does it; what it refuses goes on unfrozen."""
    frozen = False
    if domain.state()[0] == libvirt.VIR_DOMAIN_RUNNING and _agent_answers(domain):
        try:
            frozen = domain.fsFreeze() > 0
        except libvirt.libvirtError:
            thaw(domain)  # it may have been too slow, rather than unwilling
    try:
        yield frozen
    finally:
        if frozen:
            thaw(domain)


def _agent_answers(domain: Any) -> bool:
    root = etree.fromstring(domain.XMLDesc().encode())
    found = root.find(f"devices/channel/target[@name='{AGENT_CHANNEL}']")
    if found is None or found.get("state") != "connected":
        return False
    # libvirt's own patience has no end. A guest that is slow to freeze would stand still for long.
    domain.agentSetResponseTimeout(_AGENT_SECONDS, 0)
    return True


def _is_backup(stats: dict[str, Any]) -> bool:
    return bool(stats.get("operation") == libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP)
