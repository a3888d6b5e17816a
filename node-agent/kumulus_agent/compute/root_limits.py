"""How fast a guest may use its root disk, as its domain says it (pure)."""

from __future__ import annotations

from typing import Final

from kumulus_agent.compute.disk_xml import told_tune, tune_of
from kumulus_agent.compute.elements import Element, parse
from kumulus_api.volume_limits import AssignedLimits

ROOT_SERIAL: Final = "root-"
"""How the serial of a root disk begins, wherever it is: a guest under rescue has it as the second disk."""


def tune_items(limits: AssignedLimits | None) -> frozenset[tuple[str, int]]:
    """Give limits by libvirt's names, those that there are."""
    return frozenset((name, value) for name, value in tune_of(limits).items() if value)


def root_limits(xml: str) -> frozenset[tuple[str, int]] | None:
    """Give the limits of a domain's root disk by libvirt's names; None if it has none, but boots from a volume."""
    disk = root_of(xml)
    if disk is None:
        return None
    return frozenset((name, value) for name, value in told_tune(disk).items() if value)


def root_of(xml: str) -> Element | None:
    """Give the element of a domain's root disk; None if it boots from a volume."""
    disks = parse(xml).iterfind("devices/disk")
    return next((disk for disk in disks if (disk.findtext("serial") or "").startswith(ROOT_SERIAL)), None)
