"""Blocking verbs that copy a running guest's disk as it is at one moment; they raise libvirtError."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import libvirt
import structlog
from lxml import etree

from kumulus_agent.compute.domain_xml import AGENT_CHANNEL
from kumulus_agent.compute.size_xml import E

_AGENT_SECONDS: Final = 10
_SILENT: Final = frozenset(
    getattr(libvirt, f"VIR_ERR_AGENT_{name}", None)  # a newer libvirt knows more of them
    for name in ("UNRESPONSIVE", "UNSYNCED", "COMMAND_TIMEOUT")
)
_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Begun:
    """How a copy began: whether the guest's file systems were frozen for it, and whether they may be so still."""

    frozen: bool = False
    stands: bool = False


@dataclass(frozen=True, slots=True)
class Copied:
    """How a copy ended: whether it still goes on, and why it failed, if it did."""

    going_on: bool = False
    failure: str = ""


def begin_backup(domain: Any, target: str, path: str) -> Begun:
    """Begin to copy a disk into a qcow2 file of its size; the copy is of this moment, the guest runs on.

    Args:
        domain: runs or is paused.
        target: the disk's name, such as `vda`.
        path: the file.

    Returns:
        How; a guest that stands still is to be thawed again and again, by `thaw`.
    """
    disk = E.disk(E.target(file=path), E.driver(type="qcow2"), name=target, backup="yes", type="file")
    xml = etree.tostring(E.domainbackup(E.disks(disk), mode="push"), encoding="unicode")
    domain.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)  # read once, the end of an earlier job is forgotten
    asked = domain.state()[0] == libvirt.VIR_DOMAIN_RUNNING and _agent_answers(domain)
    frozen = asked and _freeze(domain)
    try:
        domain.backupBegin(xml, None, libvirt.VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL)
    finally:
        # Also where the freeze has failed: the guest may have been too slow, rather than unwilling.
        stands = asked and not thaw(domain)
    return Begun(frozen, stands)


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


def thaw(domain: Any) -> bool:
    """Let the guest's file systems go on; give whether they do. Not frozen, off and without an agent are success."""
    if not domain.isActive() or not _agent_answers(domain):
        return True
    try:
        domain.fsThaw()
    except libvirt.libvirtError as error:
        _log.warning("guest not thawed", domain=domain.name(), error=str(error))
        return error.get_error_code() not in _SILENT  # what has answered knows better
    return True


def _freeze(domain: Any) -> bool:
    try:
        return bool(domain.fsFreeze() > 0)
    except libvirt.libvirtError as error:
        _log.info("guest not frozen", domain=domain.name(), error=str(error))
        return False


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
