"""Blocking verbs that copy the disk of a guest that goes on writing, and put it on the copy; they raise libvirtError.

The copy is QEMU's mirror, which sends every write of the guest to both files; libvirt calls it a block copy.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import libvirt

from kumulus_agent.compute.elements import E, Element, parse, write


@dataclass(frozen=True, slots=True)
class DiskCopy:
    """A copy of a guest's disk that is being made.

    Attributes:
        path: the file that the guest has.
        target: the file that it is copied into.
        ready: all is in both files, and so is each write that the guest is told of.
        progress: percent; below 100 until it is ready.
    """

    path: str
    target: str
    ready: bool
    progress: int


def copy_of(domain: Any, path: str) -> DiskCopy | None:
    """Give the copy that is made of a domain's disk on a file; None if there is none."""
    disk = _disk(str(domain.XMLDesc()), path)
    mirror = disk.find("mirror") if disk is not None else None
    if disk is None or mirror is None:
        return None
    source = mirror.find("source")
    target = str((source.get("file") if source is not None else None) or mirror.get("file") or "")
    ready = mirror.get("ready") == "yes"
    info = domain.blockJobInfo(_name(disk)) or {}
    whole = int(info.get("end", 0))
    progress = min(99, 100 * int(info.get("cur", 0)) // whole) if whole else 0
    return DiskCopy(path, target, ready, 100 if ready else progress)


def begin_copy(domain: Any, path: str, target: str) -> None:
    """Begin to copy a domain's disk on a file, with all that this lies on, into an empty qcow2 file of its size."""
    disk = _disk(str(domain.XMLDesc()), path)
    xml = write(E.disk(E.driver(name="qemu", type="qcow2"), E.source(file=target), type="file"))
    flags = (
        libvirt.VIR_DOMAIN_BLOCK_COPY_REUSE_EXT
        # It ends with the guest: what is written is in the first file until the switch.
        | libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB
        # A guest that writes faster than is copied would never be done.
        | libvirt.VIR_DOMAIN_BLOCK_COPY_SYNCHRONOUS_WRITES
    )
    domain.blockCopy(_name(disk) if disk is not None else path, xml, None, flags)


def switch_over(domain: Any, path: str) -> None:
    """Put a domain's disk on its copy, which is ready, in its definition too: QEMU has flushed the copy by then."""
    disk = _disk(str(domain.XMLDesc()), path)
    if disk is not None:
        domain.blockJobAbort(_name(disk), libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)


def end_copy(domain: Any, path: str) -> None:
    """Give a copy up: the disk stays on its file; none is success."""
    disk = _disk(str(domain.XMLDesc()), path)
    if disk is not None:
        end_copies(domain, [disk])


def end_copies(domain: Any, disks: Iterable[Element]) -> None:
    """Give the copies of some of a domain's disks up: with one, a disk does not leave and no memory is saved."""
    for disk in disks:
        if disk.find("mirror") is not None:
            domain.blockJobAbort(_name(disk))


def halt(domain: Any) -> bool:
    """Have a domain stand still; give whether it ran."""
    if domain.state()[0] != libvirt.VIR_DOMAIN_RUNNING:
        return False
    domain.suspend()
    return True


def stored_xml(domain: Any) -> str:
    """Give the definition that a domain starts with; an empty one if it is not kept."""
    return str(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)) if domain.isPersistent() else "<domain/>"


def files_of(xml: str) -> frozenset[str]:
    """Give the files of a domain's disks."""
    sources = parse(xml).iterfind("devices/disk/source")
    return frozenset(str(source.get("file")) for source in sources if source.get("file"))


def _disk(xml: str, path: str) -> Element | None:
    disks = parse(xml).iterfind("devices/disk")
    return next((disk for disk in disks for source in disk.findall("source") if source.get("file") == path), None)


def _name(disk: Element) -> str:
    target = disk.find("target")
    return str(target.get("dev")) if target is not None else ""
