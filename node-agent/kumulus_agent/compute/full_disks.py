"""Guests that stand still since the disk of their host is full."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import libvirt

from kumulus_agent.compute.elements import parse


def full_disks(domain: Any, xml: str) -> tuple[str, ...]:
    """Give the files whose disk had no room for a write, of a guest that stands still for an error of its disks.

    Blocks; raises libvirtError.

    Args:
        domain: the guest.
        xml: its definition as it is now.

    Returns:
        The files, sorted; none if there was any other error, after which the guest is not to go on by itself.
    """
    errors = domain.diskErrors()
    if not errors or set(errors.values()) != {libvirt.VIR_DOMAIN_DISK_ERROR_NO_SPACE}:
        return ()
    return tuple(sorted(files_of(xml, errors)))


def files_of(xml: str, names: Iterable[str]) -> set[str]:
    """Give the files of disks by the names that these have on their buses (pure)."""
    wanted = set(names)
    found = set()
    for disk in parse(xml).iterfind("devices/disk"):
        source, target = disk.find("source"), disk.find("target")
        if source is not None and target is not None and target.get("dev") in wanted and source.get("file"):
            found.add(str(source.get("file")))
    return found
